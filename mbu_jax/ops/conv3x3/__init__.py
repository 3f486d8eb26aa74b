"""Packed 3x3 convolution and comparison."""

from mbu_jax.ops.conv3x3.api import conv3x3

__all__ = ["conv3x3"]
