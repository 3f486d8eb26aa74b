"""How long each engine's kernels take, predicted from what they do.

A kernel's programs are shared out evenly, so the last round of them may leave multiprocessors
idle; each program takes as long as that of its units which has most to do, and all together no
less than their traffic with memory. The counts are of the kernels' machine code, which tests hold,
and of their tiles, pixels and steps that stay unused included. What happens once, before a network
runs, costs nothing: arranging weights.
"""

import dataclasses
import math
from collections.abc import Sequence

from mbu_jax.ops.gpu.bitsliced import slice_count
from mbu_jax.ops.gpu.cost_rates import Rates
from mbu_jax.ops.gpu.tensor_cores import exponent_count, factor_count
from mbu_jax.ops.gpu.tuning import measured_tiles
from mbu_jax.ops.gpu.weights import plane_count
from mbu_jax.packing import PackedConv, word_count

ASSUMED_DENSITY = 0.3
"""Share of weights that are not 0 where nobody knows it: masked layers are trained to that."""

_OFFSETS = 2**31  # words that kernels on planes reach
_SQUARE = 1000  # instructions that transpose 32x32 bits, addresses included


@dataclasses.dataclass(frozen=True)
class Work:
    """What one launch of a kernel does.

    Attributes:
      programs: how many run.
      logic: of a program: 32-bit logic and additions of its threads.
      popcount: of a program: words whose bits are counted.
      multiply_add: of a program: in float32.
      bmma: of a program: one-bit multiply-accumulates on Tensor Cores, of warps.
      wgmma: of a program: those of warpgroups.
      cache_bytes: of a program: read from the first-level cache or shared memory.
      memory_bytes: of all programs.
    """

    programs: int
    logic: float = 0
    popcount: float = 0
    multiply_add: float = 0
    bmma: float = 0
    wgmma: float = 0
    cache_bytes: float = 0
    memory_bytes: float = 0

    def seconds(self, rates: Rates) -> float:
        """Predict its time.

        Args:
          rates: of the device.

        Returns:
          Seconds, infinite where the device cannot do it.

        Example:
          >>> from mbu_jax.ops.gpu.cost_rates import published_rates
          >>> copy = Work(programs=1000, memory_bytes=3.35e9)
          >>> round(copy.seconds(published_rates(90)) * 1e3, 3)
          1.002
        """
        if (self.bmma and not rates.bmma) or (self.wgmma and not rates.wgmma):
            return math.inf
        longest = max(
            amount / rate if amount else 0
            for amount, rate in (
                (self.logic, rates.logic),
                (self.popcount, rates.popcount),
                (self.multiply_add, rates.multiply_add),
                (self.bmma, rates.bmma),
                (self.wgmma, rates.wgmma),
                (self.cache_bytes, rates.cache_bytes),
            )
        )
        rounds = math.ceil(self.programs / rates.multiprocessors)
        busy = rounds * rates.multiprocessors * longest
        return rates.launch + max(busy, self.memory_bytes / rates.memory_bytes)


@dataclasses.dataclass(frozen=True)
class Activations:
    """Shape of what a step takes.

    Attributes:
      images: B.
      height: H.
      width: W in pixels.
      planes: P, bits of a code.
      segments: channels of each concatenated part.
    """

    images: int
    height: int
    width: int
    planes: int
    segments: tuple[int, ...]

    @property
    def words(self) -> tuple[int, int, int, int, int]:
        """Shape of channel-packed words, B, H, W, P and N."""
        words = sum(map(word_count, self.segments))
        return self.images, self.height, self.width, self.planes, words

    @property
    def pixels(self) -> tuple[int, int, int, int, int]:
        """Shape of pixel-packed planes, B, P, C, H and N."""
        row = word_count(self.width)
        return self.images, self.planes, sum(self.segments), self.height, row

    def result(self, layer: PackedConv) -> "Activations":
        """What a convolution gives.

        Args:
          layer: the layer.

        Returns:
          Its shape.
        """
        scale = 2 if layer.transposed else 1
        return dataclasses.replace(
            self, height=scale * self.height, width=scale * self.width,
            segments=(layer.out_channels,),
        )  # fmt: skip


def popcount_conv(x: Activations, layer: PackedConv) -> list[Work]:
    """Count what the `popcount` engine does.

    Args:
      x: input.
      layer: the layer; its values do not matter.

    Returns:
      Work of each kernel.
    """
    from triton_kernels.tiles import best_tile

    groups, taps, makers = (
        word_count(layer.out_channels),
        _taps(layer),
        4 if layer.transposed else 1,
    )
    kernel = "up_conv2x2" if layer.transposed else "conv3x3"
    tile = best_tile(x.words, plane_count(layer), measured=measured_tiles(kernel))
    tiles = _tiles(x, tile.rows, tile.columns, joined=layer.transposed)
    words = tile.rows * tile.columns * 32 * taps * x.planes * x.words[4]
    # An adder leaves two of three words to count; with powers of two there are three counts.
    counted = 2 / 3 if taps == 9 else 1
    counts = exponent_count(layer)
    adders = 2 / 3 * counts if taps == 9 else 0
    conv = Work(
        programs=tiles * groups * makers,
        popcount=words * counted * counts,
        logic=words * (counts + adders + counted * counts),
        memory_bytes=_channel_bytes(x, layer),
    )
    return [*_joined(x), conv]


def bmma_conv(x: Activations, layer: PackedConv, capability: int) -> list[Work]:
    """Count what the `bmma` engine does.

    Args:
      x: input.
      layer: the layer; its values do not matter.
      capability: compute capability, which says what instruction multiplies.

    Returns:
      Work of each kernel.
    """
    from triton_kernels.wgmma_tiles import fits

    words, groups = x.words[4], word_count(layer.out_channels)
    if layer.transposed:
        groups *= 4
    factors, exponents = factor_count(layer), exponent_count(layer)
    if fits(capability, _taps(layer), words, factors, exponents, groups):
        work = _of_warpgroups(x, layer, factors, groups)
    else:
        work = _of_warps(x, layer, capability, factors, exponents, groups)
    return [*_joined(x), work]


def _of_warps(
    x: Activations, layer: PackedConv, capability: int, factors: int, exponents: int, groups: int
) -> Work:
    from triton_kernels.bmma_tiles import best_form, best_tile

    images, height, width, planes, words = x.words
    form = best_form(capability, taps=_taps(layer), words=words)
    kernel = "bmma_conv3x3"
    if layer.transposed:
        images, height, kernel = 1, images * height, "bmma_up_conv2x2"
    tile = best_tile(images, height, width, groups, measured=measured_tiles(kernel))
    steps = form.steps(_taps(layer) * words) * exponents * planes
    pixels, channels = tile.rows * tile.columns, 32 * tile.group_warps
    products = steps * 128 * form.lane_words * pixels * factors * channels
    if form.by_and and factors == 1:
        # A product with ones beside those of a warp's 32 channels.
        products = products * 40 // 32
    # A step's words of activations for each warp of channels, of weights for each warp of pixels.
    words_read = pixels * tile.group_warps + factors * channels * tile.pixel_warps
    return Work(
        programs=_tiles(x, tile.rows, tile.columns, joined=layer.transposed)
        * (groups // tile.group_warps),
        bmma=products,
        cache_bytes=steps * 16 * form.lane_words * words_read,
        memory_bytes=_channel_bytes(x, layer),
    )


def _of_warpgroups(x: Activations, layer: PackedConv, factors: int, groups: int) -> Work:
    from triton_kernels.wgmma_tiles import best_slab, best_stretch, best_tile

    images, height, width, planes, words = x.words
    slab = best_slab(_taps(layer), words, factors)
    if layer.transposed:
        pixels = images * height * width
        tile = best_stretch(pixels, groups, measured=measured_tiles("wgmma_up_conv2x2"))
        tiles = math.ceil(pixels / (64 * tile.warpgroups))
    else:
        measured = measured_tiles("wgmma_conv3x3")
        tile = best_tile(images, height, width, groups, measured=measured)
        tiles = _tiles(x, tile.rows, tile.columns, joined=False)
    # Of 64 pixels and 256 bits; both factors come from shared memory.
    instructions = slab.count(words) * slab.steps * planes * tile.warpgroups
    return Work(
        programs=tiles * (groups // tile.groups),
        wgmma=instructions * 64 * 256 * 32 * tile.groups,
        cache_bytes=instructions * 32 * (64 + 32 * tile.groups),
        memory_bytes=_channel_bytes(x, layer),
    )


def bitsliced_conv(x: Activations, layer: PackedConv, density: float) -> list[Work] | None:
    """Count what the `bitsliced` engine does.

    Args:
      x: input.
      layer: the layer.
      density: share of its weights that are not 0.

    Returns:
      Work of each kernel, or None where planes are beyond the kernels' offsets.
    """
    from triton_kernels.bitsliced_tiles import best_tile, fitting

    images, planes, inputs, height, row = x.pixels
    channels, taps, makers = layer.out_channels, _taps(layer), 2 if layer.transposed else 1
    copies = (1, height) if layer.transposed else (3, height + 2)
    copied = 4 * images * planes * (inputs + 1) * math.prod(copies) * row
    if copied >= 4 * images * _OFFSETS:
        return None
    kernel = "bitsliced_up_conv2x2" if layer.transposed else "bitsliced_conv3x3"
    tile = best_tile(
        channels, height, row, images=images, planes=planes, makers=makers,
        measured=measured_tiles(kernel),
    )  # fmt: skip
    magnitudes, slices = exponent_count(layer), slice_count(layer)
    tile = fitting(tile, slices=slices, lists=2 * magnitudes)
    entries = taps * inputs * (1.0 if layer.precision == "binary" else density)
    # Sixteen at a time, of every list.
    rounds = 2 * magnitudes * math.ceil(entries / (2 * magnitudes) / 16) * planes
    words = 32 * tile.vector * tile.outputs * (2 if layer.transposed else 1)
    compared = slices * (1 if planes == 1 else 5)
    read = _bytes(x.pixels)
    written = _bytes(x.result(layer).pixels)
    conv = Work(
        programs=images * math.ceil(height * row / (32 * tile.vector)) * makers
        * math.ceil(channels / tile.outputs),
        # Fifteen full adders, and what they carry through the higher slices.
        logic=words * (rounds * (30 + 2 * (slices - 4)) + 2 * slices + compared),
        cache_bytes=words * rounds * 16 * (4 + 1 / tile.vector),
        memory_bytes=copied + written + 64 * rounds * channels * makers,
    )  # fmt: skip
    copy = Work(programs=1, memory_bytes=read + copied)
    return [copy, conv]


def pool(x: Activations) -> Work:
    """Count what a 2x2 max-pool does, in either layout.

    Args:
      x: input.

    Returns:
      The kernel's work.
    """
    return Work(programs=1, memory_bytes=1.25 * _bytes(x.words))


def stem(x: Activations, channels: int) -> Work:
    """Count what the convolution on images does.

    Args:
      x: the images; one segment of channels.
      channels: K.

    Returns:
      The kernel's work.
    """
    images, height, width = x.images, x.height, x.width
    groups, pixels = word_count(channels), 128
    return Work(
        programs=math.ceil(images * height * width / pixels) * groups,
        multiply_add=9 * x.segments[0] * pixels * 32,
        memory_bytes=images * height * width * (x.segments[0] + 4 * x.planes * groups),
    )


def head(x: Activations, classes: int) -> Work:
    """Count what the last convolution does.

    Args:
      x: input.
      classes: how many.

    Returns:
      The kernel's work.
    """
    images, height, width, planes, words = x.words
    pixels = 128
    # A shift and a choice for every bit, and an addition.
    return Work(
        programs=math.ceil(images * height * width / pixels) * classes,
        logic=pixels * 32 * words * planes * 2,
        multiply_add=pixels * 32 * words * planes,
        memory_bytes=_bytes(x.words) + 4 * images * height * width * classes,
    )


def turned(x: Activations) -> Work | None:
    """Count what the change from one layout to the other does, either way.

    Args:
      x: the activations, one segment.

    Returns:
      The kernel's work, or None where an image is beyond its offsets.
    """
    if max(math.prod(x.words[1:]), math.prod(x.pixels[1:])) >= _OFFSETS - 2**20:
        return None
    squares = x.images * x.height * word_count(x.width) * x.planes * x.words[4]
    return Work(
        programs=math.ceil(squares / 128),
        logic=128 * _SQUARE,
        memory_bytes=_bytes(x.words) + _bytes(x.pixels),
    )


def _joined(x: Activations) -> list[Work]:
    """Words of two parts are put beside each other."""
    if len(x.segments) == 1:
        return []
    return [Work(programs=1, memory_bytes=2 * _bytes(x.words))]


def _taps(layer: PackedConv) -> int:
    return 1 if layer.transposed else 9


def _tiles(x: Activations, rows: int, columns: int, *, joined: bool) -> int:
    """Tiles of all images, whose rows follow each other where they are joined."""
    images, height = (1, x.images * x.height) if joined else (x.images, x.height)
    return images * math.ceil(height / rows) * math.ceil(x.width / columns)


def _channel_bytes(x: Activations, layer: PackedConv) -> int:
    planes = [layer.positive, layer.negative, layer.exponent]
    weights = [math.prod(plane.shape) for plane in planes if plane is not None]
    return _bytes(x.words) + _bytes(x.result(layer).words) + 4 * sum(weights)


def _bytes(words: Sequence[int]) -> int:
    return 4 * math.prod(words)
