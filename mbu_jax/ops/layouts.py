"""The packed network's steps in either layout of activations, so that the network is written once.

Engines that work on words of channels share `ChannelPacked`; the bit-sliced one, on planes of
pixels, has `PixelPacked`; `Mixed` goes from one to the other as a plan says. The bits are the same.
"""

import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, override

import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.bitsliced.engines import no_channels
from mbu_jax.ops.conv3x3 import conv3x3
from mbu_jax.ops.head import head
from mbu_jax.ops.max_pool2x2 import max_pool2x2
from mbu_jax.ops.stem import stem
from mbu_jax.ops.transpose_bits import to_channels, to_pixels
from mbu_jax.ops.up_conv2x2 import up_conv2x2
from mbu_jax.packing import PackedConv, PackedHead, PackedStem


class Layout[A](Protocol):
    """Steps on activations A; a step takes its name and what it needs, nothing of the network."""

    def stem(self, name: str, levels: Array, layer: PackedStem) -> A:
        """Convolve images and compare.

        Args:
          name: of the step.
          levels: [B, H, W, C] uint8.
          layer: weights and thresholds.

        Returns:
          Activations.
        """
        ...

    def conv(self, name: str, x: A, layer: PackedConv) -> A:
        """Convolve and compare; 3x3 or 2x2 transposed, as the layer says.

        Args:
          name: of the step.
          x: activations.
          layer: the layer.

        Returns:
          Activations.
        """
        ...

    def max_pool2x2(self, name: str, x: A) -> A:
        """Take the larger codes of 2x2 pixels.

        Args:
          name: of the step.
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

    def head(self, name: str, x: A, layer: PackedHead) -> Array:
        """Make logits.

        Args:
          name: of the step.
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
    def stem(self, name: str, levels: Array, layer: PackedStem) -> Array:
        return stem(levels, layer, implementation=self._implementation)

    @override
    def conv(self, name: str, x: Array, layer: PackedConv) -> Array:
        operation = up_conv2x2 if layer.transposed else conv3x3
        return operation(x, layer, implementation=self._implementation)

    @override
    def max_pool2x2(self, name: str, x: Array) -> Array:
        return max_pool2x2(x, implementation=self._implementation)

    @override
    def join(self, skip: Array, x: Array) -> Array:
        return jnp.concatenate([skip, x], axis=-1)

    @override
    def head(self, name: str, x: Array, layer: PackedHead) -> Array:
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
    def stem(self, name: str, levels: Array, layer: PackedStem) -> Planes:
        planes = pixels.STEM(levels, layer, implementation=self._implementation)
        return Planes((planes,), levels.shape[2])

    @override
    def conv(self, name: str, x: Planes, layer: PackedConv) -> Planes:
        first, *second = x.segments
        pair = (first, *second) if second else (first, no_channels(first))
        planes = pixels.CONV(pair, layer, implementation=self._implementation, width=x.width)
        return Planes((planes,), 2 * x.width if layer.transposed else x.width)

    @override
    def max_pool2x2(self, name: str, x: Planes) -> Planes:
        planes = pixels.MAX_POOL2X2(
            x.segments[0], None, implementation=self._implementation, width=x.width
        )
        return Planes((planes,), x.width // 2)

    @override
    def join(self, skip: Planes, x: Planes) -> Planes:
        return Planes(skip.segments + x.segments, x.width)

    @override
    def head(self, name: str, x: Planes, layer: PackedHead) -> Array:
        return pixels.HEAD(x.segments[0], layer, implementation=self._implementation, width=x.width)

    @override
    def channel_words(self, x: Planes) -> Array:
        return to_channels(x.segments[0], x.width)


type LayoutName = Literal["channels", "pixels"]


class Place(NamedTuple):
    """Where a step runs.

    Attributes:
      layout: of its inputs and its result.
      engine: its name, or None for the best of the layout.
    """

    layout: LayoutName
    engine: str | None


class Part:
    """One step's result, in the layouts that others have asked for.

    Args:
      channels: C.
      width: W in pixels.
      result: what the step gave, words or planes.
      layout: which of the two that is.
    """

    def __init__(self, channels: int, width: int, result: Array, layout: LayoutName):
        self.channels = channels
        self.width = width
        self._result = result
        self._layout = layout

    @functools.cached_property
    def words(self) -> Array:
        """Channel-packed, uint32 [B, H, W, P, N]."""
        return self._result if self._layout == "channels" else to_channels(self._result, self.width)

    @functools.cached_property
    def planes(self) -> Array:
        """Pixel-packed, uint32 [B, P, C, H, ceil(W/32)]."""
        return self._result if self._layout == "pixels" else to_pixels(self._result, self.channels)


class Mixed(Layout[tuple[Part, ...]]):
    """Activations are one part, or the two that a convolution takes; what is turned is turned once.

    Args:
      places: of every step, by its name.
    """

    def __init__(self, places: Mapping[str, Place]):
        self._places = places

    @override
    def stem(self, name: str, levels: Array, layer: PackedStem) -> tuple[Part, ...]:
        layout, engine = self._places[name]
        if layout == "channels":
            y = ChannelPacked(engine).stem(name, levels, layer)
        else:
            y = PixelPacked(engine).stem(name, levels, layer).segments[0]
        return (Part(layer.out_channels, levels.shape[2], y, layout),)

    @override
    def conv(self, name: str, x: tuple[Part, ...], layer: PackedConv) -> tuple[Part, ...]:
        layout, engine = self._places[name]
        if layout == "channels":
            y = ChannelPacked(engine).conv(name, _words(x), layer)
        else:
            y = PixelPacked(engine).conv(name, _planes(x), layer).segments[0]
        width = 2 * x[0].width if layer.transposed else x[0].width
        return (Part(layer.out_channels, width, y, layout),)

    @override
    def max_pool2x2(self, name: str, x: tuple[Part, ...]) -> tuple[Part, ...]:
        layout, engine = self._places[name]
        if layout == "channels":
            y = ChannelPacked(engine).max_pool2x2(name, _words(x))
        else:
            y = PixelPacked(engine).max_pool2x2(name, _planes(x)).segments[0]
        return (Part(x[0].channels, x[0].width // 2, y, layout),)

    @override
    def join(self, skip: tuple[Part, ...], x: tuple[Part, ...]) -> tuple[Part, ...]:
        return skip + x

    @override
    def head(self, name: str, x: tuple[Part, ...], layer: PackedHead) -> Array:
        layout, engine = self._places[name]
        if layout == "channels":
            return ChannelPacked(engine).head(name, _words(x), layer)
        return PixelPacked(engine).head(name, _planes(x), layer)

    @override
    def channel_words(self, x: tuple[Part, ...]) -> Array:
        return _words(x)


def _words(parts: tuple[Part, ...]) -> Array:
    return jnp.concatenate([part.words for part in parts], axis=-1)


def _planes(parts: tuple[Part, ...]) -> Planes:
    return Planes(tuple(part.planes for part in parts), parts[0].width)
