"""Bits in words: two layouts of quantized activations, and the packed network's parameters."""

from mbu_jax.packing.layers import PackedConv, PackedHead, PackedStem
from mbu_jax.packing.layouts import (
    WORD_BITS,
    channels_to_pixels,
    pack_channels,
    pack_pixels,
    pixels_to_channels,
    unpack_channels,
    unpack_pixels,
    valid_bits,
    word_count,
)
from mbu_jax.packing.network import PackedUNet, check_packed, unet_template

__all__ = [
    "WORD_BITS",
    "PackedConv",
    "PackedHead",
    "PackedStem",
    "PackedUNet",
    "channels_to_pixels",
    "check_packed",
    "pack_channels",
    "pack_pixels",
    "pixels_to_channels",
    "unet_template",
    "unpack_channels",
    "unpack_pixels",
    "valid_bits",
    "word_count",
]
