"""The `bitsliced` engine on a GPU: Triton kernels on planes, uint32 [B, P, C, H, ceil(W/32)].

A binary layer's negative weights are listed like a masked one's: every weight is visited, which
counts agreements with no sum over all inputs beside it. Stem and head are those of `popcount`,
with a conversion between the layouts.

Shape letters: L lists an output has, M/K outputs that a channel has (4 in a transposed
convolution), G groups of O outputs, E entries of a list, T thresholds.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mbu_jax.errors import InputError
from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.bitsliced_lists import bitsliced_lists
from mbu_jax.ops.counting import least_agreements, negative_plane
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.ops.head import popcount as head_popcount
from mbu_jax.ops.stem import popcount as stem_popcount
from mbu_jax.ops.transpose_bits.kernel import to_channels_kernel, to_pixels_kernel
from mbu_jax.packing import PackedConv, PackedHead, PackedStem, word_count

_LEAST_SLICES = 8  # planes worth 8 are added to four slices and carry into another
_AT_ONCE = 16  # entries of a list
_LARGEST_GROUP = 16  # outputs of a program, which a tile has


class Listed(NamedTuple):
    """What the convolutions' kernels read of a layer. K is padded to a multiple of 16.

    Attributes:
      lists: [M/K, K, L, E] int32, words from the first plane to each that an output adds.
      numbers: [M/K, K, L] int32, entries of the lists, rounded up to multiples of 16.
      constants: [T, M/K, K] int32, what a counter starts from and is compared with.
    """

    lists: Array
    numbers: Array
    constants: Array


@dataclasses.dataclass(frozen=True)
class _Planes:
    """Where a convolution's planes lie: every one in copies, with a plane of zeros at the end.

    Attributes:
      copy_step: words between two copies of a plane.
      channel_step: words between the planes of two channels.
      plane_step: words between the planes of a code's two bits.
    """

    copy_step: int
    channel_step: int
    plane_step: int


def arrange_conv(x: tuple[Any, Any], layer: PackedConv, *, width: int) -> Listed:
    """List the planes of non-zero weights.

    Args:
      x: two segments, [B, P, C, H, ceil(W/32)] uint32.
      layer: the layer.
      width: W in pixels.

    Returns:
      The lists, no longer than they have to be where the layer's values are known.

    Raises:
      InputError: where an image's planes are more than 32-bit offsets reach.
    """
    planes = _planes(x, layer, width)
    weights, numbers, constants = _counted(layer)
    # In the order of the weights: taps of a word of channels follow each other.
    taps = np.arange(1)
    if not layer.transposed:
        row = x[0].shape[4]
        taps = np.add.outer(row * np.arange(3), planes.copy_step * np.arange(3)).ravel()
    starts = np.add.outer(_first_channels(layer.segments) * planes.channel_step, taps).ravel()
    makers, channels, lists = weights.shape[:3]
    entries = bitsliced_lists(
        weights.reshape(makers * channels, lists, -1),
        jnp.asarray(starts, jnp.int32),
        channel_step=planes.channel_step,
        zeros=layer.in_channels * planes.channel_step,
    )
    if not isinstance(numbers, jax.core.Tracer):
        entries = entries[..., : max(_AT_ONCE, int(numbers.max()))]
    return Listed(entries.reshape(makers, channels, lists, -1), numbers, constants)


def conv(x: tuple[Array, Array], layer: PackedConv, listed: Listed, *, width: int) -> Array:
    """Add the planes of non-zero weights, compare; 3x3 or 2x2 transposed, as the layer.

    Args:
      x: two segments, [B, P, C, H, ceil(W/32)] uint32; the second may have no channels.
      layer: shapes of the layer.
      listed: from `arrange_conv`.
      width: W in pixels.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32, or twice H and W.
    """
    from triton_kernels import bitsliced_conv3x3, bitsliced_up_conv2x2
    from triton_kernels.bitsliced_tiles import best_tile

    images, planes, _, height, words = x[0].shape
    channels = layer.out_channels
    makers = 2 if layer.transposed else 1
    kernel = "bitsliced_up_conv2x2" if layer.transposed else "bitsliced_conv3x3"
    tile = best_tile(
        channels, height, words, images=images, planes=planes, makers=makers,
        measured=measured_tiles(kernel),
    )  # fmt: skip
    entries = listed.lists.shape[3]
    sizes: dict[str, Any] = {
        "width": width, "entries": entries, "lists": listed.lists.shape[2],
        "bits": slice_count(layer), "tile": tile,
    }  # fmt: skip

    def run(first: Array, second: Array, *weights: Array) -> Array:
        x = jnp.concatenate([first, second, jnp.zeros_like(first[:, :, :1])], axis=2)
        batch = first.shape[0]
        if layer.transposed:
            y = (batch, planes, channels, 2 * height, word_count(2 * width))
            launch = bitsliced_up_conv2x2.launch(x.shape, channels=channels, **sizes)
        else:
            y = (batch, planes, channels, height, words)
            step = _planes((first, second), layer, width).plane_step
            launch = bitsliced_conv3x3.launch(y, plane_step=step, **sizes)
            x = _shifted(x)
        return call(launch, jax.ShapeDtypeStruct(y, jnp.uint32), x, *weights)

    grouped = -(-channels // tile.outputs) * tile.outputs
    weights = (
        listed.lists[:, :grouped],
        listed.numbers[:, :grouped],
        listed.constants[:, :, :grouped],
    )
    return split_over_batch(run, batched=2)(*x, *weights)


def max_pool2x2(x: Array, layer: None, *, width: int) -> Array:
    """2x2 max-pool with stride 2.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32, H and W even.
      layer: None; a pool has no parameters.
      width: W in pixels.

    Returns:
      [B, P, C, H/2, ceil(W/64)] uint32.
    """
    from triton_kernels import bitsliced_max_pool2x2

    def run(x: Array) -> Array:
        batch, planes, channels, height, _ = x.shape
        launch = bitsliced_max_pool2x2.launch(x.shape, width=width)
        shape = (batch, planes, channels, height // 2, word_count(width // 2))
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), x)

    return split_over_batch(run, batched=1)(x)


def arrange_stem(levels: Any, layer: PackedStem) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      The same as those of `popcount`.
    """
    return stem_popcount.arrange(levels, layer)


def stem(levels: Array, layer: PackedStem, weights: tuple[Array, Array]) -> Array:
    """Convolve images in integers, compare with thresholds, give planes.

    Args:
      levels: [B, H, W, C] uint8.
      layer: shapes of weights and thresholds.
      weights: from `arrange_stem`.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32.
    """
    words = stem_popcount.stem_popcount(levels, layer, weights)
    return to_pixels_kernel(words, channels=layer.out_channels)


def arrange_head(x: Any, layer: PackedHead, *, width: int) -> tuple[Array, Array]:
    """Order the weights for the kernel.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32.
      layer: weights and bias.
      width: W in pixels.

    Returns:
      The same as those of `popcount`.
    """
    del width
    return head_popcount.arrange(x, layer)


def head(x: Array, layer: PackedHead, weights: tuple[Array, Array], *, width: int) -> Array:
    """Sum the weights of every pixel's activations, exactly.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32.
      layer: shapes of weights and bias.
      weights: from `arrange_head`.
      width: W in pixels.

    Returns:
      [B, H, W, classes] float32.
    """
    return head_popcount.head_popcount(to_channels_kernel(x, width=width), layer, weights)


def _planes(x: tuple[Any, Any], layer: PackedConv, width: int) -> _Planes:
    _, planes, _, height, words = x[0].shape
    copies, rows = (1, height) if layer.transposed else (3, height + 2)
    channel_step = copies * rows * words
    plane_step = (layer.in_channels + 1) * channel_step
    if planes * plane_step >= 2**31:
        raise InputError(
            f"{layer.in_channels} channels of {height}x{width} pixels are too many for the "
            "bitsliced engine's 32-bit offsets; segment smaller tiles"
        )
    return _Planes(rows * words, channel_step, plane_step)


def _shifted(x: Array) -> Array:
    """Copies of planes for the three columns of a kernel, with a border above and below.

    Args:
      x: [B, P, C, H, N] uint32.

    Returns:
      [B, P, C, 3, H + 2, N] uint32; column c of copy j is column c + j - 1.
    """
    sides = ((0, 0),) * 4
    before = jnp.pad(x, (*sides, (1, 0)))[..., :-1]
    after = jnp.pad(x, (*sides, (0, 1)))[..., 1:]
    one, most = jnp.uint32(1), jnp.uint32(31)
    copies = [(x << one) | (before >> most), x, (x >> one) | (after << most)]
    return jnp.pad(jnp.stack(copies, axis=3), (*sides, (1, 1), (0, 0)))


def _first_channels(segments: tuple[int, ...]) -> np.ndarray:
    """First channel of every word, [N]."""
    before = np.cumsum((0, *segments[:-1]))
    parts = zip(before, segments, strict=True)
    return np.concatenate([first + np.arange(0, n, 32) for first, n in parts])


def slice_count(layer: PackedConv) -> int:
    """Slices of a counter, which holds all sums and a sign.

    Args:
      layer: the layer.

    Returns:
      How many.
    """
    levels = 2**layer.activation_bits - 1
    magnitude = 1 if layer.exponent is None else 4
    taps = 1 if layer.transposed else 9
    largest = levels * magnitude * taps * layer.in_channels
    return max(_LEAST_SLICES, (largest + 1).bit_length() + 1)


@jax.jit
def _counted(layer: PackedConv) -> tuple[Array, Array, Array]:
    """Weights of each list, [M/K, K, L, N, taps] uint32; `Listed.numbers` and its constants."""
    weights = _signed(layer)
    exponents = weights.shape[2] // 2
    levels = 2**layer.activation_bits - 1
    half = jnp.int32(2 ** (slice_count(layer) - 1))
    least = least_agreements(layer)
    entries = lax.population_count(weights).sum((3, 4), dtype=jnp.int32)  # [M/K, K, L]
    magnitudes = jnp.asarray([2**i for i in range(exponents)], jnp.int32).reshape(1, 1, -1)
    lowest = levels * (entries[..., :exponents] * magnitudes).sum(2, dtype=jnp.int32)
    # A counter subtracts by adding to a complement, and reaches half where the first bit is set.
    start = half - 1 + least[:1] - lowest[None]
    constants = jnp.concatenate([start, half + least[1:] - least[:1]])
    numbers = -(-entries // _AT_ONCE) * _AT_ONCE
    missing = (0, -layer.out_channels % _LARGEST_GROUP)
    weights = jnp.pad(weights, ((0, 0), missing, *((0, 0),) * 3))
    numbers = jnp.pad(numbers, ((0, 0), missing, (0, 0)))
    return weights, numbers, jnp.pad(constants, ((0, 0), (0, 0), missing))


def _signed(layer: PackedConv) -> Array:
    """Bits that say which weights are in each list, [M/K, K, L, N, taps] uint32.

    Negative weights come first, smaller magnitudes before larger ones.
    """
    signs = jnp.stack([negative_plane(layer), layer.positive])[:, None]
    if layer.exponent is not None:
        double, quadruple = layer.exponent
        signs = signs & jnp.stack([~(double | quadruple), double, quadruple])[None]
    _, _, height, width, outputs, words = signs.shape
    makers, taps = (height * width, 1) if layer.transposed else (1, height * width)
    return signs.reshape(-1, makers, taps, outputs, words).transpose(1, 3, 0, 4, 2)
