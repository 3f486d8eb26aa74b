"""Tiles that are timed, and the file of the fastest that kernels are then tuned by."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from experiments.benchmark.config import BenchmarkConfig, GpuOptions
from experiments.benchmark.gpu import exporting
from experiments.benchmark.gpu.exporting import Exporter
from experiments.benchmark.gpu.layers import LayerProgram, layer_programs
from experiments.benchmark.gpu.programs import Machine
from experiments.benchmark.gpu.tiles import Lookups, candidates
from experiments.benchmark.gpu.tuned_file import fastest_tiles, write_tuned
from experiments.benchmark.gpu.writing import Writer
from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import popcount
from mbu_jax.ops.gpu.tuning import given_tiles
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed
from triton_kernels import tuned
from triton_kernels.tuned import Ceilings

SHAPES = {
    "conv3x3": "height=30 width=40 planes=1 words=8 weight_planes=2",
    "up_conv2x2": "height=32 width=32 planes=2 words=16 weight_planes=1",
    "bmma_conv3x3": "batch=64 height=64 width=64 groups=8",
    "bmma_up_conv2x2": "batch=1 height=4096 width=64 groups=16",
    "wgmma_conv3x3": "batch=64 height=512 width=512 groups=2",
    "wgmma_up_conv2x2": "pixels=4096 groups=64",
    "bitsliced_conv3x3": "channels=64 height=512 words=16 images=1 planes=1 makers=1",
    "bitsliced_up_conv2x2": "channels=64 height=256 words=8 images=64 planes=1 makers=2",
}


@pytest.mark.parametrize("kernel", SHAPES)
def test_candidates_are_few_and_fit(kernel: str) -> None:
    first, *others = found = candidates(kernel, SHAPES[kernel])
    assert 1 <= len(others) <= 8
    assert all(tuned.fits(kernel, SHAPES[kernel], tile) for tile in found)
    for tile in others:
        (field,) = (name for name in first if tile[name] != first[name])
        assert tile[field] in (2 * first[field], first[field] / 2)


def test_what_a_layer_looks_up_is_noted_and_given() -> None:
    x = jax.ShapeDtypeStruct((1, 32, 48, 1, 4), "uint32")
    _, layer = ConvSpec("", (1, 1, 1), (128,), 40, "masked").arguments(seed=0)
    lookups = Lookups()
    with given_tiles(lookups):
        assert popcount.arrange(x, layer)[0].shape == (2, 3, 2, 3, 2, 32, 2)
    ((kernel, shape),) = lookups.asked
    assert (kernel, shape) == (
        "conv3x3",
        "height=32 width=48 planes=1 words=4 weight_planes=2",
    )
    chunks = set()
    for tile in candidates(kernel, shape):
        with given_tiles(Lookups((kernel, shape, tile))):
            chunks.add(popcount.arrange(x, layer)[0].shape[-1])
    assert chunks == {1, 2, 4}


def test_a_step_has_a_program_for_every_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_layer(*arguments: Any) -> Iterator[LayerProgram]:
        return (made for made in layer_programs(*arguments) if made.name == "down_c1.conv2")

    def looked_up(_: Any, function: Any, weights: Any, inputs: Any, repeats: int) -> bytes:
        """Stand for lowering: what depends on the tile is the order of the weights."""
        return repr(popcount.arrange(inputs[0], conv)[0].shape).encode()

    monkeypatch.setattr(exporting, "layer_programs", one_layer)
    monkeypatch.setattr(exporting, "repeated_program", looked_up)
    params = random_packed(UNetConfig.preset("binary", width=32))
    conv = params.convs["down_c1.conv2"]
    options = GpuOptions(layers_of=("binary",), tune=True)
    exporter = Exporter(
        BenchmarkConfig(gpu=options), Machine("cpu", None), Writer(tmp_path / "folder")
    )
    exporter._packed["binary"] = params
    step = exporter._tile_step((32, 32), 2)
    assert (step["name"], step["kind"]) == ("tiles, batch 2", "tiles")
    (found,) = step["programs"].values()
    shape = "height=16 width=16 planes=1 words=2 weight_planes=1"
    assert list(step["programs"]) == ["down_c1.conv2 of binary, conv3x3"]
    # Only the chunk changes this program, and equal ones are timed once.
    assert [entry["about"]["tile"]["chunk"] for entry in found] == [2, 1]
    assert found[0]["about"]["tile"] == candidates("conv3x3", shape)[0]
    assert {entry["about"]["shape"] for entry in found} == {shape}
    assert all((tmp_path / "folder" / entry["program"]).is_file() for entry in found)


def timed(layer: str, tile: dict[str, int], *micro: float) -> dict[str, Any]:
    about = {"network": "binary", "layer": layer, "engine": "bitsliced", "batch": 1, "size": [8, 8]}
    shape = SHAPES["bitsliced_conv3x3"]
    samples = [1e-6 * each for each in micro]
    about |= {"kernel": "bitsliced_conv3x3", "shape": shape, "tile": tile, "samples": samples}
    return about


RULES, HALF, LESS = ({"outputs": outputs, "vector": 4} for outputs in (16, 8, 4))


def test_the_fastest_tile_over_all_layers_of_a_shape_is_taken() -> None:
    shape = SHAPES["bitsliced_conv3x3"]
    short = [timed("short", RULES, 10), timed("short", HALF, 6, 7, 90), timed("short", LESS, 20)]
    long = [timed("long", RULES, 100), timed("long", HALF, 110), timed("long", LESS, 50)]
    assert fastest_tiles(short) == {"bitsliced_conv3x3": {shape: HALF}}
    assert fastest_tiles(long) == {"bitsliced_conv3x3": {shape: LESS}}
    # 0.7 times 1.1 is less than 2 times 0.5, and what was timed on one layer alone does not count.
    assert fastest_tiles(short + long) == {"bitsliced_conv3x3": {shape: HALF}}
    assert fastest_tiles(short + long[:1]) == {"bitsliced_conv3x3": {shape: RULES}}
    noise = [timed("short", RULES, 100), timed("short", HALF, 99)]
    assert fastest_tiles(noise) == {"bitsliced_conv3x3": {shape: RULES}}
    assert fastest_tiles([]) == {}


def report_of(**changes: Any) -> dict[str, Any]:
    return {
        "made_for": {"platform": "cuda"},
        "machine": {
            "device_kind": "NVIDIA Test 9000", "multiprocessors": 132, "compute_capability": 90
        },
        "ceilings": {
            "copy": {"amount": 3e9, "samples": [0.002, 0.001]},
            "lop3": {"amount": 1e13, "samples": [1.0]},
            "popc": {"amount": 4e12, "samples": [1.0]},
            "wgmma": {"amount": 2e15, "samples": [1.0]},
        },
        "tiles": [timed("short", RULES, 10), timed("short", HALF, 5)],
    } | changes  # fmt: skip


def test_a_file_is_written_that_kernels_are_tuned_by(tmp_path: Path) -> None:
    line = write_tuned(report_of(), tmp_path)
    assert line is not None
    assert "nvidia-test-9000.json holds rates and 1 tiles" in line
    found = tuned.load("NVIDIA Test 9000", tmp_path / "tuned")
    assert found is not None
    assert (found.compute_capability, found.multiprocessors) == (90, 132)
    assert found.ceilings == Ceilings(3e12, 1e13, 4e12, bmma=None, wgmma=2e15)
    assert found.tiles == {"bitsliced_conv3x3": {SHAPES["bitsliced_conv3x3"]: HALF}}


def test_a_file_is_not_written_of_less(tmp_path: Path) -> None:
    report = report_of()
    del report["ceilings"]["popc"], report["machine"]["multiprocessors"]
    assert write_tuned(report, tmp_path) == (
        "no file of measured tiles: multiprocessors, popc not measured"
    )
    assert write_tuned(report_of(made_for={"platform": "cpu"}), tmp_path) is None
    wrong = timed("short", {"outputs": 3, "vector": 4}, 5)
    with pytest.raises(InputError, match=r"outputs is 3\); measure anew"):
        write_tuned(report_of(tiles=[wrong]), tmp_path)
    assert not list(tmp_path.iterdir())
