"""The `bitsliced` engine behind the channel-packed operations: convert, run, convert back.

A whole network stays pixel-packed and converts nothing; see `mbu_jax.ops.layouts`.
"""

from jax import Array

from mbu_jax.ops.bitsliced import calls
from mbu_jax.packing import (
    PackedConv,
    PackedHead,
    PackedStem,
    channels_to_pixels,
    pixels_to_channels,
    word_count,
)


def split_segments(x: Array, segments: tuple[int, ...]) -> tuple[Array, Array]:
    """Turn channel-packed words into pixel-packed planes, one array a segment.

    Args:
      x: [B, H, W, P, N] uint32.
      segments: channels of one part or two.

    Returns:
      Two arrays [B, P, C, H, ceil(W/32)] uint32, the second without channels where there is one.
    """
    first = word_count(segments[0])
    planes = channels_to_pixels(x[..., :first], segments[0])
    if len(segments) == 1:
        return planes, no_channels(planes)
    return planes, channels_to_pixels(x[..., first:], segments[1])


def no_channels(planes: Array) -> Array:
    """The second segment of a convolution that has one.

    Args:
      planes: the first, [B, P, C, H, N] uint32.

    Returns:
      [B, P, 0, H, N] uint32.
    """
    return planes[:, :, :0]


def stem_bitsliced(levels: Array, layer: PackedStem) -> Array:
    """Convolution on the image.

    Args:
      levels: [B, H, W, C] uint8.
      layer: weights and thresholds.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32.
    """
    return pixels_to_channels(calls.stem(levels, layer), levels.shape[2])


def conv_bitsliced(x: Array, layer: PackedConv) -> Array:
    """Convolution of either kind.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: the layer.

    Returns:
      [B, H, W, P, ceil(K/32)] uint32, or twice H and W.
    """
    width = x.shape[2]
    planes = calls.conv(split_segments(x, layer.segments), layer, width=width)
    return pixels_to_channels(planes, 2 * width if layer.transposed else width)


def head_bitsliced(x: Array, layer: PackedHead) -> Array:
    """Logits.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: weights and bias.

    Returns:
      [B, H, W, classes] float32.
    """
    planes = channels_to_pixels(x, layer.in_channels)
    return calls.head(planes, layer, width=x.shape[2])
