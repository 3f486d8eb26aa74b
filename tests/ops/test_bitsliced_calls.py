"""The foreign calls themselves: arrays that do not fit, lists kept from call to call, threads."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.bitsliced.engines import split_segments
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.packing import PackedConv, PackedHead, PackedStem, valid_bits
from tests.ops.bitsliced_digest import arguments

# The first call of a program and later ones raise the library's error as one or the other.
REFUSED = (jax.errors.JaxRuntimeError, ValueError)


@pytest.fixture(autouse=True, scope="module")
def _library() -> None:
    assert library.absent() is None


def words(*shape: int, fill: int = 0) -> Array:
    return jnp.full(shape, fill, jnp.uint32)


CONV = {
    "first": words(2, 1, 3, 4, 2),
    "second": words(2, 1, 0, 4, 2),
    "positive": words(3, 3, 5, 1),
    "negative": words(3, 3, 5, 1),
    "exponent": words(2, 3, 3, 5, 1),
    "theta": jnp.zeros((1, 5), jnp.int32),
}


def call_conv(
    shape: tuple[int, ...] = (2, 1, 5, 4, 2),
    width: int = 40,
    transposed: bool = False,
    **other: Any,
) -> Array:
    result = jax.ShapeDtypeStruct(shape, jnp.uint32)
    # XLA leaves calls out whose result is empty, unless they say that they do something else.
    call = jax.ffi.ffi_call("mbu_conv", result, has_side_effect=0 in shape)
    arrays = {**CONV, **other}
    return call(*arrays.values(), width=np.int64(width), transposed=transposed).block_until_ready()


def test_arrays_that_fit_are_taken() -> None:
    assert not call_conv(theta=jnp.ones((1, 5), jnp.int32)).any()
    always = np.asarray(call_conv(exponent=words(0)))
    assert (always == np.array([2**32 - 1, 255], np.uint32)).all()


@pytest.mark.parametrize(
    "other",
    [
        {"width": 0},
        {"width": -8},
        {"width": 32},
        {"width": 65},
        {"width": 2**31},
        {"width": 2**62},
        {"width": 2**63 - 1},
        {"transposed": True},
        {"first": words(1, 1, 3, 4, 2)},
        {"first": words(2, 2, 3, 4, 2)},
        {"first": words(2, 0, 3, 4, 2)},
        {"first": words(2, 3, 3, 4, 2)},
        {"first": words(2, 1, 33, 4, 2)},
        {"first": words(2, 1, 3, 3, 2)},
        {"first": words(2, 1, 3, 4)},
        {"first": words(0)},
        {"second": words(2, 1, 1, 4, 2)},
        {"second": words(2, 1, 0, 4, 1)},
        {"second": words(0)},
        {"positive": words(3, 3, 4, 1)},
        {"positive": words(3, 3, 5, 2)},
        {"positive": words(2, 2, 5, 1)},
        {"positive": words(45)},
        {"negative": words(44)},
        {"negative": words(2, 3, 3, 5, 1)},
        {"exponent": words(3, 3, 5, 1)},
        {"theta": jnp.zeros((3, 5), jnp.int32)},
        {"theta": jnp.zeros((1, 4), jnp.int32)},
        {"theta": jnp.zeros((5,), jnp.int32)},
        {"theta": jnp.zeros((0, 5), jnp.int32)},
        {"shape": (2, 1, 5, 4, 1)},
        {"shape": (2, 1, 6, 4, 2)},
        {"shape": (2, 1, 5, 8, 3)},
        {"shape": (80,)},
    ],
    ids=lambda other: " ".join(f"{k}{getattr(v, 'shape', v)}" for k, v in other.items()),
)
def test_convolution_arrays_that_do_not_fit_are_an_error(other: dict[str, Any]) -> None:
    with pytest.raises(REFUSED, match="a convolution's arrays"):
        call_conv(**other)


def test_a_width_whose_double_has_too_many_words_is_an_error() -> None:
    """Of no rows, so that it takes no memory."""
    width = 2**30 - 15  # the least that fits an int doubled but not rounded up to words
    in_words, out_words = -(-width // 32), -(-2 * width // 32)
    arrays = {
        "first": words(1, 1, 3, 0, in_words),
        "second": words(1, 1, 0, 0, in_words),
        "positive": words(2, 2, 5, 1),
        "negative": words(0),
        "exponent": words(0),
    }
    with pytest.raises(REFUSED, match="a convolution's arrays do not fit"):
        call_conv((1, 1, 5, 0, out_words), width=width, transposed=True, **arrays)
    narrower = call_conv((1, 1, 5, 0, out_words - 1), width=width - 1, transposed=True, **arrays)
    assert narrower.size == 0


@pytest.mark.parametrize("name", CONV)
def test_a_convolution_of_another_dtype_is_an_error(name: str) -> None:
    other: dict[str, Any] = {name: CONV[name].astype(jnp.float32)}
    with pytest.raises(REFUSED, match="dtype"):
        call_conv(**other)


@pytest.mark.parametrize(
    ("message", "planes"),
    [
        ("beyond a segment", {"positive": words(3, 3, 5, 1, fill=8)}),
        ("beyond a segment", {"negative": words(3, 3, 5, 1, fill=2**31)}),
        ("beyond a segment", {"positive": words(3, 3, 5, 1, fill=8), "negative": words(0)}),
        (
            "positive and negative at once",
            {"positive": words(3, 3, 5, 1, fill=1), "negative": words(3, 3, 5, 1, fill=1)},
        ),
        (
            "exponent 3",
            {"positive": words(3, 3, 5, 1, fill=2), "exponent": words(2, 3, 3, 5, 1, fill=2)},
        ),
    ],
)
def test_planes_that_no_layer_has_are_an_error(message: str, planes: dict[str, Array]) -> None:
    arrays: dict[str, Any] = {"exponent": words(0), **planes}
    with pytest.raises(REFUSED, match=message):
        call_conv(**arrays)


def test_too_many_channels_are_an_error() -> None:
    channels = 2**24
    arrays = {
        "first": words(1, 1, channels, 1, 1),
        "second": words(1, 1, 0, 1, 1),
        "positive": words(3, 3, 1, channels // 32),
        "negative": words(3, 3, 1, channels // 32),
        "exponent": words(0),
        "theta": jnp.zeros((1, 1), jnp.int32),
    }
    with pytest.raises(REFUSED, match="too many input channels"):
        call_conv((1, 1, 1, 1, 1), width=1, **arrays)


def test_nothing_of_no_images_or_outputs() -> None:
    none = words(0, 1, 3, 4, 2)
    assert call_conv((0, 1, 5, 4, 2), first=none, second=none[:, :, :0]).shape == (0, 1, 5, 4, 2)
    no_outputs = {"positive": words(3, 3, 0, 1), "negative": words(0), "exponent": words(0)}
    empty = call_conv((2, 1, 0, 4, 2), **no_outputs, theta=jnp.zeros((1, 0), jnp.int32))
    assert empty.shape == (2, 1, 0, 4, 2)


@pytest.mark.parametrize(
    ("x", "shape", "width"),
    [
        ((1, 1, 2, 4, 2), (1, 1, 2, 2, 1), 70),
        ((1, 1, 2, 4, 2), (1, 1, 2, 2, 1), 63),
        ((1, 1, 2, 3, 2), (1, 1, 2, 1, 1), 64),
        ((1, 1, 2, 4, 2), (1, 1, 2, 2, 2), 64),
        ((1, 1, 2, 4, 2), (1, 1, 2, 4, 1), 64),
        ((1, 3, 2, 4, 2), (1, 3, 2, 2, 1), 64),
        ((1, 2, 4, 2), (1, 2, 2, 1), 64),
        ((1, 1, 2, 4, 2), (1, 1, 2, 2, 1), -64),
        ((1, 1, 2, 4, 2), (1, 1, 2, 2, 1), 2**62),
    ],
)
def test_pool_arrays_that_do_not_fit_are_an_error(
    x: tuple[int, ...], shape: tuple[int, ...], width: int
) -> None:
    call = jax.ffi.ffi_call("mbu_pool", jax.ShapeDtypeStruct(shape, jnp.uint32))
    with pytest.raises(REFUSED, match="a pool's arrays do not fit"):
        call(words(*x), width=np.int64(width)).block_until_ready()


@pytest.mark.parametrize(
    ("weight", "bias", "shape", "width"),
    [
        ((4, 2), (2,), (1, 3, 40, 2), 40),
        ((3, 2), (1,), (1, 3, 40, 2), 40),
        ((3, 2), (2,), (1, 3, 40, 1), 40),
        ((3, 2), (2,), (1, 3, 41, 2), 40),
        ((3, 2), (2,), (1, 3, 65, 2), 65),
        ((6,), (2,), (1, 3, 40, 2), 40),
        ((3, 2), (2,), (240,), 40),
        ((3, 2), (2,), (1, 3, 40, 2), -40),
    ],
)
def test_head_arrays_that_do_not_fit_are_an_error(
    weight: tuple[int, ...], bias: tuple[int, ...], shape: tuple[int, ...], width: int
) -> None:
    call = jax.ffi.ffi_call("mbu_head", jax.ShapeDtypeStruct(shape, jnp.float32))
    arrays = words(1, 1, 3, 3, 2), jnp.zeros(weight), jnp.zeros(bias)
    with pytest.raises(REFUSED, match="a head's arrays do not fit"):
        call(*arrays, width=np.int64(width)).block_until_ready()


@pytest.mark.parametrize(
    ("x", "weight", "theta", "shape"),
    [
        ((1, 4, 40, 2), (3, 3, 3, 5), (1, 5), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (1, 4), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (2, 5), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (3, 5), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (1, 5), (1, 2, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (1, 5), (1, 1, 5, 4, 1)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (1, 5), (1, 1, 5, 5, 2)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (1, 5), (2, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (2, 3, 3, 5), (1, 5), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 3), (3, 3, 15), (1, 5), (1, 1, 5, 4, 2)),
        ((4, 40, 3), (3, 3, 3, 5), (1, 5), (1, 1, 5, 4, 2)),
        ((1, 4, 40, 0), (3, 3, 0, 5), (1, 5), (1, 1, 5, 4, 2)),
        ((1, 1, 1, 4096), (3, 3, 4096, 5), (1, 5), (1, 1, 5, 1, 1)),
        ((1, 4, 40, 3), (3, 3, 3, 5), (5,), (1, 1, 5, 4, 2)),
    ],
)
def test_stem_arrays_that_do_not_fit_are_an_error(
    x: tuple[int, ...], weight: tuple[int, ...], theta: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    call = jax.ffi.ffi_call("mbu_stem", jax.ShapeDtypeStruct(shape, jnp.uint32))
    arrays = (jnp.zeros(x, jnp.uint8), jnp.zeros(weight, jnp.int16), jnp.zeros(theta, jnp.int32))
    with pytest.raises(REFUSED, match="a stem's arrays do not fit"):
        call(*arrays).block_until_ready()


def test_operations_refuse_what_does_not_fit_in_words() -> None:
    layer = PackedStem(jnp.zeros((3, 3, 3, 1), jnp.int16), jnp.zeros((1, 1), jnp.int32))
    with pytest.raises(InputError, match="pixel_stem takes images, uint8"):
        pixels.STEM(jnp.zeros((1, 2, 2, 1), jnp.uint8), layer)
    layer = PackedConv(words(3, 3, 5, 1), None, None, CONV["theta"], segments=(3,))
    pair = CONV["first"], CONV["second"]
    for x, width in ((pair, 30), ((pair[0], pair[0]), 40), ((pair[0][0], pair[1]), 40)):
        with pytest.raises(InputError, match="pixel_conv"):
            pixels.CONV(x, layer, width=width)
    with pytest.raises(InputError, match="even height and width"):
        pixels.MAX_POOL2X2(words(1, 1, 1, 2, 1), None, width=31)
    head = PackedHead(jnp.zeros((4, 1)), jnp.zeros(1))
    with pytest.raises(InputError, match="its layer takes 4"):
        pixels.HEAD(words(1, 1, 3, 2, 1), head, width=31)


def pixel_arguments(index: int, seed: int) -> tuple[tuple[Array, Array], PackedConv, int]:
    spec = (*conv_specs.ODD, *up_specs.ODD)[index]
    x, layer = spec.arguments(seed)
    return split_segments(x, spec.segments), layer, spec.size[2]


def compiled(x: Any, layer: PackedConv, width: int) -> Callable[[Any, PackedConv], Array]:
    """A program of its own, which has kept nothing yet."""
    return jax.jit(lambda x, layer: pixels.CONV(x, layer, width=width)).lower(x, layer).compile()


def fresh(x: Any, layer: PackedConv, width: int) -> np.ndarray:
    return np.asarray(compiled(x, layer, width)(x, layer))


def with_bit(plane: Array, allowed: np.ndarray) -> Array:
    """Set the first bit that is allowed."""
    values = np.array(plane)
    at = np.unravel_index(np.flatnonzero(allowed)[0], allowed.shape)
    values[at] |= allowed[at] & ~(allowed[at] - 1)
    return jnp.asarray(values)


@pytest.mark.parametrize("index", [2, 3, 4, 9])
def test_changed_parameters_of_one_program_are_noticed(index: int) -> None:
    x, layer, width = pixel_arguments(index, seed=0)
    assert layer.negative is not None
    positive, negative = np.asarray(layer.positive), np.asarray(layer.negative)
    zeros = ~(positive | negative) & valid_bits(layer.segments)
    other: list[dict[str, Any]] = [
        {"positive": with_bit(layer.positive, zeros)},
        {"negative": with_bit(layer.negative, zeros)},
        {"theta": layer.theta.at[0, 0].add(-7)},
        {"theta": layer.theta.at[-1, -1].add(7)},
    ]
    if layer.exponent is not None:
        double, quadruple = np.asarray(layer.exponent)
        ones = (positive | negative) & ~(double | quadruple)
        other.append({"exponent": layer.exponent.at[0].set(with_bit(layer.exponent[0], ones))})
        other.append({"exponent": layer.exponent.at[1].set(with_bit(layer.exponent[1], ones))})
    layers = [dataclasses.replace(layer, **changes) for changes in other]
    layers = [layer, *(one for changed in layers for one in (changed, layer))]
    layers.append(pixel_arguments(index, seed=1)[1])
    program = compiled(x, layer, width)
    before = library.load().mbu_lists_made()
    found = [np.asarray(program(x, one)) for one in layers]
    assert library.load().mbu_lists_made() - before == len(other) + 2
    for planes, one in zip(found, layers, strict=True):
        np.testing.assert_array_equal(planes, fresh(x, one, width))
    assert (found[0] != found[-1]).any()


def test_networks_that_share_a_program_keep_their_lists() -> None:
    x, layer, width = pixel_arguments(2, seed=0)
    layers = [layer, *(pixel_arguments(2, seed)[1] for seed in range(1, 9))]
    program = compiled(x, layer, width)
    expected = [fresh(x, one, width) for one in layers]

    def made_by(indices: Sequence[int]) -> int:
        before = library.load().mbu_lists_made()
        for index in indices:
            np.testing.assert_array_equal(program(x, layers[index]), expected[index])
        return library.load().mbu_lists_made() - before

    assert made_by([0, *range(8), *range(8)]) == 8
    assert made_by([7, 0, 3]) == 0
    assert made_by([8, 8]) == 1
    # One more than are kept, in turn: were the oldest dropped, it would be the next one.
    assert made_by([*range(9)] * 8) < 36


def test_threads_that_share_a_program_get_their_own_parameters_bits() -> None:
    x, layer, width = pixel_arguments(2, seed=0)
    # More than a program keeps, so that each is dropped while others still read it.
    layers = [layer, *(pixel_arguments(2, seed)[1] for seed in range(1, 12))]
    program = compiled(x, layer, width)
    expected = [fresh(x, one, width) for one in layers]
    wrong: list[int] = []
    together = threading.Barrier(len(layers))

    def work(index: int) -> None:
        together.wait()
        for _ in range(50):
            if (np.asarray(program(x, layers[index])) != expected[index]).any():
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(layers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_unused_input_bits_are_never_made() -> None:
    """The contract that the kernels rely on, kept by every operation for the next."""
    for index, (pair, layer, width) in enumerate(arguments()):
        planes = np.asarray(pixels.CONV(pair, layer, width=width))
        valid = valid_bits((2 * width if layer.transposed else width,))
        assert not (planes & ~valid).any(), index
