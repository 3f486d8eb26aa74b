"""Networks that the benchmark is given: packed files, trained runs, and their scores."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark.__main__ import benchmark
from experiments.benchmark.config import NetworkOptions
from experiments.benchmark.networks import Networks
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.scoring import write_images
from experiments.benchmark.tables import tables
from mbu_jax.data import eval_batches
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.ops.bitsliced import library
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.train.checkpoints import Checkpoints, load_run
from mbu_jax.train.evaluation import Evaluator
from mbu_jax.train.images import images_of_run
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.train.state import Network, TrainState
from mbu_jax.train.step import data_mesh
from mbu_jax.unet import UNetConfig
from tests.experiments.benchmarking import SMOKE, needs_peers, quick_nursery
from tests.random_packed import random_packed


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with quick_nursery() as started:
        yield started


def test_packed_files_take_the_place_of_random_networks(tmp_path: Path) -> None:
    two_bits = UNetConfig(width=4, quantization=QuantizationOptions(activation_bits=2))
    for name, config in (("one", UNetConfig(width=4)), ("two", two_bits)):
        save_packed(tmp_path / name, random_packed(config, density=0.4))
    given = Networks(NetworkOptions(packed=(tmp_path / "one", tmp_path / "two")))
    found = given.packed("all_masked-2bit")
    assert found.source == str(tmp_path / "two")
    assert found.packed.config == load_packed(tmp_path / "two").config
    assert found.density == pytest.approx(0.4, abs=0.02)
    assert given.packed("all_masked", 0.2).density == pytest.approx(0.2, abs=0.02)
    with pytest.raises(InputError, match="two all_masked networks"):
        Networks(NetworkOptions(packed=(tmp_path / "one", tmp_path / "one")))
    with pytest.raises(InputError, match="--width is 8"):
        Networks(NetworkOptions(packed=(tmp_path / "one",), width=8))
    save_packed(tmp_path / "wide", random_packed(UNetConfig.preset("binary", width=5)))
    with pytest.raises(InputError, match="differ in width"):
        Networks(NetworkOptions(packed=(tmp_path / "one", tmp_path / "wide")))


def save_run(path: Path, name: str) -> Path:
    """A run on images of 32x32 that ended after five updates, its weights not trained."""
    config = UNetConfig.preset(name, width=4)  # pyrefly: ignore[bad-argument-type]
    network, params, stats = Network.create(config, seed=3)
    run = RunDirectory(path)
    data = {"dataset": "synthetic", "data_dir": None, "prepared_dir": None}
    run.create_or_resume(
        {"unet": config.to_dict(), **data, "data": {"image_size": [32, 32]}},
    )
    with Checkpoints(run.checkpoints) as checkpoints:
        state = TrainState(jnp.int32(5), params, stats, opt_state=(), ema=None)
        checkpoints.save(state, position={"next_batch": 5}, dice=0.8)
    if name != "full_precision":
        save_packed(run.model, pack(network.model(params, stats)))
    return path


def test_a_trained_full_precision_run_is_used(tmp_path: Path) -> None:
    run = save_run(tmp_path / "full_precision", "full_precision")
    found = Networks(NetworkOptions(run=run)).full_precision()
    assert found.source == str(run)
    _, params, _, _ = load_run(run)
    weight = found.model.down_c1.conv2.weight[...]
    np.testing.assert_array_equal(weight, params["down_c1"]["conv2"]["weight"])
    run = save_run(tmp_path / "binary", "binary")
    with pytest.raises(InputError, match="no full_precision network"):
        Networks(NetworkOptions(run=run))


@needs_peers
def test_trained_networks_are_scored_on_every_runtime(nursery: Nursery, tmp_path: Path) -> None:
    trained = save_run(tmp_path / "full_precision", "full_precision")
    packed = save_run(tmp_path / "all_masked", "all_masked")
    engine = "xla" if library.absent() else "bitsliced"
    names = ("xla-fp32", "onnxruntime-int8", f"all_masked:{engine}", f"binary:{engine}")
    config = dataclasses.replace(
        SMOKE,
        rows=names,
        networks=NetworkOptions(run=trained, packed=(packed,), score=True),
        layers=False,
        end_to_end=False,
        densities=(),
    )
    config.check()
    report = benchmark(config, nursery)
    found = report["scores"]
    assert found["size"] == [32, 32]
    # The binary network has random weights.
    assert list(found["rows"]) == list(names[:3])
    assert report["networks"]["full_precision"]["int8"]["calibration_images"] == 32
    for run, name in ((trained, names[0]), (packed, names[2])):
        network, params, stats, _ = load_run(run)
        images = images_of_run(run, "validation", classes=1)
        scores = Evaluator(network, data_mesh()).scores(
            params, stats, eval_batches(images, batch_size=8)
        )
        wanted = scores.result()
        assert 0 < wanted["dice"] < 1
        # A float logit next to 0 may fall to the other side.
        margin = 0 if run == packed else 1e-3
        assert found["rows"][name]["dice"] == pytest.approx(wanted["dice"], abs=margin)
        assert found["rows"][name]["images"] == wanted["images"] == 64
    (line,) = (line for line in tables(report).splitlines() if "validation images" in line)
    assert line.endswith("on 64 validation images of 32x32")


def test_scores_need_a_run_and_images_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name it with --run"):
        dataclasses.replace(SMOKE, networks=NetworkOptions(score=True)).check()
    gpu = dataclasses.replace(SMOKE, device="gpu", networks=NetworkOptions(score=True))
    with pytest.raises(InputError, match="--device cpu"):
        gpu.check()

    class Mixed:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> dict[str, Any]:
            size = (32, 32 + index)
            image = np.zeros((*size, 3), np.uint8)
            return {"id": f"image {index}", "image": image, "mask": np.zeros(size, np.uint8)}

    with pytest.raises(InputError, match="image 0 and image 1 differ in size"):
        write_images(Mixed(), tmp_path)  # pyrefly: ignore[bad-argument-type]
