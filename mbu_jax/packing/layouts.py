"""The two layouts of packed activations, and the ways between them and integer codes.

An activation of b bits has the value ``2 code - (2^b - 1)``, so codes 0 to 2^b - 1; bit i of all
codes is plane i. A word is 32 bits, bit 0 the lowest, and its unused bits are 0.

- channel-packed, uint32 [B, H, W, P, N]: channel c is bit c%32 of word c//32;
- pixel-packed, uint32 [B, P, C, H, N]: the pixel in column x is bit x%32 of word x//32.

Shape letters: P planes, N words.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from mbu_jax.errors import InputError

WORD_BITS = 32


def word_count(length: int) -> int:
    """Words that hold this many bits.

    Args:
      length: number of bits.

    Returns:
      Number of words.

    Example:
      >>> word_count(33)
      2
    """
    return -(-length // WORD_BITS)


def valid_bits(segments: Sequence[int]) -> NDArray[np.uint32]:
    """Mask of the bits that stand for a channel.

    Args:
      segments: channels of each concatenated part; every part starts a new word.

    Returns:
      [N] uint32.

    Example:
      >>> [hex(word) for word in valid_bits((40, 4)).tolist()]
      ['0xffffffff', '0xff', '0xf']
    """
    words = []
    for channels in segments:
        full, rest = divmod(channels, WORD_BITS)
        words += [2**WORD_BITS - 1] * full + [2**rest - 1] * (rest > 0)
    return np.asarray(words, np.uint32)


def _pack_last(bits: Array) -> Array:
    """[..., L] of 0 and 1 to uint32 [..., ceil(L/32)]."""
    length = bits.shape[-1]
    words = word_count(length)
    border = [(0, 0)] * (bits.ndim - 1) + [(0, words * WORD_BITS - length)]
    padded = jnp.pad(bits.astype(jnp.uint32), border)
    padded = padded.reshape(*bits.shape[:-1], words, WORD_BITS)
    places = jnp.arange(WORD_BITS, dtype=jnp.uint32).reshape((1,) * bits.ndim + (-1,))
    return jnp.sum(padded << places, axis=-1, dtype=jnp.uint32)


def _unpack_last(words: Array, length: int) -> Array:
    """uint32 [..., N] to uint8 [..., length] of 0 and 1."""
    places = jnp.arange(WORD_BITS, dtype=jnp.uint32).reshape((1,) * words.ndim + (-1,))
    bits = (words[..., None] >> places) & jnp.uint32(1)
    flat = bits.reshape(*words.shape[:-1], words.shape[-1] * WORD_BITS)
    return flat[..., :length].astype(jnp.uint8)


def _planes(codes: Array, bits: int) -> list[Array]:
    if bits not in (1, 2):
        raise InputError(f"activation bits must be 1 or 2, not {bits}")
    if codes.dtype != jnp.uint8:
        raise InputError(f"codes have dtype {codes.dtype}; give uint8, 0 to {2**bits - 1}")
    return [(codes >> jnp.uint8(plane)) & jnp.uint8(1) for plane in range(bits)]


def _codes(planes: Sequence[Array]) -> Array:
    code = planes[0]
    for place, plane in enumerate(planes[1:], start=1):
        code = code | (plane << jnp.uint8(place))
    return code


def _check_words(words: Array, ndim: int | None, layout: str) -> None:
    if words.dtype != jnp.uint32 or (words.ndim != ndim if ndim else words.ndim < 2):
        raise InputError(f"words are {words.dtype}{list(words.shape)}; give uint32 {layout}")


def pack_channels(codes: Array, bits: int = 1) -> Array:
    """Pack codes 32 channels a word.

    Args:
      codes: [..., C] uint8, 0 to 2^bits - 1.
      bits: 1 or 2.

    Returns:
      [..., P, N] uint32.

    Raises:
      InputError: for another dtype or number of bits.

    Example:
      >>> pack_channels(jnp.array([1, 0, 3], jnp.uint8), bits=2).tolist()
      [[5], [4]]
    """
    return jnp.stack([_pack_last(plane) for plane in _planes(codes, bits)], axis=-2)


def unpack_channels(words: Array, channels: int) -> Array:
    """Undo `pack_channels`.

    Args:
      words: [..., P, N] uint32, one segment.
      channels: C.

    Returns:
      [..., C] uint8 codes.

    Raises:
      InputError: where the words are too few or too many for the channels.

    Example:
      >>> unpack_channels(jnp.array([[5], [4]], jnp.uint32), channels=3).tolist()
      [1, 0, 3]
    """
    _check_words(words, None, "[..., planes, words]")
    if words.shape[-1] != word_count(channels):
        raise InputError(
            f"{channels} channels take {word_count(channels)} words, not {words.shape[-1]}"
        )
    bits = _unpack_last(words, channels)
    return _codes([bits[..., plane, :] for plane in range(words.shape[-2])])


def pack_pixels(codes: Array, bits: int = 1) -> Array:
    """Pack codes 32 pixels of a row a word, one plane a channel.

    Args:
      codes: [B, H, W, C] uint8, 0 to 2^bits - 1.
      bits: 1 or 2.

    Returns:
      [B, P, C, H, N] uint32.

    Raises:
      InputError: for another rank, dtype or number of bits.

    Example:
      >>> pack_pixels(jnp.array([[[[1], [0], [1]]]], jnp.uint8)).tolist()
      [[[[[5]]]]]
    """
    if codes.ndim != 4:
        raise InputError(f"codes have shape {codes.shape}; give [B, H, W, C]")
    planes = [_pack_last(plane.transpose(0, 3, 1, 2)) for plane in _planes(codes, bits)]
    return jnp.stack(planes, axis=1)


def unpack_pixels(planes: Array, width: int) -> Array:
    """Undo `pack_pixels`.

    Args:
      planes: [B, P, C, H, N] uint32.
      width: W in pixels.

    Returns:
      [B, H, W, C] uint8 codes.

    Raises:
      InputError: where the words are too few or too many for the width.

    Example:
      >>> unpack_pixels(jnp.array([[[[[5]]]]], jnp.uint32), width=3).ravel().tolist()
      [1, 0, 1]
    """
    _check_words(planes, 5, "[B, planes, C, H, words]")
    if planes.shape[-1] != word_count(width):
        raise InputError(
            f"{width} pixels a row take {word_count(width)} words, not {planes.shape[-1]}"
        )
    bits = _unpack_last(planes, width).transpose(1, 0, 3, 4, 2)
    return _codes(list(bits))


def channels_to_pixels(words: Array, channels: int) -> Array:
    """Turn channel-packed activations into pixel-packed ones.

    Args:
      words: [B, H, W, P, N] uint32, one segment.
      channels: C.

    Returns:
      [B, P, C, H, ceil(W/32)] uint32.

    Example:
      >>> channels_to_pixels(jnp.array([[[[[1]], [[3]]]]], jnp.uint32), channels=2).tolist()
      [[[[[3]], [[2]]]]]
    """
    _check_words(words, 5, "[B, H, W, planes, words]")
    return pack_pixels(unpack_channels(words, channels), bits=words.shape[-2])


def pixels_to_channels(planes: Array, width: int) -> Array:
    """Turn pixel-packed activations into channel-packed ones.

    Args:
      planes: [B, P, C, H, N] uint32.
      width: W in pixels.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.

    Example:
      >>> pixels_to_channels(jnp.array([[[[[3]], [[2]]]]], jnp.uint32), width=2).tolist()
      [[[[[1]], [[3]]]]]
    """
    _check_words(planes, 5, "[B, planes, C, H, words]")
    return pack_channels(unpack_pixels(planes, width), bits=planes.shape[1])
