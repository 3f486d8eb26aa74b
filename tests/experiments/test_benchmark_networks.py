"""Networks that the benchmark is given: packed files, trained runs, and their scores."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as program
from experiments.benchmark import rows
from experiments.benchmark.__main__ import benchmark
from experiments.benchmark.config import NetworkOptions
from experiments.benchmark.gpu.command import export_folder
from experiments.benchmark.gpu.programs import Machine
from experiments.benchmark.gpu.rows import GpuRow, rows_of
from experiments.benchmark.networks import Networks, network_name
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.tables import tables
from mbu_jax.data import eval_batches
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.layers import QuantizationOptions
from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.conv3x3.primitive import OPERATION
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


@pytest.fixture(scope="module")
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "full_precision", "full_precision")


@pytest.mark.parametrize("width", [0, -4])
def test_a_width_that_cannot_be_is_told(width: int) -> None:
    with pytest.raises(InputError, match=f"^width is {width}; "):
        Networks(NetworkOptions(width=width)).full_precision()


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
    RunDirectory(tmp_path / "begun").create_or_resume({})
    with pytest.raises(InputError, match=r"has no model\.safetensors yet; finish its training"):
        Networks(NetworkOptions(packed=(tmp_path / "begun",)))


def fails_if_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "Measurer", lambda *_: pytest.fail("timed all the same"))


def test_a_network_is_named_by_its_weights() -> None:
    for name in ("binary", "all_masked", "mbu", "pow2"):
        assert network_name(UNetConfig.preset(name)) == name
        for row in (f"{name}:xla", f"{name}-2bit:xla"):
            assert rows.Row.parse(row).network == row.removesuffix(":xla")
            assert GpuRow.parse(row).network == row.removesuffix(":xla")
    given = Networks(NetworkOptions(width=4)).packed("pow2")
    assert set(given.packed.config.precisions) == {"pow2"}
    assert given.source == "random weights"


def test_a_given_network_is_timed_by_default(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_packed(tmp_path / "mbu", random_packed(UNetConfig.preset("mbu", width=4)))
    networks = NetworkOptions(packed=(tmp_path / "mbu",))
    monkeypatch.setattr(rows, "DEFAULT_ROWS", ())  # which take longer
    report = benchmark(dataclasses.replace(SMOKE, size=32, networks=networks), nursery)
    engine = "xla" if library.absent() else "bitsliced"
    for group in report["groups"]:
        assert list(group["rows"]) == [f"mbu:{engine}"]
    assert report["networks"]["mbu"]["source"] == str(tmp_path / "mbu")


def test_a_given_network_has_one_row_with_an_engine_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def names() -> list[str]:
        return [row.name for row in rows.choose_rows(None, given=["mbu", "binary"])[0]]

    best = "xla" if library.absent() else "bitsliced"
    assert names().count(f"mbu:{best}") == names().count(f"binary:{best}") == 1
    everywhere = [engine for engine in OPERATION.engines if engine.name == "xla"]
    monkeypatch.setattr(OPERATION, "engines", everywhere)
    assert "mbu:xla" in names()
    on_gpu = [row.name for row in rows_of(None, ["bmma"], ["pow2", "mbu"], main=False)]
    assert on_gpu.count("mbu:auto") == on_gpu.count("pow2:auto") == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("binary:xla", "xla-fp32"), r"--packed .*mbu is a network mbu, .* mbu:xla"),
        (("mbu:xla",), r"--run .*full_precision is a network full_precision, .* xla-fp32"),
    ],
)
def test_a_given_network_that_no_row_has_is_refused(
    names: tuple[str, ...],
    message: str,
    nursery: Nursery,
    float_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails_if_timed(monkeypatch)
    save_packed(tmp_path / "mbu", random_packed(UNetConfig.preset("mbu", width=4)))
    networks = NetworkOptions(run=float_run, packed=(tmp_path / "mbu",))
    config = dataclasses.replace(SMOKE, rows=names, networks=networks)
    with pytest.raises(InputError, match=message):
        benchmark(config, nursery)
    with pytest.raises(InputError, match=message):
        export_folder(config, Machine("cpu", None), tmp_path / "folder")


def test_a_trained_full_precision_run_is_used(float_run: Path, tmp_path: Path) -> None:
    found = Networks(NetworkOptions(run=float_run)).full_precision()
    assert found.source == str(float_run)
    _, params, _, _ = load_run(float_run)
    weight = found.model.down_c1.conv2.weight[...]
    np.testing.assert_array_equal(weight, params["down_c1"]["conv2"]["weight"])
    run = save_run(tmp_path / "binary", "binary")
    with pytest.raises(InputError, match="no full_precision network"):
        Networks(NetworkOptions(run=run))


@needs_peers
def test_trained_networks_are_scored_on_every_runtime(
    nursery: Nursery, float_run: Path, tmp_path: Path
) -> None:
    packed = save_run(tmp_path / "all_masked", "all_masked")
    engine = "xla" if library.absent() else "bitsliced"
    names = ("xla-fp32", "onnxruntime-int8", f"all_masked:{engine}", f"binary:{engine}")
    config = dataclasses.replace(
        SMOKE,
        rows=names,
        networks=NetworkOptions(run=float_run, packed=(packed,), score=True),
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
    for run, name in ((float_run, names[0]), (packed, names[2])):
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


def test_scores_need_a_row_of_a_trained_network(
    nursery: Nursery, float_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_if_timed(monkeypatch)
    networks = NetworkOptions(run=float_run, score=True)
    config = dataclasses.replace(SMOKE, rows=("binary:xla",), networks=networks)
    with pytest.raises(InputError, match=r"--score .* which no row has; .* xla-fp32"):
        benchmark(config, nursery)
    # Then the run of --run gives the images alone.
    save_packed(tmp_path / "binary", random_packed(UNetConfig.preset("binary", width=4)))
    networks = dataclasses.replace(networks, packed=(tmp_path / "binary",))
    Networks(networks).check_used(["binary"])


def test_scores_need_a_run_and_images_of_one_size(
    nursery: Nursery, float_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    fails_if_timed(monkeypatch)
    monkeypatch.setattr(program, "images_of_run", lambda *_, **__: Mixed())
    networks = NetworkOptions(run=float_run, score=True)
    config = dataclasses.replace(SMOKE, rows=("xla-fp32",), networks=networks)
    with pytest.raises(InputError, match="image 0 and image 1 differ in size"):
        benchmark(config, nursery)
