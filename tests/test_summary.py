import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.masking import nonzero_macs
from mbu_jax.packing import PackedUNet
from mbu_jax.summary import Summary, summary
from mbu_jax.unet import UNet, UNetConfig
from tests.random_packed import random_packed

MIXED = UNetConfig(
    width=32,
    precisions=("binary", "masked", "pow2") * 4,
    quantization=QuantizationOptions(activation_bits=2),
)


@pytest.fixture(scope="module")
def mixed() -> tuple[PackedUNet, Summary]:
    params = random_packed(MIXED, density=0.2)
    return params, summary(params, image_size=(100, 200))


def test_the_bytes_are_those_of_the_arrays(mixed):
    params, result = mixed
    assert result.packed
    assert result.total("parameter_bytes") == sum(a.nbytes for a in jax.tree.leaves(params))
    rows = {layer.name: layer for layer in result.layers}
    assert list(rows)[1:-1] == list(params.conv_names)
    for name, conv in params.convs.items():
        planes = {"binary": 1, "masked": 2, "pow2": 4}[conv.precision]
        words = conv.positive.size * planes + 3 * conv.out_channels
        assert rows[name].parameter_bytes == 4 * words
        assert rows[name].precision == conv.precision
    # The packed stem's weights are int16, the head's float32.
    assert (rows["stem.conv1"].precision, rows["stem.conv1"].kind) == ("int16", "integer")
    assert rows["head"].precision == "float32"


def set_bits(words) -> int:
    return sum(int(word).bit_count() for word in np.asarray(words).ravel())


@pytest.mark.parametrize("name", ["up_c4.conv2", "up_ct2.conv", "down_c1.conv1"])
def test_non_zero_work_is_counted_exactly(mixed, name):
    params, result = mixed
    (row,) = (layer for layer in result.layers if layer.name == name)
    conv = params.convs[name]
    scale = {"up_c4.conv2": 1, "up_ct2.conv": 8, "down_c1.conv1": 2}[name]
    # A weight meets every position of the image that it is slid over, padded to 112 by 208.
    positions = (112 // scale) * (208 // scale)
    weights = int(np.prod(conv.positive.shape[:3])) * conv.in_channels
    kept = weights
    if conv.negative is not None:
        kept = set_bits(conv.positive) + set_bits(conv.negative)
        assert 0 < kept < weights
    assert row.macs == weights * positions
    assert row.nonzero_macs == kept * positions
    assert row.density == kept / weights


@pytest.mark.parametrize("name", ["up_c4.conv2", "up_ct2.conv", "down_c1.conv1", "up_ct1.conv"])
def test_the_bitsliced_engines_work_is_counted_output_by_output(mixed, name):
    params, result = mixed
    (row,) = (layer for layer in result.layers if layer.name == name)
    conv = params.convs[name]
    scale = {"up_c4.conv2": 1, "up_ct2.conv": 8, "down_c1.conv1": 2, "up_ct1.conv": 16}[name]
    inputs = conv.in_channels * (1 if conv.transposed else 9)
    visited = 0
    for output in range(conv.out_channels):
        # Taps of a transposed convolution give separate outputs.
        taps = np.asarray(conv.positive)[:, :, output].reshape(-1, conv.positive.shape[-1])
        for words in taps if conv.transposed else [taps]:
            positive = set_bits(words)
            if conv.negative is None:
                visited += min(positive, inputs - positive)
            else:
                visited += positive
    if conv.negative is None:
        visited += inputs
    else:
        visited += set_bits(conv.negative)
    assert row.bitsliced_macs == 2 * visited * (112 // scale) * (208 // scale)


def test_planned_work_is_near_that_of_a_packed_network(mixed):
    _, result = mixed
    precisions = dict(zip(LAYER_NAMES, MIXED.precisions, strict=True))
    planned = nonzero_macs(
        unet_layers(width=32), precisions, density=0.2, activation_bits=2, height=100, width=200
    )
    found = {}
    for layer in result.layers:
        name = layer.name.partition(".")[0]
        found[name] = found.get(name, 0) + layer.bitsliced_macs
    assert found.pop("head") == 0
    assert found == pytest.approx(planned, rel=0.1)
    for name, precision in precisions.items():
        if precision == "binary":  # half of the signs is the most
            assert 0.8 * planned[name] < found[name] <= planned[name]
    assert sum(found.values()) == result.total("bitsliced_macs")
    assert "\none-bit MAC of the bitsliced engine on a CPU: " in str(result)


def test_activations_are_words_of_each_bit(mixed):
    _, result = mixed
    rows = {layer.name: layer for layer in result.layers}
    assert rows["stem.conv1"].activation_bytes == 112 * 208 * 2 * 4
    assert rows["down_c4.conv2"].activation_bytes == 7 * 13 * 2 * 8 * 4
    assert rows["head"].activation_bytes == 112 * 208 * 4
    assert rows["down_c4.conv2"].float_activation_bytes == 7 * 13 * 256 * 4


def test_totals_and_ratios_are_sums(mixed):
    _, result = mixed
    kinds = result.macs_by_kind()
    everything = sum(layer.macs(100, 200) for layer in unet_layers(width=32))
    assert sum(kinds[kind] for kind in ("float", "integer", "binary", "masked", "pow2")) == (
        everything
    )
    assert kinds["nonzero"] == sum(layer.nonzero_macs for layer in result.layers)
    stem = unet_layers(width=32)[0].convs[0]
    assert kinds["integer"] == stem.macs(100, 200)
    weights = sum(layer.weights for layer in unet_layers(width=32))
    floats = result.total("float_parameter_bytes")
    assert floats > 4 * weights
    assert result.ratios()["parameters"] == floats / result.total("parameter_bytes")
    assert 5 < result.ratios()["parameters"] < 32
    assert 10 < result.ratios()["activations"] < 16


def test_json_holds_what_the_rows_hold(mixed):
    _, result = mixed
    content = json.loads(result.to_json())
    assert content["image_size"] == [100, 200]
    assert len(content["layers"]) == len(result.layers) == 23
    for row, layer in zip(content["layers"], result.layers, strict=True):
        assert row == dataclasses.asdict(layer) | {"kind": layer.kind}
    assert content["totals"]["macs"] == result.total("macs")
    assert content["ratios"] == result.ratios()


def test_the_table_is_aligned_and_complete(mixed):
    _, result = mixed
    lines = str(result).splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert [line.split()[0] for line in lines[header + 2 : header + 25]] == [
        layer.name for layer in result.layers
    ]
    ends = [lines[header].index(word) + len(word) for word in ("MAC", "parameters", "activations")]
    for line in lines[header + 2 : header + 25]:
        assert all(line[end - 1] != " " and line[end] == " " for end in ends)
    assert any(line.startswith("total ") for line in lines)
    assert any(line.startswith("in float32 ") for line in lines)
    assert any("nonzero" in line and "pow2" in line for line in lines)
    assert any(line.startswith(f"engine {result.layers[0].engine}: ") for line in lines)
    assert max(map(len, lines)) <= 130
    assert not any(line.endswith(" ") for line in lines)


def test_the_engine_asked_for_is_named(mixed):
    params, _ = mixed
    rows = summary(params, implementation="xla").layers
    assert {(row.engine, row.reason) for row in rows[1:-1]} == {("xla", "asked for")}
    with pytest.raises(InputError, match="magic"):
        summary(params, implementation="magic")
    with pytest.raises(InputError, match="image size 0x5"):
        summary(params, image_size=(0, 5))


def test_no_reason_names_an_engine_of_another_platform(mixed):
    _, result = mixed
    assert not any("cuda" in row.reason for row in result.layers)
    assert "predict" not in str(result)


@pytest.mark.parametrize("implementation", [None, "popcount", "bmma", "bitsliced"])
def test_a_gpu_that_is_not_here_has_its_engines_and_predictions(mixed, implementation):
    params, here = mixed
    result = summary(
        params, image_size=(100, 200), implementation=implementation, compute_capability=90
    )
    engines = {row.engine for row in result.layers}
    assert engines <= ({implementation} if implementation else {"popcount", "bmma", "bitsliced"})
    assert result.prediction is not None
    assert result.prediction.device == "H100 SXM"
    total = sum(row.microseconds or np.nan for row in result.layers)
    # Four pools and changes of layout are no rows.
    assert total < result.prediction.microseconds < 2 * total
    assert all(f"predicted {row.microseconds:.1f} us" in row.reason for row in result.layers)
    for row, other in zip(result.layers, here.layers, strict=True):
        kept = {"engine": row.engine, "reason": row.reason, "microseconds": row.microseconds}
        assert dataclasses.replace(other, **kept) == row
    text = str(result)
    assert "predicted for the H100 SXM (compute capability 90), not measured: one image" in text
    assert f"\ndown_c1.conv1: {result.layers[2].engine}, predicted " in text
    assert json.loads(result.to_json())["prediction"]["compute_capability"] == 90


def test_the_plan_of_a_gpu_is_no_slower_than_any_engine(mixed):
    params, _ = mixed
    found = {
        name: summary(params, platform="cuda", compute_capability=86, implementation=name)
        for name in (None, "popcount", "bmma", "bitsliced")
    }
    seconds = {name: one.prediction.microseconds for name, one in found.items() if one.prediction}
    assert seconds[None] <= 1.000001 * min(seconds.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"platform": "cuda"}, "no NVIDIA GPU is here; name its compute capability"),
        ({"platform": "gpu"}, "platform is 'gpu'; choose one of cpu, cuda, rocm, tpu"),
        ({"platform": "cpu", "compute_capability": 90}, "cpu has no compute capability"),
        ({"compute_capability": 70}, "compute capability 70 has no kernels; they begin at 75"),
        (
            {"compute_capability": 100, "implementation": "bmma"},
            "stem.conv2 cannot run on the bmma engine with compute capability 100; leave",
        ),
        ({"compute_capability": 90, "implementation": "magic"}, "unknown implementation 'magic"),
        ({"implementation": "bmma@cuda"}, "name the engine alone, 'bmma'"),
        ({"platform": "rocm", "implementation": "popcount"}, "it runs on cuda, not on rocm"),
    ],
)
def test_a_device_that_cannot_be_is_refused(mixed, options, said):
    params, _ = mixed
    with pytest.raises(InputError, match=said):
        summary(params, **options)


def test_other_devices_have_the_engine_in_plain_jax(mixed):
    params, _ = mixed
    for platform, implementation in (("tpu", None), ("cuda", "xla")):
        result = summary(params, platform=platform, implementation=implementation)
        assert {row.engine for row in result.layers} == {"xla"}


def lay_out(config: UNetConfig) -> UNet:
    """A model of zeros and fresh BatchNorms, without compiling its initialization."""
    structure, state = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    fill = lambda leaf: jax.numpy.asarray(np.ones(leaf.shape, leaf.dtype))  # noqa: E731
    return nnx.merge(structure, jax.tree.map(fill, state))


def test_a_model_that_cannot_be_packed_is_counted_in_float32():
    precisions = ("int8",) + ("masked",) * 11
    model = lay_out(UNetConfig(width=4, precisions=precisions))
    result = summary(model, image_size=(16, 16))
    assert not result.packed
    assert result.total("bitsliced_macs") == 0
    assert "bitsliced" not in str(result)
    assert {layer.engine for layer in result.layers} == {"model"}
    assert all("down_c1 has int8 weights" in layer.reason for layer in result.layers)
    kinds = {layer.name: layer.kind for layer in result.layers}
    assert kinds["stem.conv1"] == kinds["head"] == "float"
    assert kinds["stem.conv2"] == kinds["up_c4.conv1"] == "masked"
    assert kinds["down_c1.conv2"] == "integer"
    assert result.ratios()["parameters"] == result.ratios()["activations"] == 1


def test_a_float_model_is_float_throughout():
    result = summary(lay_out(UNetConfig.preset("full_precision", width=4)))
    assert set(result.macs_by_kind().values()) == {0, result.total("macs")}
    assert result.macs_by_kind()["float"] == result.total("macs")
    assert result.activation_bits == 32


def test_a_model_is_counted_as_packing_makes_it():
    model = lay_out(UNetConfig(width=4, precisions=("binary",) * len(LAYER_NAMES)))
    result = summary(model, image_size=(16, 16))
    assert result.packed
    rows = {layer.name: layer for layer in result.layers}
    assert rows["up_c4.conv1"].parameter_bytes == 4 * (9 * 4 * 2 + 4)
    assert rows["up_c4.conv1"].density == 1
