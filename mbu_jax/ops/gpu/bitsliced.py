"""The `bitsliced` engine on a GPU: Triton kernels on planes, uint32 [B, P, C, H, ceil(W/32)].

A binary layer's negative weights are listed like a masked one's: every weight is visited, which
counts agreements with no sum over all inputs beside it. Stem and head are those of `popcount`,
with a conversion between the layouts.

Shape letters: L lists an output has, M/K outputs that a channel has (4 in a transposed
convolution), G groups of O outputs, T thresholds.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mbu_jax.errors import InputError
from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.counting import least_agreements
from mbu_jax.ops.gpu import target
from mbu_jax.ops.gpu.calls import call
from mbu_jax.ops.head.popcount import head_popcount
from mbu_jax.ops.operation import Engine
from mbu_jax.ops.stem.popcount import stem_popcount
from mbu_jax.packing import (
    PackedConv,
    PackedHead,
    PackedStem,
    channels_to_pixels,
    pixels_to_channels,
    valid_bits,
    word_count,
)

_LEAST_SLICES = 8  # planes worth 8 are added to four slices and carry into another
_AT_ONCE = 16  # entries of a list


def conv(x: tuple[Array, Array], layer: PackedConv, *, width: int) -> Array:
    """Add the planes of non-zero weights, compare; 3x3 or 2x2 transposed, as the layer.

    Args:
      x: two segments, [B, P, C, H, ceil(W/32)] uint32; the second may have no channels.
      layer: the layer.
      width: W in pixels.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32, or twice H and W.

    Raises:
      InputError: where an image's planes are more than 32-bit offsets reach.
    """
    from triton_kernels import bitsliced_conv3x3, bitsliced_lists, bitsliced_up_conv2x2
    from triton_kernels.bitsliced_tiles import best_tile

    _, planes, _, height, words = x[0].shape
    channels = layer.out_channels
    copies, rows = (1, height) if layer.transposed else (3, height + 2)
    copy_step = rows * words
    channel_step = copies * copy_step
    plane_step = (layer.in_channels + 1) * channel_step
    if planes * plane_step >= 2**31:
        raise InputError(
            f"{layer.in_channels} channels of {height}x{width} pixels are too many for the "
            "bitsliced engine's 32-bit offsets; segment smaller tiles"
        )
    makers = 2 if layer.transposed else 1
    tile = best_tile(channels, height, words, images=x[0].shape[0], planes=planes, makers=makers)
    weights, least = _listed(layer), least_agreements(layer)
    bits, numbers, constants = _counting(layer, weights, least, tile.outputs)
    weights = jnp.pad(weights, ((0, 0), (0, -channels % tile.outputs), *((0, 0),) * 3))
    lists, input_words = weights.shape[2], math.prod(weights.shape[3:])
    weights = weights.reshape(-1, lists, input_words)
    # In the order of the weights: taps of a word of channels follow each other.
    taps = (
        np.arange(1)
        if layer.transposed
        else np.add.outer(words * np.arange(3), copy_step * np.arange(3)).ravel()
    )
    starts = np.add.outer(_first_channels(layer.segments) * channel_step, taps).ravel()

    def run(
        first: Array, second: Array, weights: Array, starts: Array, numbers: Array, constants: Array
    ) -> Array:
        x = jnp.concatenate([first, second, jnp.zeros_like(first[:, :, :1])], axis=2)
        if not layer.transposed:
            x = _shifted(x)
        launch = bitsliced_lists.launch(
            weights.shape, channel_step=channel_step, zeros=layer.in_channels * channel_step
        )
        entries = 32 * input_words
        shape = (weights.shape[0], lists, entries)
        nonzeros = call(launch, jax.ShapeDtypeStruct(shape, jnp.int32), weights, starts)
        batch = first.shape[0]
        if layer.transposed:
            y = (batch, planes, channels, 2 * height, word_count(2 * width))
            launch = bitsliced_up_conv2x2.launch(
                x.shape, channels=channels, width=width, entries=entries, lists=lists, bits=bits,
                tile=tile,
            )  # fmt: skip
        else:
            y = (batch, planes, channels, height, words)
            launch = bitsliced_conv3x3.launch(
                y, width=width, plane_step=plane_step, entries=entries, lists=lists, bits=bits,
                tile=tile,
            )  # fmt: skip
        result = jax.ShapeDtypeStruct(y, jnp.uint32)
        return call(launch, result, x, nonzeros, numbers, constants)

    starts = jnp.asarray(starts, jnp.int32)
    return split_over_batch(run, batched=2)(*x, weights, starts, numbers, constants)


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


def stem(levels: Array, layer: PackedStem) -> Array:
    """Convolve images in integers, compare with thresholds, give planes.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      [B, P, K, H, ceil(W/32)] uint32.
    """
    return channels_to_pixels(stem_popcount(levels, layer), layer.out_channels)


def head(x: Array, layer: PackedHead, *, width: int) -> Array:
    """Sum the weights of every pixel's activations, exactly.

    Args:
      x: [B, P, C, H, ceil(W/32)] uint32.
      layer: weights and bias.
      width: W in pixels.

    Returns:
      [B, H, W, classes] float32.
    """
    return head_popcount(pixels_to_channels(x, width), layer)


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


def _listed(layer: PackedConv) -> Array:
    """Bits that say which weights are in each list, [M/K, K, L, N, taps] uint32.

    Negative weights come first, smaller magnitudes before larger ones.
    """
    valid = jnp.asarray(valid_bits(layer.segments)).reshape(1, 1, 1, -1)
    negative = ~layer.positive & valid if layer.negative is None else layer.negative
    signs = jnp.stack([negative, layer.positive])[:, None]
    if layer.exponent is not None:
        double, quadruple = layer.exponent
        signs = signs & jnp.stack([~(double | quadruple), double, quadruple])[None]
    _, _, height, width, outputs, words = signs.shape
    makers, taps = (height * width, 1) if layer.transposed else (1, height * width)
    return signs.reshape(-1, makers, taps, outputs, words).transpose(1, 3, 0, 4, 2)


def _counting(
    layer: PackedConv, weights: Array, least: Array, outputs: int
) -> tuple[int, Array, Array]:
    """What the kernels count with.

    Args:
      layer: the layer.
      weights: [M/K, K, L, N, taps] uint32.
      least: [T, M/K, K] int32, fewest agreements that set bit t of the code.
      outputs: O of a group.

    Returns:
      Slices of a counter; [M/K, G, L] int32, multiples of 16, no fewer than the entries that an
      output of the group has; and [T, M/K, G O] int32, what a counter starts from and is compared
      with.
    """
    levels = 2**layer.activation_bits - 1
    exponents = weights.shape[2] // 2
    largest = levels * weights.shape[4] * layer.in_channels * 2 ** (exponents - 1)
    bits = max(_LEAST_SLICES, (largest + 1).bit_length() + 1)
    half = jnp.int32(2 ** (bits - 1))
    entries = lax.population_count(weights).astype(jnp.int32).sum((3, 4))  # [M/K, K, L]
    magnitudes = jnp.asarray([2**i for i in range(exponents)], jnp.int32).reshape(1, 1, -1)
    lowest = levels * (entries[..., :exponents] * magnitudes).sum(2)
    # A counter subtracts by adding to a complement, and reaches half where the first bit is set.
    start = half - 1 + least[:1] - lowest[None]
    constants = jnp.concatenate([start, half + least[1:] - least[:1]])
    missing = (0, -layer.out_channels % outputs)
    entries = jnp.pad(entries, ((0, 0), missing, (0, 0)))
    groups = entries.reshape(entries.shape[0], -1, outputs, entries.shape[2])
    numbers = -(-groups.max(2) // _AT_ONCE) * _AT_ONCE
    return bits, numbers, jnp.pad(constants, ((0, 0), (0, 0), missing))


def register_engines() -> None:
    """Add the engine to the operations on planes; it runs where it is asked for by name."""
    for operation, run in (
        (pixels.STEM, stem),
        (pixels.CONV, conv),
        (pixels.MAX_POOL2X2, max_pool2x2),
        (pixels.HEAD, head),
    ):
        operation.register(
            Engine("bitsliced", run, platforms=("cuda",), absent=target.absent, automatic=False)
        )
