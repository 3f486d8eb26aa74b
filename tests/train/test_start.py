"""What a run starts from: a teacher, another run's weights, statistics of the training images."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.data import train_batches
from mbu_jax.data.augment import NO_AUGMENTATION
from mbu_jax.errors import InputError
from mbu_jax.train import loop
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.config import ModelOptions
from mbu_jax.train.loop import Trainer
from mbu_jax.train.optimizer import OptimizerOptions
from mbu_jax.train.quantized_start import quantized_start
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.subset import FirstImages
from mbu_jax.unet import UNetConfig
from tests.train.stand_ins import DATA, TINY, Evaluator, Interrupted, digest, saved, tiny


def test_the_teacher_is_a_run(tmp_path, updates):
    trainer = Trainer(tiny(tmp_path / "teacher"))
    trainer.fit()
    options = dataclasses.replace(TINY.loss, teacher=tmp_path / "teacher")
    config = tiny(tmp_path / "student", loss=options)
    teacher, step = Trainer(config)._load_teacher()
    assert step == 5
    assert teacher is not None
    params, stats, thresholds = jax.device_get(teacher.weights)
    assert params["head"]["bias"] == 5  # of the best checkpoint
    expected = teacher.network.fold(params, stats)
    for ours, theirs in zip(jax.tree.leaves(thresholds), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for leaf in jax.tree.leaves(teacher.weights):
        assert len(leaf.sharding.device_set) == 2
    before = (tmp_path / "student/config.json").read_text()
    Trainer(tiny(tmp_path / "teacher2", epochs=3)).fit()
    (tmp_path / "teacher").rename(tmp_path / "earlier")
    (tmp_path / "teacher2").rename(tmp_path / "teacher")
    with pytest.raises(InputError, match="teacher_step is 5 there and 8 here"):
        Trainer(config)
    assert (tmp_path / "student/config.json").read_text() == before


def test_a_run_can_start_from_another(tmp_path, updates):
    first = Trainer(tiny(tmp_path / "binary", model=ModelOptions(network="binary", width=4)))
    first.fit()
    _, params, stats, _ = load_run(tmp_path / "binary")
    masked = ModelOptions(network="all_masked", ternarizer="density", width=4)
    config = tiny(tmp_path / "masked", initial=tmp_path / "binary", model=masked)
    trainer = Trainer(config)
    for ours, theirs in (trainer.state.params, params), (trainer.state.stats, stats):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))
    assert set(trainer.network.config.precisions) == {"masked"}
    updates.stop_at = 5
    with pytest.raises(Interrupted):
        trainer.fit()
    updates.stop_at = None
    (tmp_path / "binary").rename(tmp_path / "elsewhere")  # no longer needed
    resumed = Trainer(config)
    resumed.fit()
    # The five updates of the first run, then three of this one before the end of its epoch, two
    # after it: what is resumed does not start again.
    assert float(jax.device_get(resumed.state.params["head"]["bias"])[0]) == 5 + 5


@pytest.mark.parametrize("option", ["initial", "teacher"])
@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "does not exist; give the directory of a run"),
        ({}, "has no entry 'unet'; restore it or train again"),
        ({"unet": UNetConfig(width=4).to_dict()}, "holds no checkpoint yet; train it first"),
    ],
)
def test_what_is_no_run_to_start_from_ends_all_processes(
    tmp_path, updates, monkeypatch, option, config, said
):
    """Where it is loaded, those that find it would wait for those that do not."""
    stages = []

    @contextlib.contextmanager
    def failing_together(stage: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            stages.append(stage)
            raise

    monkeypatch.setattr(loop, "failing_together", failing_together)
    other = tmp_path / "other"
    if config is not None:
        RunDirectory(other).create_or_resume(config)
    options = {"initial": other}
    if option == "teacher":
        options = {"loss": dataclasses.replace(TINY.loss, teacher=other)}
    with pytest.raises(InputError, match=said):
        Trainer(tiny(tmp_path / "run", **options))
    assert stages == ["data"]
    assert not (tmp_path / "run").exists()


def test_no_epochs_score_the_initial_weights(tmp_path, updates):
    Trainer(tiny(tmp_path / "binary", model=ModelOptions(network="binary", width=4))).fit()
    before = len(updates.batches)
    config = tiny(
        tmp_path / "pruned",
        initial=tmp_path / "binary",
        epochs=0,
        model=ModelOptions(network="all_masked", ternarizer="density", width=4),
        optimizer=OptimizerOptions(warmup_steps=3),
    )
    scores = Trainer(config).fit()
    assert (len(updates.batches), saved(tmp_path / "pruned")) == (before, [0])
    assert scores["dice"] == pytest.approx(2 * 5 / (2 * 5 + 2))  # after the other's five updates
    assert json.loads((tmp_path / "pruned/eval.json").read_text())["step"] == 0
    network, params, _, step = load_run(tmp_path / "pruned")
    assert (set(network.config.precisions), step) == ({"masked"}, 0)
    assert np.asarray(params["head"]["bias"])[0] == 5
    assert Trainer(config).fit() == scores


@pytest.mark.parametrize(
    ("network", "width", "said"),
    [
        (
            "binary",
            8,
            r"conv1.weight is \[3, 3, 4, 8\] there and \[3, 3, 8, 16\] here; .*; and 108 more",
        ),
        ("full_precision", 4, r"up_ct1.bias is absent there and \[32\] here"),
        ("ttq", 4, r"down_c1.conv1.scales is absent there and \[2\] here"),
    ],
)
def test_initial_weights_that_do_not_fit_are_named(tmp_path, updates, network, width, said):
    Trainer(tiny(tmp_path / "masked")).fit()
    other = ModelOptions(network=network, width=width)
    config = tiny(tmp_path / "other", initial=tmp_path / "masked", model=other)
    with pytest.raises(InputError, match=said) as caught:
        Trainer(config)
    assert str(caught.value).startswith(f"--initial {tmp_path / 'masked'} does not fit")
    assert not (tmp_path / "other").exists()


def test_statistics_are_of_whole_training_images_without_variation(tmp_path, updates, sources):
    data = dataclasses.replace(DATA, crop=(8, 8))
    whole: dict[str, Any] = {"recalibrate_varied": False}
    Evaluator.seen.clear()
    Trainer(tiny(tmp_path / "run", data=data, recalibrate=2, seed=3, **whole)).fit()
    plain = dataclasses.replace(DATA, crop=None, augment=NO_AUGMENTATION)
    batches = train_batches(FirstImages(sources["train"], 10), plain, batch_size=4, seed=4)
    expected = [digest(next(batches)["image"]) for _ in range(2)]
    assert Evaluator.seen == [expected, expected]  # after each of the two epochs the same

    Evaluator.seen.clear()
    Trainer(tiny(tmp_path / "all", data=data, recalibrate=9, seed=3, epochs=1, **whole)).fit()
    assert [seen[:2] for seen in Evaluator.seen] == [expected]
    assert len(Evaluator.seen[0]) == 3  # batches that hold all ten images

    Evaluator.seen.clear()
    cut = dataclasses.replace(data, image_size=None)
    Trainer(tiny(tmp_path / "cut", data=cut, recalibrate=9, epochs=1)).fit()
    assert len(set(Evaluator.seen[0])) == 9  # other crops of them


@pytest.mark.parametrize(
    ("bits", "chosen", "crop", "expected"),
    [
        (2, True, (8, 8), True),
        (1, None, (8, 8), True),
        (1, False, (8, 8), False),
        (2, None, (8, 8), False),
        (None, None, (8, 8), False),
        (1, None, None, False),
        (1, None, "image_size", False),
    ],
)
def test_statistics_of_one_bit_are_of_images_as_in_training(
    tmp_path, updates, sources, bits, chosen, crop, expected
):
    crop = DATA.image_size if crop == "image_size" else crop
    data = dataclasses.replace(DATA, crop=crop)
    plain = dataclasses.replace(DATA, crop=None, augment=NO_AUGMENTATION)
    kind = {"activation_bits": bits} if bits else {"network": "full_precision"}
    model = ModelOptions(width=4, **kind)
    options = {"recalibrate": 9, "recalibrate_varied": chosen, "seed": 3, "epochs": 1}
    Evaluator.seen.clear()
    Trainer(tiny(tmp_path / "run", data=data, model=model, **options)).fit()
    count = 9 if expected else 3
    images = FirstImages(sources["train"], 10)
    batches = train_batches(images, data if expected else plain, batch_size=4, seed=4)
    assert Evaluator.seen == [[digest(next(batches)["image"]) for _ in range(count)]]


def test_a_quantized_network_starts_from_a_full_precision_one(tmp_path, updates):
    teacher = tiny(tmp_path / "float", epochs=1, model=ModelOptions("full_precision", width=4))
    Trainer(teacher).fit()
    model = ModelOptions("all_masked", width=4, density=0.25)
    config = tiny(tmp_path / "quantized", initial=tmp_path / "float", model=model)
    trainer = Trainer(config)
    network, trained, stats, _ = load_run(tmp_path / "float")
    images = [example["image"] for example in trainer._train_images]
    expected = quantized_start(network, trained, stats, trainer.network, images)
    chex.assert_trees_all_equal(trainer.state.params, expected)
    layers = trainer.network.quantized_layers(trainer.state.params)
    assert float(jnp.mean(layers["down_c1.conv1"].quantized_weight() != 0)) == pytest.approx(0.25)

    with pytest.raises(InputError, match="give --recalibrate 20"):
        Trainer(dataclasses.replace(config, workdir=tmp_path / "scored", epochs=0))
    wide = dataclasses.replace(config, model=ModelOptions("all_masked", width=8))
    with pytest.raises(InputError, match="does not fit this network: width is 4 there and 8 here"):
        Trainer(dataclasses.replace(wide, workdir=tmp_path / "wide"))
