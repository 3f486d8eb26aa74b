"""The `xla` engine's heart: count agreeing bits in words, compare, and pack the answers.

Of an output channel let p and n be the bit planes of its positive and negative weights, and
m = p | n. An activation bit a agrees with a weight where p and a, or n and not a, are set, which
is every bit of ``n ^ (a & m)``; a binary layer has every m set and needs ``n ^ a`` alone. With
acc agreements, a.w = 2 acc - |m|: the one-accumulator form of a masked product, the XOR form of
a binary one. Two-bit activations and powers of two weigh their planes' counts.

Bits beyond a segment are 0 in a, n and m and never agree.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from mbu_jax.ops.blocks import row_blocks
from mbu_jax.packing import WORD_BITS, PackedConv, valid_bits, word_count

_PIXELS_PER_BLOCK = 512  # 32 counters for each of these stay in a core's cache
_WORDS_UNROLLED = 2  # more, and compilers run out of registers


class Weights(NamedTuple):
    """One layer's planes in groups of 32 output channels, one group a word of output.

    Shape letters: G groups, T thresholds, and the taps of the kernel flattened.

    Attributes:
      negative: [G, 32, taps, N] uint32.
      kept: [G, 32, taps, N] uint32, or None where every weight is kept.
      exponent: [2, G, 32, taps, N] uint32, or None.
      least: [T, G, 32] int32: the fewest agreements that set bit t of the code.
    """

    negative: Array
    kept: Array | None
    exponent: Array | None
    least: Array


def weights_of(layer: PackedConv, *, tap_is_output: bool) -> Weights:
    """Arrange a layer's planes and turn its thresholds into numbers of agreements.

    Args:
      layer: the layer.
      tap_is_output: whether every tap makes outputs of its own, as in a transposed convolution
        with the kernel's stride; their groups follow each other, tap by tap.

    Returns:
      The weights.
    """
    height, width, outputs, words = layer.positive.shape
    taps = height * width
    missing = -outputs % WORD_BITS
    groups = word_count(outputs)

    def arrange(plane: Array) -> Array:
        plane = jnp.pad(plane.reshape(taps, outputs, words), ((0, 0), (0, missing), (0, 0)))
        if tap_is_output:
            return plane.reshape(taps * groups, WORD_BITS, 1, words)
        return plane.transpose(1, 0, 2).reshape(groups, WORD_BITS, taps, words)

    negative = negative_plane(layer)
    never = np.iinfo(np.int32).max
    least = jnp.pad(least_agreements(layer), ((0, 0), (0, 0), (0, missing)), constant_values=never)
    return Weights(
        negative=arrange(negative),
        kept=None if layer.negative is None else arrange(layer.positive | negative),
        exponent=None
        if layer.exponent is None
        else jnp.stack([arrange(plane) for plane in layer.exponent]),
        least=least.reshape(layer.theta.shape[0], -1, WORD_BITS),
    )


def least_agreements(layer: PackedConv) -> Array:
    """Turn thresholds of the dot product into numbers of agreements.

    Args:
      layer: the layer.

    Returns:
      [T, 1, K] int32: the fewest agreements that set bit t of the code; [T, 4, K] of a transposed
      convolution, every tap of which makes outputs of its own.
    """
    height, width, outputs, _ = layer.positive.shape
    size = _count(layer.positive | negative_plane(layer))
    if layer.exponent is not None:
        size = size + _count(layer.exponent[0]) + 3 * _count(layer.exponent[1])
    size = size.sum(-1, dtype=jnp.int32)
    largest = (2**layer.activation_bits - 1) * size  # [h, w, K]: of |a.w|, tap by tap
    largest = largest.reshape(1, height * width, outputs)
    if not layer.transposed:
        largest = largest.sum(1, keepdims=True, dtype=jnp.int32)
    # Clipping keeps "always" and "never" and lets the sum fit 32 bits.
    theta = jnp.clip(layer.theta[:, None], -largest, largest + 1)
    return (theta + largest + 1) >> 1


def negative_plane(layer: PackedConv) -> Array:
    """Bits of the weights below 0; of a binary layer those that are not positive.

    Args:
      layer: the layer.

    Returns:
      uint32 of the shape of ``layer.positive``.
    """
    if layer.negative is not None:
        return layer.negative
    return ~layer.positive & jnp.asarray(valid_bits(layer.segments)).reshape(1, 1, 1, -1)


def correlate(slabs: Array, weights: Weights, side: int) -> Array:
    """Correlate words with a side x side kernel, compare, and pack the codes.

    Args:
      slabs: [P, N, B, H + side - 1, W + side - 1] uint32: one contiguous image a word, with its
        border.
      weights: of the layer.
      side: of the kernel in pixels.

    Returns:
      [B, H, W, P, G] uint32.
    """
    _, words, batch, padded_height, padded_width = slabs.shape
    height, width = padded_height - side + 1, padded_width - side + 1
    blocks, rows = row_blocks(height, batch * width, _PIXELS_PER_BLOCK)
    slabs = jnp.pad(slabs, ((0, 0),) * 3 + ((0, blocks * rows - height), (0, 0)))
    unrolled = _WORDS_UNROLLED if words % _WORDS_UNROLLED == 0 else 1
    groups_first = weights._replace(
        exponent=None if weights.exponent is None else jnp.moveaxis(weights.exponent, 0, 1),
        least=jnp.moveaxis(weights.least, 0, 1),
    )

    def block(top: Array) -> Array:
        image = lax.dynamic_slice_in_dim(slabs, top, rows + side - 1, axis=3)

        def group(weights: Weights) -> Array:
            def add_words(i: Array, counts: Array) -> Array:
                start = i * unrolled
                part = _slice_words(weights, start, unrolled)
                some = lax.dynamic_slice_in_dim(image, start, unrolled, axis=1)
                return counts + _agreements(some, part, side, (rows, width))

            counts = jnp.zeros((WORD_BITS, batch, rows, width), jnp.int32)
            counts = lax.fori_loop(0, words // unrolled, add_words, counts)
            return _compare(counts, weights.least)

        return lax.map(group, groups_first)

    codes = lax.map(block, jnp.arange(blocks) * rows)  # [blocks, G, P, B, rows, W]
    codes = codes.transpose(3, 0, 4, 5, 2, 1)
    return codes.reshape(batch, blocks * rows, *codes.shape[3:])[:, :height]


def _slice_words(weights: Weights, start: Array, length: int) -> Weights:
    def cut(plane: Array | None) -> Array | None:
        return None if plane is None else lax.dynamic_slice_in_dim(plane, start, length, axis=-1)

    return weights._replace(
        negative=lax.dynamic_slice_in_dim(weights.negative, start, length, axis=-1),
        kept=cut(weights.kept),
        exponent=cut(weights.exponent),
    )


def _agreements(image: Array, weights: Weights, side: int, size: tuple[int, int]) -> Array:
    """[32, B, rows, W] int32 of one block: taps, planes and words unrolled, channels a loop."""
    rows, width = size
    total = None
    for tap in range(side * side):
        y, x = divmod(tap, side)
        for word in range(image.shape[1]):
            negative = _over_pixels(weights.negative[:, tap, word])
            for plane in range(image.shape[0]):
                bits = image[plane, word, None, :, y : y + rows, x : x + width]
                if weights.kept is not None:
                    bits = bits & _over_pixels(weights.kept[:, tap, word])
                agreeing = bits ^ negative
                count = _count(agreeing)
                if weights.exponent is not None:
                    double, quadruple = (_over_pixels(e[:, tap, word]) for e in weights.exponent)
                    count = count + _count(agreeing & double) + 3 * _count(agreeing & quadruple)
                count = count << plane if plane else count
                total = count if total is None else total + count
    assert total is not None, "a kernel has taps and an image has words"
    return total


def _over_pixels(channels: Array) -> Array:
    return channels.reshape(WORD_BITS, 1, 1, 1)


def _count(words: Array) -> Array:
    return lax.population_count(words).astype(jnp.int32)


def _compare(counts: Array, least: Array) -> Array:
    """[32, B, rows, W] counts and [T, 32] thresholds to [P, B, rows, W] codes."""
    # Without the barrier the counting would be fused in, once for each of the 32 slices.
    counts = lax.optimization_barrier(counts)
    passed = []
    for row in least:
        word = jnp.zeros(counts.shape[1:], jnp.uint32)
        for channel in range(WORD_BITS):
            bit = (counts[channel] >= row[channel]).astype(jnp.uint32)
            word = word | (bit << jnp.uint32(channel))
        passed.append(word)
    return nested_codes(jnp.stack(passed))


def nested_codes(passed: Array) -> Array:
    """Planes of the number of thresholds passed, bit by bit.

    Args:
      passed: [T, ...] uint32, a bit of word t set where threshold t is passed; nested, so that
        each implies those before it.

    Returns:
      [P, ...] uint32: the planes of the sum over t.

    Example:
      >>> nested_codes(jnp.array([0b111, 0b011, 0b001], jnp.uint32)).tolist()
      [5, 3]
    """
    if passed.shape[0] == 1:
        return passed
    return jnp.stack([passed[0] ^ passed[1] ^ passed[2], passed[1]])
