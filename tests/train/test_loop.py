"""The loop around the update; the update itself is replaced, so that nothing is compiled."""

import dataclasses
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command, train
from mbu_jax.data import open_source, train_batches
from mbu_jax.data.augment import NO_AUGMENTATION
from mbu_jax.data.pipeline import PipelineOptions, resize
from mbu_jax.errors import InputError
from mbu_jax.train import loop
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.config import ModelOptions, TrainConfig
from mbu_jax.train.loop import Trainer, TrainingDiverged
from mbu_jax.train.metrics import SegmentationScores
from mbu_jax.train.optimizer import OptimizerOptions
from mbu_jax.train.quantized_start import quantized_start
from mbu_jax.train.recorder import read_metrics
from mbu_jax.train.subset import FirstImages

DATA = PipelineOptions(image_size=(32, 32), crop=(32, 32))
# Three updates an epoch: two epochs and a bit of the next would be one batch too many.
TINY = TrainConfig(
    train_images=10,
    epochs=2,
    batch_size=4,
    samples=0,
    model=ModelOptions(width=4),
    data=DATA,
    optimizer=OptimizerOptions(warmup_steps=0),
)
ARGUMENTS = [
    "--train-images",
    "10",
    "--epochs",
    "2",
    "--batch-size",
    "4",
    "--eval-every",
    "1",
    "--samples",
    "0",
    "--width",
    "4",
    "--image-size",
    "32",
    "32",
    "--crop",
    "32",
    "32",
    "--warmup-steps",
    "0",
    "--recalibrate",
    "0",
]


class Interrupted(Exception):
    """What ends a run in the middle here."""


def digest(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


class Updates:
    """Stands in for the compiled update: counts, and remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.stop_at: int | None = None
        self.no_number_at: int | None = None

    def make(self, *_: Any, **__: Any) -> Any:
        return self.update

    def update(self, state: Any, batch: dict[str, jax.Array]) -> Any:
        step = int(state.step) + 1
        if step == self.stop_at:
            raise Interrupted
        self.batches.append(digest(batch["image"]))
        params = jax.tree.map(lambda p: p, state.params)
        params["head"]["bias"] = params["head"]["bias"] + 1
        loss = jnp.float32(np.nan if step == self.no_number_at else 1 / step)
        metrics = {"loss": loss, "dice": jnp.float32(0.5), "sign_flip_rate/a": jnp.float32(0.25)}
        return dataclasses.replace(state, step=state.step + 1, params=params), metrics


class Evaluator:
    """Stands in for the evaluation: the more updates, the better."""

    seen: ClassVar[list[list[str]]] = []

    def __init__(self, network: Any, _: Any) -> None:
        self.stats = jax.tree.map(lambda s: jnp.zeros(s.shape), network.initial_stats)

    def recalibrated_stats(self, params: Any, batches: Any, count: int) -> Any:
        del params
        self.seen.append([digest(next(batches)["image"]) for _ in range(count)])
        return self.stats

    def scores(self, params: Any, stats: Any, batches: Any) -> SegmentationScores:
        done = int(np.asarray(params["head"]["bias"])[0])
        scores = SegmentationScores()
        for batch in batches:
            counts = np.tile([done, 1, 1], (len(batch["id"]), 1, 1))
            scores.add(counts, batch["weight"], batch["id"])
        return scores


class Small:
    """A few of the images, so that each is generated once for all tests here."""

    def __init__(self, split: str) -> None:
        source = open_source("synthetic", split)
        self.ids = source.ids[:12]
        self.classes, self.facts = source.classes, source.facts
        self.examples = [resize(source[index], (32, 32)) for index in range(12)]

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        return dict(self.examples[index])

    def __iter__(self) -> Iterator[Any]:
        return map(dict, self.examples)


@pytest.fixture(scope="module")
def sources() -> dict[str, Small]:
    return {split: Small(split) for split in ("train", "validation")}


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch, sources: dict[str, Small]) -> Updates:
    updates = Updates()
    monkeypatch.setattr(loop, "make_train_step", updates.make)
    monkeypatch.setattr(loop, "Evaluator", Evaluator)
    monkeypatch.setattr("mbu_jax.train.images.open_source", lambda name, split, **_: sources[split])
    monkeypatch.setattr(loop, "plot_curves", lambda metrics, out: Path(out).touch())
    return updates


def tiny(workdir: Path, **changes: Any) -> TrainConfig:
    return dataclasses.replace(TINY, workdir=workdir, **changes)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
    try:
        command.run(train.main)
    except SystemExit as stop:
        return stop.code
    return 0


def test_epochs_are_logged_and_saved(tmp_path, updates, capsys):
    scores = Trainer(tiny(tmp_path / "run")).fit()
    # Ten images in batches of four: the third batch begins the second epoch.
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    train_lines = [record for record in records if record["kind"] == "train"]
    assert [(line["step"], line["epoch"]) for line in train_lines] == [(3, 1), (5, 2)]
    first, second = (
        np.float32(1 / np.arange(a, b)).mean(dtype=np.float64) for a, b in ((1, 4), (4, 6))
    )
    assert losses(tmp_path / "run") == pytest.approx({3: first, 5: second})
    layers = [record for record in records if record["kind"] == "layers"]
    assert {line["sign_flip_rate/a"] for line in layers} == {0.25}
    assert all("density/down_c1.conv1" in line for line in layers)
    assert saved(tmp_path / "run") == [3, 5]
    assert scores["dice"] == pytest.approx(2 * 5 / (2 * 5 + 2))

    out, err = capsys.readouterr()
    assert err == ""  # no bars where nobody looks
    lines = out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"epoch 1/2  loss {first:.4f}  Dice 0.5000  validation Dice 0.7500")


def test_bars_show_loss_dice_and_speed(tmp_path, updates, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(loop, "tqdm", lambda *a, **k: TQDM(*a, **k | {"mininterval": 0}))
    Trainer(tiny(tmp_path / "run")).fit()
    shown = terminal.getvalue()
    for text in (
        "epoch 1/2",
        "12/12",
        "img/s",
        "loss=0.333",
        "loss=1.000",
        "dice=0.500",
        "validation",
    ):
        assert text in shown


TQDM = loop.tqdm


def read_ahead(sources: dict[str, Small], count: int) -> list[dict[str, np.ndarray]]:
    """The first batches of a run, straight from the pipeline."""
    images = FirstImages(sources["train"], 10)
    batches = train_batches(images, DATA, batch_size=4, seed=0)
    first = [next(batches) for _ in range(count)]
    batches.close()
    return first


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_an_interrupted_run_sees_the_same_batches(tmp_path, updates, sources, stop_at):
    config = tiny(tmp_path / "run", checkpoint_steps=1)
    updates.stop_at = stop_at
    with pytest.raises(Interrupted):
        Trainer(config).fit()
    assert len(updates.batches) == stop_at - 1
    updates.stop_at = None
    Trainer(config).fit()
    assert updates.batches == [digest(batch["image"]) for batch in read_ahead(sources, 5)]
    assert len(set(updates.batches)) == 5
    assert losses(tmp_path / "run") == pytest.approx({3: (1 + 1 / 2 + 1 / 3) / 3, 5: 9 / 40})


def losses(run: Path) -> dict[int, float]:
    records = read_metrics(run / "metrics.jsonl")
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}


def test_speed_is_counted_since_the_run_was_resumed(tmp_path, updates, monkeypatch):
    config = tiny(tmp_path / "run", checkpoint_steps=1)
    updates.stop_at = 3
    with pytest.raises(Interrupted):
        Trainer(config).fit()
    updates.stop_at = None
    trainer = Trainer(config)
    clock = iter(range(0, 1000, 8))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    trainer.fit()
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    speeds = [record["images_per_second"] for record in records if record["kind"] == "train"]
    assert speeds == [1 * 4 / 8, 2 * 4 / 8]


def test_evaluation_and_checkpoints_come_as_often_as_asked(tmp_path, updates):
    Trainer(tiny(tmp_path / "run", epochs=5, eval_every=2, keep_checkpoints=9)).fit()
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    validated = [record["epoch"] for record in records if record["kind"] == "validation"]
    assert validated == [2, 4, 5]
    assert saved(tmp_path / "run") == [3, 5, 8, 10, 13]

    Trainer(tiny(tmp_path / "often", epochs=2, checkpoint_steps=2, keep_checkpoints=9)).fit()
    assert saved(tmp_path / "often") == [2, 3, 4, 5]


@pytest.mark.parametrize(("step", "often"), [(2, True), (3, False), (5, False), (1, False)])
def test_a_loss_that_is_no_number_ends_the_run(
    tmp_path, updates, sources, monkeypatch, capsys, step, often
):
    updates.no_number_at = step
    run = tmp_path / "run"
    options = ["--workdir", run, "--checkpoint-steps", str(int(often))]
    code = run_command(monkeypatch, *ARGUMENTS, *options)
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"error: the loss, gradient or weights of update {step} are not finite")

    ids = read_ahead(sources, step)[-1]["id"].tolist()
    assert f"(images {', '.join(ids)})" in err

    # What was saved before is there, nothing later is.
    before = {2: [1], 3: [], 5: [3], 1: []}[step]
    assert saved(run) == before
    if before:
        _, params, _, last = load_run(run, "last")
        assert last == before[-1]
        assert np.asarray(params["head"]["bias"]) == before[-1]


def test_a_finished_run_trains_no_more(tmp_path, updates):
    config = tiny(tmp_path / "run")
    first = Trainer(config).fit()
    updates.stop_at = 6
    assert Trainer(config).fit() == first
    assert len(updates.batches) == 5


def test_another_configuration_is_refused(tmp_path, updates, monkeypatch, capsys):
    run = tmp_path / "run"
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run, "--seed", "1") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{run} holds a run with other options: seed is 0 there and 1 here" in err
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    # What does not change the training may change.
    options = ["--keep-checkpoints", "3", "--checkpoint-steps", "2", "--prefetch", "0"]
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", run, *options) == 0
    assert json.loads((run / "config.json").read_text())["keep_checkpoints"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "moon"], "moon"),
        (["--preset", "huge"], "unknown preset 'huge'; choose one of quick, small, best, paper"),
        (["--network", "resnet"], "resnet"),
        (["--dataset", "nuclei", "--data-dir", "nowhere"], "nowhere"),
        (["--data-dir", "."], "the synthetic dataset is generated"),
        (["--batch-size", "3"], "batch_size is 3; give a multiple of the 2 devices"),
        (["--eval-batch-size", "5"], "eval_batch_size is 5"),
        (["--train-images", "100000"], "train_images is 100000 but there are 512"),
        (["--warmup-steps", "9"], "warmup_steps is 9 but the whole run has 5 updates"),
        (["--teacher", "nobody"], "nobody does not exist; give the directory of a run"),
        (["--layer-precision", "up_c9=int8"], "up_c9"),
        (["--ema-decay", "0.9"], "ema_decay needs recalibrate"),
        (["--initial", "nobody"], "nobody does not exist; give the directory of a run"),
        (["--epochs", "0"], "epochs is 0; give a number of at least 1"),
        (["--latent-l1", "-1"], "latent_l1 must be finite and not negative"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    assert run_command(monkeypatch, *ARGUMENTS, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_command(monkeypatch, *ARGUMENTS, "--workdir", tmp_path) == 2
    assert "is not empty and holds no run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_run_remembers_where_the_data_lay(tmp_path, monkeypatch):
    """So that it can be scored from another working directory."""
    monkeypatch.chdir(tmp_path)
    config = tiny(Path("run"), prepared_dir=Path("prepared"))
    Trainer(config)
    saved_config = json.loads(Path("run/config.json").read_text())
    assert saved_config["prepared_dir"] == str(tmp_path / "prepared")
    assert saved_config["data_dir"] is None
    assert saved_config["unet"]["width"] == 4


def test_the_teacher_is_a_run(tmp_path, updates):
    trainer = Trainer(tiny(tmp_path / "teacher"))
    trainer.fit()
    options = dataclasses.replace(TINY.loss, teacher=tmp_path / "teacher")
    teacher = Trainer(tiny(tmp_path / "student", loss=options))._load_teacher()
    assert teacher is not None
    params, stats, thresholds = jax.device_get(teacher.weights)
    assert params["head"]["bias"] == 5  # of the best checkpoint
    expected = teacher.network.fold(params, stats)
    for ours, theirs in zip(jax.tree.leaves(thresholds), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for leaf in jax.tree.leaves(teacher.weights):
        assert len(leaf.sharding.device_set) == 2


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
    resumed = Trainer(config)
    resumed.fit()
    # The five updates of the first run, then three of this one before the end of its epoch, two
    # after it: what is resumed does not start again.
    assert float(jax.device_get(resumed.state.params["head"]["bias"])[0]) == 5 + 5


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
    Evaluator.seen.clear()
    Trainer(tiny(tmp_path / "run", data=data, recalibrate=2, seed=3)).fit()
    plain = dataclasses.replace(DATA, crop=None, augment=NO_AUGMENTATION)
    whole = train_batches(FirstImages(sources["train"], 10), plain, batch_size=4, seed=4)
    expected = [digest(next(whole)["image"]) for _ in range(2)]
    assert Evaluator.seen == [expected, expected]  # after each of the two epochs the same

    Evaluator.seen.clear()
    Trainer(tiny(tmp_path / "all", data=data, recalibrate=9, seed=3, epochs=1)).fit()
    assert [seen[:2] for seen in Evaluator.seen] == [expected]
    assert len(Evaluator.seen[0]) == 3  # batches that hold all ten images

    Evaluator.seen.clear()
    cut = dataclasses.replace(data, image_size=None)
    Trainer(tiny(tmp_path / "cut", data=cut, recalibrate=9, epochs=1)).fit()
    assert len(set(Evaluator.seen[0])) == 9  # other crops of them


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


def test_divergence_is_bad_input():
    assert issubclass(TrainingDiverged, InputError)


def test_the_first_images_are_a_source():
    source = open_source("synthetic", "train")
    images = FirstImages(source, 3)
    assert len(images) == 3
    assert [example["id"] for example in images] == list(source.ids[:3]) == list(images.ids)
    np.testing.assert_array_equal(images[2]["image"], source[2]["image"])
    np.testing.assert_array_equal(images[-1]["mask"], source[2]["mask"])
    with pytest.raises(IndexError):
        images[3]
