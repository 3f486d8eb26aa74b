"""What was measured on the GPU here decides its tiles and predictions, and no other GPU's."""

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import popcount
from mbu_jax.ops.gpu.cost_rates import published_rates
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.gpu.tuning import device_rates, given_tiles, measured_tiles
from mbu_jax.ops.specs import ConvSpec
from tests.triton_kernels.test_tuned import CONTENT, DEVICE, POPCOUNT
from triton_kernels import tuned


class Device:
    compute_capability = "9.0"
    device_kind = DEVICE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A GPU, and a folder of measured files for it."""
    monkeypatch.setattr(jax, "local_devices", lambda **_: [Device()])
    (tmp_path / "tuned").mkdir()
    monkeypatch.setattr(tuned.importlib.resources, "files", lambda package: tmp_path)
    tuned.load.cache_clear()
    yield tmp_path / "tuned"
    tuned.load.cache_clear()


def test_a_gpu_that_was_measured_has_its_rates_and_tiles(folder: Path) -> None:
    (folder / "nvidia-test-9000.json").write_text(json.dumps(CONTENT))
    name, rates = device_rates(90)
    published = published_rates(90)
    assert name == DEVICE
    assert (rates.multiprocessors, rates.logic, rates.popcount) == (100, 1.5e13, 4e12)
    assert (rates.memory_bytes, rates.bmma) == (3e12, 9e14)
    assert rates.multiply_add / rates.logic == published.multiply_add / published.logic
    assert measured_tiles("conv3x3") == CONTENT["tiles"]["conv3x3"]
    assert measured_tiles("up_conv2x2") is None
    assert measured_tiles("wgmma_conv3x3") == CONTENT["tiles"]["wgmma_conv3x3"]
    # Weights are arranged for the measured tile's chunk, which rules of thumb do not give.
    x = jax.ShapeDtypeStruct((1, 32, 48, 1, 4), "uint32")
    _, layer = ConvSpec("", (1, 1, 1), (128,), 40, "masked").arguments(seed=0)
    assert popcount.arrange(x, layer)[0].shape == (2, 3, 1, 3, 2, 32, 4)
    with compute_capability(90):
        assert device_rates(90) == (name, rates)
    with compute_capability(80):
        assert device_rates(80) == ("A100", published_rates(80))
        assert measured_tiles("conv3x3") is None
        assert popcount.arrange(x, layer)[0].shape == (2, 3, 2, 3, 2, 32, 2)


@pytest.mark.parametrize(("missing", "there"), [("wgmma", "bmma"), ("bmma", "wgmma")])
def test_a_rate_that_is_missing_has_the_published_ratio_to_logic(
    folder: Path, missing: str, there: str
) -> None:
    ceilings = CONTENT["ceilings"] | {missing: None, there: 7e14}
    (folder / "nvidia-test-9000.json").write_text(json.dumps(CONTENT | {"ceilings": ceilings}))
    rates, published = device_rates(90)[1], published_rates(90)
    assert getattr(rates, there) == 7e14
    ratio = getattr(published, missing) / published.logic
    assert getattr(rates, missing) == pytest.approx(1.5e13 * ratio)


def test_tiles_that_are_given_go_before_measured_ones(folder: Path) -> None:
    (folder / "nvidia-test-9000.json").write_text(json.dumps(CONTENT))
    x = jax.ShapeDtypeStruct((1, 32, 48, 1, 4), "uint32")
    _, layer = ConvSpec("", (1, 1, 1), (128,), 40, "masked").arguments(seed=0)
    tile = CONTENT["tiles"]["conv3x3"][POPCOUNT] | {"chunk": 1}
    with given_tiles(lambda kernel: {POPCOUNT: tile} if kernel == "conv3x3" else None):
        assert popcount.arrange(x, layer)[0].shape == (2, 3, 4, 3, 2, 32, 1)
        assert measured_tiles("wgmma_conv3x3") is None
    assert popcount.arrange(x, layer)[0].shape == (2, 3, 1, 3, 2, 32, 4)


def test_a_gpu_that_was_not_measured_has_published_rates(folder: Path) -> None:
    assert not list(folder.iterdir())
    assert device_rates(90) == ("H100 SXM", published_rates(90))
    assert measured_tiles("conv3x3") is None


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "nvidia-test-9000.json").write_text("{}")
    with pytest.raises(InputError, match=r"test-9000\.json is no file of .*; mend or remove it"):
        measured_tiles("conv3x3")
