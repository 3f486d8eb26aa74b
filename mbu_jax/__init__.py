"""Masked Binary U-Net for JAX and Flax: one-bit image segmentation."""

from mbu_jax.errors import InputError
from mbu_jax.layers import QuantizationOptions
from mbu_jax.unet import UNet, UNetConfig

__all__ = ["InputError", "QuantizationOptions", "UNet", "UNetConfig"]
