"""The packed network's steps in either layout of activations, so that the network is written once.

Engines that work on words of channels share `ChannelPacked`; the bit-sliced one, on planes of
pixels, has `PixelPacked`. Both give the same bits.
"""

from typing import NamedTuple, Protocol, override

import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.bitsliced.engines import no_channels
from mbu_jax.ops.conv3x3 import conv3x3
from mbu_jax.ops.head import head
from mbu_jax.ops.max_pool2x2 import max_pool2x2
from mbu_jax.ops.stem import stem
from mbu_jax.ops.up_conv2x2 import up_conv2x2
from mbu_jax.packing import (
    PackedConv,
    PackedHead,
    PackedStem,
    pixels_to_channels,
)


class Layout[A](Protocol):
    """Steps on activations A; a step takes what it needs and nothing of the network."""

    def stem(self, levels: Array, layer: PackedStem) -> A:
        """Convolve images and compare.

        Args:
          levels: [B, H, W, C] uint8.
          layer: weights and thresholds.

        Returns:
          Activations.
        """
        ...

    def conv(self, x: A, layer: PackedConv) -> A:
        """Convolve and compare; 3x3 or 2x2 transposed, as the layer says.

        Args:
          x: activations.
          layer: the layer.

        Returns:
          Activations.
        """
        ...

    def max_pool2x2(self, x: A) -> A:
        """Take the larger codes of 2x2 pixels.

        Args:
          x: activations.

        Returns:
          Activations of half the height and width.
        """
        ...

    def join(self, skip: A, x: A) -> A:
        """Concatenate channels.

        Args:
          skip: activations.
          x: activations of the same size.

        Returns:
          Activations, skip's channels first.
        """
        ...

    def head(self, x: A, layer: PackedHead) -> Array:
        """Make logits.

        Args:
          x: activations.
          layer: weights and bias.

        Returns:
          [B, H, W, classes] float32.
        """
        ...

    def channel_words(self, x: A) -> Array:
        """Bring activations into the form in which layouts are compared.

        Args:
          x: activations, one segment.

        Returns:
          Channel-packed words, uint32 [B, H, W, P, N].
        """
        ...


class ChannelPacked(Layout[Array]):
    """Activations are uint32 [B, H, W, P, N].

    Args:
      implementation: name of the engine, or None for the best.
    """

    def __init__(self, implementation: str | None = None):
        self._implementation = implementation

    @override
    def stem(self, levels: Array, layer: PackedStem) -> Array:
        return stem(levels, layer, implementation=self._implementation)

    @override
    def conv(self, x: Array, layer: PackedConv) -> Array:
        operation = up_conv2x2 if layer.transposed else conv3x3
        return operation(x, layer, implementation=self._implementation)

    @override
    def max_pool2x2(self, x: Array) -> Array:
        return max_pool2x2(x, implementation=self._implementation)

    @override
    def join(self, skip: Array, x: Array) -> Array:
        return jnp.concatenate([skip, x], axis=-1)

    @override
    def head(self, x: Array, layer: PackedHead) -> Array:
        return head(x, layer, implementation=self._implementation)

    @override
    def channel_words(self, x: Array) -> Array:
        return x


class Planes(NamedTuple):
    """Pixel-packed activations.

    Attributes:
      segments: the concatenated parts, each uint32 [B, P, C, H, ceil(W/32)].
      width: W in pixels.
    """

    segments: tuple[Array, ...]
    width: int


class PixelPacked(Layout[Planes]):
    """Activations are `Planes`; concatenation copies nothing.

    Args:
      implementation: name of the engine, or None for the best.
    """

    def __init__(self, implementation: str | None = None):
        self._implementation = implementation

    @override
    def stem(self, levels: Array, layer: PackedStem) -> Planes:
        planes = pixels.STEM(levels, layer, implementation=self._implementation)
        return Planes((planes,), levels.shape[2])

    @override
    def conv(self, x: Planes, layer: PackedConv) -> Planes:
        first, *second = x.segments
        pair = (first, *second) if second else (first, no_channels(first))
        planes = pixels.CONV(pair, layer, implementation=self._implementation, width=x.width)
        return Planes((planes,), 2 * x.width if layer.transposed else x.width)

    @override
    def max_pool2x2(self, x: Planes) -> Planes:
        planes = pixels.MAX_POOL2X2(
            x.segments[0], None, implementation=self._implementation, width=x.width
        )
        return Planes((planes,), x.width // 2)

    @override
    def join(self, skip: Planes, x: Planes) -> Planes:
        return Planes(skip.segments + x.segments, x.width)

    @override
    def head(self, x: Planes, layer: PackedHead) -> Array:
        return pixels.HEAD(x.segments[0], layer, implementation=self._implementation, width=x.width)

    @override
    def channel_words(self, x: Planes) -> Array:
        return pixels_to_channels(x.segments[0], x.width)
