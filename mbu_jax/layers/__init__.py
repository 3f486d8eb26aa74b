"""Flax NNX layers of the masked binary U-Net.

A quantized layer keeps floating *latent* weights, quantizes them on every forward pass and
trains through a straight-through gradient. In training mode BatchNorm normalizes by batch
statistics; in evaluation mode the same layer compares its accumulator with folded thresholds
(see `mbu_jax.thresholds`), which is what the packed network does.

No module shares a reference with another, so NNX's graph mode and tree mode both work.
"""

from mbu_jax.layers.blocks import DoubleConv, Up
from mbu_jax.layers.convolutions import Conv3x3, UpConv2x2
from mbu_jax.layers.folding import Folded, Folding, fold
from mbu_jax.layers.head import Head
from mbu_jax.layers.latent_weights import (
    LatentWeight,
    Precision,
    QuantizationOptions,
    check_precision,
    latent_initializer,
    quantize_weight,
)
from mbu_jax.layers.norm_activation import NormActivation
from mbu_jax.layers.stem import ImageConv3x3, Stem

__all__ = [
    "Conv3x3",
    "DoubleConv",
    "Folded",
    "Folding",
    "Head",
    "ImageConv3x3",
    "LatentWeight",
    "NormActivation",
    "Precision",
    "QuantizationOptions",
    "Stem",
    "Up",
    "UpConv2x2",
    "check_precision",
    "fold",
    "latent_initializer",
    "quantize_weight",
]
