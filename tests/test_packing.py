"""Layouts of bits in words, against NumPy's own packing, and the checks of packed layers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.packing import (
    PackedConv,
    PackedHead,
    PackedStem,
    PackedUNet,
    channels_to_pixels,
    pack_channels,
    pack_pixels,
    pixels_to_channels,
    unet_template,
    unpack_channels,
    unpack_pixels,
    valid_bits,
)
from mbu_jax.unet import UNetConfig


def packed_by_numpy(bits: NDArray) -> NDArray:
    """[..., L] of 0 and 1 to uint32 [..., ceil(L/32)]."""
    octets = np.packbits(bits, axis=-1, bitorder="little")
    border = [(0, 0)] * (bits.ndim - 1) + [(0, -octets.shape[-1] % 4)]
    return np.pad(octets, border).copy().view("<u4")


def random_codes(shape: tuple[int, ...], bits: int) -> NDArray:
    return np.random.default_rng(0).integers(0, 2**bits, shape).astype(np.uint8)


LAYOUTS = pytest.mark.parametrize(
    ("bits", "width", "channels"), [(1, 1, 1), (1, 33, 32), (2, 31, 65), (2, 64, 4)]
)


@LAYOUTS
def test_channels_are_packed_as_numpy_packs_bits(bits: int, width: int, channels: int) -> None:
    codes = random_codes((2, 3, width, channels), bits)
    words = pack_channels(jnp.asarray(codes), bits)
    expected = np.stack([packed_by_numpy(codes >> plane & 1) for plane in range(bits)], axis=-2)
    assert words.dtype == jnp.uint32
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_array_equal(unpack_channels(words, channels), codes)


@LAYOUTS
def test_pixels_are_packed_as_numpy_packs_bits(bits: int, width: int, channels: int) -> None:
    codes = random_codes((2, 3, width, channels), bits)
    planes = pack_pixels(jnp.asarray(codes), bits)
    rows = codes.transpose(0, 3, 1, 2)
    expected = np.stack([packed_by_numpy(rows >> plane & 1) for plane in range(bits)], axis=1)
    assert planes.dtype == jnp.uint32
    np.testing.assert_array_equal(planes, expected)
    np.testing.assert_array_equal(unpack_pixels(planes, width), codes)


@LAYOUTS
def test_one_layout_becomes_the_other(bits: int, width: int, channels: int) -> None:
    codes = jnp.asarray(random_codes((2, 3, width, channels), bits))
    words, planes = pack_channels(codes, bits), pack_pixels(codes, bits)
    np.testing.assert_array_equal(channels_to_pixels(words, channels), planes)
    np.testing.assert_array_equal(pixels_to_channels(planes, width), words)


def test_valid_bits_are_those_of_packed_ones() -> None:
    segments = (3, 64, 33)
    ones = [packed_by_numpy(np.ones(channels, np.uint8)) for channels in segments]
    np.testing.assert_array_equal(valid_bits(segments), np.concatenate(ones))


CODES = jnp.zeros((1, 2, 3, 4), jnp.uint8)
WORDS = jnp.zeros((1, 2, 3, 1, 1), jnp.uint32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack_channels(CODES, bits=3), "bits must be 1 or 2"),
        (lambda: pack_channels(CODES.astype(jnp.float32)), "dtype float32"),
        (lambda: pack_pixels(CODES[0]), r"give \[B, H, W, C\]"),
        (lambda: unpack_channels(WORDS, 33), "33 channels take 2 words, not 1"),
        (lambda: unpack_channels(CODES, 4), "give uint32"),
        (lambda: unpack_pixels(WORDS, 33), "33 pixels a row take 2 words, not 1"),
        (lambda: unpack_pixels(WORDS[0], 3), "give uint32"),
        (lambda: channels_to_pixels(WORDS[0], 4), "give uint32"),
        (lambda: pixels_to_channels(CODES, 4), "give uint32"),
    ],
)
def test_arrays_that_are_no_codes_or_words_are_refused(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def words(*shape: int, value: int = 0) -> Any:
    return np.full(shape, value, np.uint32)


def integers(*rows: int) -> Any:
    return np.asarray(rows, np.int32).reshape(len(rows), 1)


def a_conv(**fields: Any) -> PackedConv:
    """Five channels in two segments, one output; weights 0, ±1, ±2 and ±4."""
    usual: dict[str, Any] = {
        "positive": words(3, 3, 1, 2, value=0b01),
        "negative": words(3, 3, 1, 2, value=0b10),
        "exponent": words(2, 3, 3, 1, 2),
        "theta": integers(-3, 0, 2**31 - 1),
        "segments": (3, 2),
    }
    return PackedConv(**usual | fields)


def test_a_sound_layer_passes_and_describes_itself() -> None:
    conv = a_conv().validate()
    assert (conv.precision, conv.activation_bits, conv.transposed) == ("pow2", 2, False)
    assert (conv.in_channels, conv.out_channels, conv.density) == (5, 1, 4 / 5)
    masked = a_conv(exponent=None, theta=integers(0)).validate()
    assert (masked.precision, masked.activation_bits) == ("masked", 1)
    binary = a_conv(exponent=None, negative=None).validate()
    assert (binary.precision, binary.density) == ("binary", 1.0)
    assert a_conv(positive=words(2, 2, 1, 2), negative=None, exponent=None).validate().transposed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"segments": ()}, "up_c1.segments"),
        ({"segments": (3, 0)}, "up_c1.segments"),
        ({"segments": (3, 2.0)}, "up_c1.segments"),
        ({"segments": [3, 2]}, "up_c1.segments"),
        ({"segments": (3,)}, r"up_c1.positive is uint32\[3, 3, 1, 2\]; it must be"),
        ({"positive": words(3, 2, 1, 2)}, "up_c1.positive"),
        ({"positive": words(3, 3, 0, 2)}, "up_c1.positive"),
        ({"positive": words(5, 5, 1, 2)}, "up_c1.positive"),
        ({"positive": words(3, 3, 1, 2).astype(np.int32)}, "up_c1.positive"),
        ({"positive": words(3, 3, 1, 2, value=0b1000)}, "up_c1.positive has bits set beyond"),
        ({"positive": words(3, 3, 1, 2, value=0b10)}, "up_c1.negative overlaps"),
        ({"negative": words(3, 3, 1, 1)}, "up_c1.negative"),
        ({"negative": words(3, 3, 1, 2, value=0b100)}, "up_c1.negative has bits set beyond"),
        ({"negative": None}, "up_c1.exponent"),
        ({"exponent": words(3, 3, 1, 2)}, "up_c1.exponent"),
        ({"exponent": words(2, 3, 3, 1, 2, value=0b100)}, "up_c1.exponent is set where"),
        ({"exponent": words(2, 3, 3, 1, 2, value=0b1)}, "up_c1.exponent holds 3"),
        ({"theta": integers(0, 0)}, "up_c1.theta has 2 rows"),
        ({"theta": integers(0, 2, 1)}, "up_c1.theta must ascend"),
        ({"theta": integers(-(2**31))}, "up_c1.theta must be above"),
        ({"theta": integers(0).astype(np.int64)}, "up_c1.theta"),
        ({"theta": None}, "up_c1.theta is NoneType"),
    ],
)
def test_an_impossible_convolution_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        a_conv(**fields).validate("up_c1")


def floats(*shape: int, value: float = 0.0) -> Any:
    return np.full(shape, value, np.float32)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": np.zeros((3, 3, 3, 1), np.int16)}, "stem.conv1.theta"),
        ({"weight": floats(3, 3, 3, 2)}, "stem.conv1.weight is float32"),
        ({"weight": np.full((3, 3, 3, 2), 1214, np.int16)}, "stem.conv1.weight must sum to less"),
        ({"weight": np.full((3, 3, 3, 2), -1214, np.int16)}, "stem.conv1.weight must sum to less"),
        (
            {"weight": np.zeros((3, 3, 1821, 2), np.int16)},
            "stem.conv1.weight makes sums of 16389 products; they may have 16384",
        ),
        ({"theta": floats(1, 2)}, "stem.conv1.theta is float32"),
        ({"theta": np.zeros((2, 2), np.int32)}, "stem.conv1.theta has 2 rows"),
        ({"theta": np.asarray([[3, 3], [2, 3], [3, 3]], np.int32)}, "stem.conv1.theta must ascend"),
    ],
)
def test_an_impossible_stem_is_refused(fields: dict[str, Any], message: str) -> None:
    usual: dict[str, Any] = {
        "weight": np.full((3, 3, 3, 2), -1213, np.int16),
        "theta": np.zeros((1, 2), np.int32),
    }
    assert PackedStem(**usual).validate().out_channels == 2
    with pytest.raises(InputError, match=message):
        PackedStem(**usual | fields).validate()


@pytest.mark.parametrize(
    ("weight", "bias", "bits", "message"),
    [
        ([[np.nan]], [0], 1, "head.weight holds"),
        ([[1]], [np.inf], 1, "head.bias holds"),
        ([[1]], [0, 0], 1, "head.bias"),
        ([[2**23], [2**23]], [0.5], 1, "grid"),
        ([[2**23], [1]], [0], 2, "grid"),
        ([[2.0**127], [2.0**127]], [0], 1, "grid"),
        ([[2.0**125], [2.0**125]], [0], 1, "grid"),
        ([[2.0**125]], [0], 1, None),
        ([[0], [0]], [0], 1, None),
        ([[2**23], [1]], [0], 1, None),
        ([[2**-126], [2**-120]], [2**-126], 2, None),
        ([[2**-127], [1]], [0], 1, "grid"),
        ([[2**-140], [2**-149]], [0], 2, "grid"),
        ([[0]], [2**-127], 1, "grid"),
    ],
)
def test_a_head_whose_sums_might_round_is_refused(
    weight: Any, bias: Any, bits: int, message: str | None
) -> None:
    arrays: Any = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    head = PackedHead(*arrays)
    if message is None:
        assert head.validate(bits=bits).classes == 1
        return
    with pytest.raises(InputError, match=message):
        head.validate(bits=bits)


CONFIG = UNetConfig(width=4, precisions=("binary", "masked", "pow2") * 4)


def zeros(config: UNetConfig = CONFIG) -> PackedUNet:
    """A network without weights, which is sound."""
    empty: Any = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), unet_template(config))
    convs = {name: empty.convs[name] for name in unet_template(config).convs}
    return dataclasses.replace(empty, convs=convs)


def test_the_template_names_every_convolution_in_network_order() -> None:
    names = list(unet_template(CONFIG).convs)
    assert names[:3] == ["stem.conv2", "down_c1.conv1", "down_c1.conv2"]
    assert names[9:12] == ["up_ct1.conv", "up_c1.conv1", "up_c1.conv2"]
    assert names[-1] == "up_c4.conv2"
    assert len(names) == 21
    rebuilt = jax.tree.map(lambda leaf: leaf, zeros())
    assert rebuilt.conv_names == tuple(names)


def test_segments_follow_the_concatenations() -> None:
    convs = unet_template(UNetConfig(width=48)).convs
    assert convs["up_c1.conv1"].segments == (384, 384)
    assert convs["up_c4.conv1"].segments == (48, 48)
    assert convs["up_c4.conv1"].positive.shape == (3, 3, 48, 4)
    assert convs["up_ct4.conv"].positive.shape == (2, 2, 48, 2)


def test_a_sound_network_passes() -> None:
    assert zeros().validate().activation_bits == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"convs": {}}, "lacks down_c1.conv1"),
        (lambda p: {"convs": p.convs | {"x": p.convs["stem.conv2"]}}, "has unknown x"),
        (lambda p: {"stem": p.head}, "stem.conv1 is a PackedHead"),
        (
            lambda p: {"convs": p.convs | {"stem.conv2": p.convs["down_c1.conv2"]}},
            "stem.conv2.positive is uint32",
        ),
        (lambda p: {"config": dataclasses.replace(p.config, classes=2)}, "head.weight is float32"),
        (lambda p: {"config": dataclasses.replace(p.config, width=8)}, "stem.conv1.weight"),
        (
            lambda p: {"stem": dataclasses.replace(p.stem, theta=floats(1, 4))},
            r"stem.conv1.theta is float32\[1, 4\]; this network has int32\[1, 4\]",
        ),
    ],
)
def test_a_network_that_its_configuration_does_not_prescribe_is_refused(
    change: Any, message: str
) -> None:
    params = zeros()
    with pytest.raises(InputError, match=message):
        dataclasses.replace(params, **change(params)).validate()


@pytest.mark.parametrize("precision", ["float32", "int8", "int4", "int2", "ttq"])
def test_what_cannot_be_packed_is_named(precision: Any) -> None:
    config = UNetConfig(precisions=("masked",) * 5 + (precision,) + ("masked",) * 6)
    with pytest.raises(InputError, match=f"up_c1 has {precision} weights.*binary, masked, pow2"):
        unet_template(config)


def test_full_precision_activations_cannot_be_packed() -> None:
    config = UNetConfig.preset("full_precision", quantization=QuantizationOptions())
    with pytest.raises(InputError, match="activation_bits is 32"):
        unet_template(config)
