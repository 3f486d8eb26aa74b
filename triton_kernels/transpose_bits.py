# pyrefly: ignore-errors
"""From words of 32 channels to words of 32 pixels and back: 32x32 bits a thread.

A thread transposes 32 pixels of a row by 32 channels in its registers, in five steps that exchange
squares of 16x16, 8x8, 4x4, 2x2 and 1x1 bits. Neighbours in memory are other blocks' words in one
layout than in the other, so channels' words are passed between threads through shared memory.

Shape letters: B H W, P planes, C channels, K = ceil(C/32) words of channels, N = ceil(W/32) words
of a row, Q of the H N words of an image's rows, V words of a pixel.
"""

from typing import Any

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from triton_kernels.launch import Launch, cdiv

_WARPS = gl.constexpr(4)
_MOST_WORDS = 8  # the 32 bytes that memory moves at once


@gluon.jit
def channels_to_pixels_kernel(
    x,
    height,
    width,
    channels,
    y,
    PLANES: gl.constexpr,
    WORDS: gl.constexpr,
    AT_ONCE: gl.constexpr,
):
    """Blocks of one image, one a thread.

    Args:
      x: [B, H, W, P, K] uint32.
      height: H.
      width: W.
      channels: C.
      y: [B, P, C, H, N] uint32.
      PLANES: P.
      WORDS: K.
      AT_ONCE: V, a power of two.
    """
    image, first, part = _place(height, width, PLANES * WORDS, AT_ONCE)
    x += image * height * width * (PLANES * WORDS)
    at, inside = _channel_words(first, part, height, width, PLANES * WORDS, AT_ONCE)
    words = gl.load(x + at, inside, other=0)
    words = words.reshape([words.shape[0], 32, AT_ONCE]).permute(0, 2, 1)
    words = _transposed(gl.convert_layout(words, _block_of_thread(AT_ONCE)))
    y += image * PLANES * channels * height * gl.cdiv(width, 32)
    at, inside = _pixel_words(first, part, height, width, channels, PLANES, WORDS, AT_ONCE)
    gl.store(y + at, words, inside)


@gluon.jit
def pixels_to_channels_kernel(
    x,
    height,
    width,
    channels,
    y,
    PLANES: gl.constexpr,
    WORDS: gl.constexpr,
    AT_ONCE: gl.constexpr,
):
    """Blocks of one image, one a thread.

    Args:
      x: [B, P, C, H, N] uint32.
      height: H.
      width: W.
      channels: C.
      y: [B, H, W, P, K] uint32.
      PLANES: P.
      WORDS: K.
      AT_ONCE: V, a power of two.
    """
    image, first, part = _place(height, width, PLANES * WORDS, AT_ONCE)
    x += image * PLANES * channels * height * gl.cdiv(width, 32)
    at, inside = _pixel_words(first, part, height, width, channels, PLANES, WORDS, AT_ONCE)
    words = _transposed(gl.load(x + at, inside, other=0)).permute(0, 2, 1)
    words = words.reshape([words.shape[0], 32 * AT_ONCE])
    y += image * height * width * (PLANES * WORDS)
    at, inside = _channel_words(first, part, height, width, PLANES * WORDS, AT_ONCE)
    gl.store(y + at, gl.convert_layout(words, _stretch_of_lanes(AT_ONCE)), inside)


@gluon.constexpr_function
def _blocks(AT_ONCE):
    """Q of a program."""
    return 32 * _WARPS // AT_ONCE


@gluon.constexpr_function
def _stretch_of_lanes(AT_ONCE):
    """[Q, 32 V]: pixels' words next to each other in lanes."""
    return gl.BlockedLayout([1, min(AT_ONCE, 4)], [1, 32], [_WARPS, 1], [1, 0])


@gluon.constexpr_function
def _block_of_thread(AT_ONCE):
    """[Q, V, 32]: 32 words a thread, rows' words next to each other in lanes."""
    lanes = min(32, 32 * _WARPS // AT_ONCE)
    warps = 32 * _WARPS // AT_ONCE // lanes
    return gl.BlockedLayout(
        [1, 1, 32], [lanes, 32 // lanes, 1], [warps, _WARPS // warps, 1], [2, 0, 1]
    )


@gluon.jit
def _place(height, width, WORDS_OF_PIXEL: gl.constexpr, AT_ONCE: gl.constexpr):
    """Image, first of the words of its rows, and first of a pixel's words of a program."""
    PARTS: gl.constexpr = (WORDS_OF_PIXEL + AT_ONCE - 1) // AT_ONCE
    program = gl.program_id(0)
    part = program % PARTS * AT_ONCE
    program = program // PARTS
    tiles = gl.cdiv(height * gl.cdiv(width, 32), _blocks(AT_ONCE))
    return (program // tiles).to(gl.int64), program % tiles * _blocks(AT_ONCE), part


@gluon.jit
def _channel_words(first, part, height, width, WORDS_OF_PIXEL: gl.constexpr, AT_ONCE: gl.constexpr):
    """Where the words of 32 pixels lie, and which there are: [Q, 32 V]."""
    layout: gl.constexpr = _stretch_of_lanes(AT_ONCE)
    number = first + gl.arange(0, _blocks(AT_ONCE), layout=gl.SliceLayout(1, layout))
    words_of_row = gl.cdiv(width, 32)
    row, column = number // words_of_row, number % words_of_row * 32
    start = (row * width + column) * WORDS_OF_PIXEL
    place = gl.arange(0, 32 * AT_ONCE, layout=gl.SliceLayout(0, layout))
    pixel, word = place // AT_ONCE, part + place % AT_ONCE
    at = gl.expand_dims(start, 1) + gl.expand_dims(pixel * WORDS_OF_PIXEL + word, 0)
    inside = gl.expand_dims(column, 1) + gl.expand_dims(pixel, 0) < width
    inside &= gl.expand_dims(row < height, 1) & gl.expand_dims(word < WORDS_OF_PIXEL, 0)
    return at, inside


@gluon.jit
def _pixel_words(
    first, part, height, width, channels,
    PLANES: gl.constexpr, WORDS: gl.constexpr, AT_ONCE: gl.constexpr,
):  # fmt: skip
    """Where the words of 32 channels lie, and which there are: [Q, V, 32]."""
    layout: gl.constexpr = _block_of_thread(AT_ONCE)
    of_rows: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, layout))
    of_words: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(2, layout))
    of_channels: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, layout))
    number = first + gl.arange(0, _blocks(AT_ONCE), layout=of_rows)
    number = gl.expand_dims(gl.expand_dims(number, 1), 2)
    word = part + gl.arange(0, AT_ONCE, layout=of_words)
    word = gl.expand_dims(gl.expand_dims(word, 0), 2)
    place = gl.arange(0, 32, layout=of_channels)
    place = gl.expand_dims(gl.expand_dims(place, 0), 1)
    plane, channel = word // WORDS, word % WORDS * 32
    words_of_plane = height * gl.cdiv(width, 32)
    start = (plane * channels + channel) * words_of_plane + number
    inside = (number < words_of_plane) & (plane < PLANES) & (channel + place < channels)
    return start + place * words_of_plane, inside


@gluon.jit
def _transposed(words):
    """Bit i of word j becomes bit j of word i, along the last axis."""
    words = _exchanged(words, 16, 0x0000FFFF)
    words = _exchanged(words, 8, 0x00FF00FF)
    words = _exchanged(words, 4, 0x0F0F0F0F)
    words = _exchanged(words, 2, 0x33333333)
    return _exchanged(words, 1, 0x55555555)


@gluon.jit
def _exchanged(words, SIDE: gl.constexpr, MASK: gl.constexpr):
    """Upper squares of words change places with lower squares of the words SIDE later."""
    layout: gl.constexpr = words.type.layout
    pairs = words.reshape([words.shape[0], words.shape[1], 16 // SIDE, 2, SIDE])
    a, b = gl.split(pairs.permute(0, 1, 2, 4, 3))
    REST: gl.constexpr = 0xFFFFFFFF - MASK
    a, b = (a & MASK) | ((b << SIDE) & REST), ((a >> SIDE) & MASK) | (b & REST)
    pairs = gl.join(a, b).permute(0, 1, 2, 4, 3)
    return gl.convert_layout(pairs.reshape(words.shape), layout, assert_trivial=True)


def launch_to_pixels(x: tuple[int, ...], *, channels: int) -> Launch:
    """Launch `channels_to_pixels_kernel` with array (x,), giving y.

    Args:
      x: shape, B, H, W, P and K.
      channels: C.

    Returns:
      The launch.
    """
    batch, height, width, planes, _ = x
    return _launch(channels_to_pixels_kernel, (batch, planes, channels, height), width)


def launch_to_channels(x: tuple[int, ...], *, width: int) -> Launch:
    """Launch `pixels_to_channels_kernel` with array (x,), giving y.

    Args:
      x: shape, B, P, C, H and N.
      width: W.

    Returns:
      The launch.
    """
    return _launch(pixels_to_channels_kernel, x[:4], width)


def _launch(kernel: Any, sizes: tuple[int, ...], width: int) -> Launch:
    batch, planes, channels, height = sizes
    words = cdiv(channels, 32)
    at_once = min(_MOST_WORDS, 1 << (planes * words - 1).bit_length())
    tiles = cdiv(height * cdiv(width, 32), 32 * _WARPS.value // at_once)
    return Launch(
        kernel=kernel,
        blocks=batch * tiles * cdiv(planes * words, at_once),
        sizes={"height": height, "width": width, "channels": channels},
        constants={"PLANES": planes, "WORDS": words, "AT_ONCE": at_once},
        warps=_WARPS.value,
        registers=128,
    )
