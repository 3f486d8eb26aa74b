"""Packed layers and the packed U-Net in integers: every bit is read by its definition.

Channel c of a segment is bit c % 32 of the segment's word c // 32. An activation of code k has
the value 2 k - (2^bits - 1); outside the image it has code 0.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles import convolution
from tests.oracles.network import levels_of, padded_to_16


def words_of(channels: int) -> int:
    return (channels + 31) // 32


def read_bits(words: NDArray, segments: Sequence[int]) -> NDArray:
    """[..., N] words to [..., C] int64 bits."""
    bits, first = [], 0
    for channels in segments:
        for c in range(channels):
            bits.append((words[..., first + c // 32].astype(np.int64) >> (c % 32)) & 1)
        first += words_of(channels)
    assert words.shape[-1] == first
    return np.stack(bits, axis=-1)


def read_codes(words: NDArray, segments: Sequence[int]) -> NDArray:
    """[B, H, W, P, N] words to [B, H, W, C] int64 codes."""
    bits = read_bits(words, segments)
    return np.sum([bits[..., plane, :] << plane for plane in range(bits.shape[-2])], axis=0)


def write_codes(codes: NDArray, bits: int) -> NDArray:
    """[..., C] codes to [..., P, N] words: one segment, unused bits 0."""
    channels = codes.shape[-1]
    words = np.zeros((*codes.shape[:-1], bits, words_of(channels)), np.uint32)
    for plane in range(bits):
        for c in range(channels):
            bit = (codes[..., c].astype(np.uint32) >> np.uint32(plane)) & np.uint32(1)
            words[..., plane, c // 32] |= bit << np.uint32(c % 32)
    return words


def weights(layer: Any) -> NDArray:
    """[h, w, C, K] int64 weights of a packed convolution."""
    positive = read_bits(np.asarray(layer.positive), layer.segments)
    if layer.negative is None:
        w = 2 * positive - 1
    else:
        w = positive - read_bits(np.asarray(layer.negative), layer.segments)
    if layer.exponent is not None:
        low, high = read_bits(np.asarray(layer.exponent), layer.segments)
        w = w << (low + 2 * high)
    return w.swapaxes(2, 3)


def values(codes: NDArray, bits: int) -> NDArray:
    return 2 * codes - (2**bits - 1)


def sums(codes: NDArray, layer: Any) -> NDArray:
    """[B, H', W', K] dot products of activations and weights."""
    bits = {1: 1, 3: 2}[np.shape(layer.theta)[0]]
    x, w = values(codes, bits), weights(layer)
    if w.shape[:2] == (2, 2):
        return convolution.up_conv2x2(x, w)
    return convolution.conv3x3(x, w, padding=-(2**bits - 1))


def compared(y: NDArray, theta: Any) -> NDArray:
    """Codes of sums: how many thresholds each reaches."""
    return np.sum([y >= level for level in np.asarray(theta).astype(np.int64)], axis=0)


def convolved(codes: NDArray, layer: Any) -> NDArray:
    return compared(sums(codes, layer), layer.theta)


def stem(levels: NDArray, layer: Any) -> NDArray:
    """Codes [B, H, W, K] of the convolution on images of 256 levels."""
    weight = np.asarray(layer.weight).astype(np.int64)
    y = convolution.conv3x3(2 * levels.astype(np.int64) - 255, weight, padding=0)
    return compared(y, layer.theta)


def network(params: Any, images: NDArray) -> tuple[dict[str, NDArray], NDArray]:
    """Codes of every layer, and the logits, both of images padded to multiples of 16."""
    first = stem(levels_of(padded_to_16(images)), params.stem)
    seen = {"stem.conv1": first}

    def apply(name: str, codes: NDArray) -> NDArray:
        seen[name] = convolved(codes, params.convs[name])
        return seen[name]

    def double(name: str, codes: NDArray) -> NDArray:
        return apply(f"{name}.conv2", apply(f"{name}.conv1", codes))

    skips = [apply("stem.conv2", first)]
    for number in "1234":
        skips.append(double(f"down_c{number}", convolution.max_pool2x2(skips[-1])))
    codes = skips.pop()
    for number in "1234":
        beside = apply(f"up_ct{number}.conv", codes)
        codes = double(f"up_c{number}", np.concatenate([skips.pop(), beside], axis=-1))
    bits = params.config.quantization.activation_bits
    return seen, logits(values(codes, bits), params.head)


def logits(x: NDArray, head: Any) -> NDArray:
    """Weights as whole multiples of 2^-149, the smallest float32: sums of Python integers."""
    weight, bias = (
        np.vectorize(lambda value: int(value * 2.0**149), otypes=[object])(
            np.asarray(array, np.float64)
        )
        for array in (head.weight, head.bias)
    )
    total = x.astype(object) @ weight + bias
    return np.vectorize(lambda whole: whole / 2**149, otypes=[np.float64])(total)
