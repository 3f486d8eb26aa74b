"""The benchmark's network for TensorRT against the one for XLA, by a stand-in of the library."""

import numpy as np
import pytest
from flax import nnx

from experiments.benchmark.carried.tensorrt_network import TensorrtNetwork
from experiments.benchmark.folding import folded_tensors
from experiments.benchmark.gpu.float_unet import float_unet
from experiments.benchmark.gpu.rows import GpuRow
from mbu_jax.unet import UNet, UNetConfig
from tests.experiments import tensorrt_stand_in as trt

SHAPE = (2, 21, 35, 3)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    model = UNet(UNetConfig.preset("full_precision", width=2), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    folded = {name: np.asarray(value) for name, value in folded_tensors(model).items()}
    for name, value in folded.items():
        if name.endswith(".bias"):
            folded[name] = rng.normal(0, 0.3, value.shape).astype(np.float32)
    return folded


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tensors, images) -> np.ndarray:
    return np.asarray(float_unet(tensors, images))


def test_it_is_the_network_that_xla_runs(tensors, images, expected) -> None:
    definition = trt.Definition(images)
    TensorrtNetwork(trt, definition, tensors).build(SHAPE)
    (logits,) = definition.outputs.values()
    assert logits.shape == expected.shape
    # Its weights have 11 bits.
    assert np.abs(logits - expected).max() < 0.01 * np.abs(expected).max()


def test_integers_of_the_ranges_found_come_near(tensors, images, expected) -> None:
    probed = trt.Definition(images)
    TensorrtNetwork(trt, probed, tensors, probing=True).build(SHAPE)
    logits = probed.outputs.pop("logits")
    convolutions = {name.removesuffix(".weight") for name in tensors if name.endswith(".weight")}
    assert probed.outputs.keys() == convolutions
    ranges = {name: float(np.abs(value).max()) for name, value in probed.outputs.items()}
    definition = trt.Definition(images)
    TensorrtNetwork(trt, definition, tensors, ranges).build(SHAPE)
    # The input and the weights of each.
    assert definition.quantized == 2 * len(convolutions)
    difference = np.abs(definition.outputs["logits"] - logits).max()
    assert 0 < difference < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "dtype"), [("tensorrt-fp16", "float16"), ("tensorrt-int8", "int8")]
)
def test_a_row_says_what_it_computes_in(name: str, dtype: str) -> None:
    entry = GpuRow.parse(name).entry({})
    assert (entry["runtime"], entry["dtype"], entry["tunes"]) == ("tensorrt", dtype, True)
