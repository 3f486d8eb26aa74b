"""Convolutions with their activations: two in a row, or one transposed."""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mbu_jax.layers.convolutions import Conv3x3, UpConv2x2
from mbu_jax.layers.latent_weights import INTEGERS, Precision, QuantizationOptions
from mbu_jax.layers.norm_activation import NormActivation


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions, each with BatchNorm and activation.

    Args:
      in_channels: C of the input.
      out_channels: K of the output, and of the middle.
      precisions: of the first and second convolution's weights, each as in `Conv3x3`.
      options: quantization.
      dtype: of the arithmetic where a precision is float32, as in `Conv3x3`.
      rngs: NNX random keys.

    Example:
      >>> block = DoubleConv(4, 8, ("binary", "binary"), QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> block(jnp.ones((1, 4, 4, 4))).shape
      (1, 4, 4, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        precisions: tuple[Precision, Precision],
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        first, second = precisions
        self.conv1 = Conv3x3(in_channels, out_channels, first, options, dtype=dtype, rngs=rngs)
        self.norm1 = NormActivation(out_channels, options, integer=first in INTEGERS, rngs=rngs)
        self.conv2 = Conv3x3(out_channels, out_channels, second, options, dtype=dtype, rngs=rngs)
        self.norm2 = NormActivation(out_channels, options, integer=second in INTEGERS, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Apply both convolutions.

        Args:
          x: [B, H, W, C] image or activations.

        Returns:
          [B, H, W, K] activations.
        """
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class Up(nnx.Module):
    """Transposed convolution; with BatchNorm and activation where the network is quantized.

    The full-precision network has a bias instead, as the paper's Figure A.1 draws it.

    Args:
      channels: C, of input and output.
      precision: of the weights, as in `UpConv2x2`.
      options: quantization.
      dtype: of the arithmetic where the precision is float32, as in `UpConv2x2`.
      rngs: NNX random keys.

    Example:
      >>> Up(4, "masked", QuantizationOptions(), rngs=nnx.Rngs(0))(jnp.ones((1, 2, 3, 4))).shape
      (1, 4, 6, 4)
    """

    def __init__(
        self,
        channels: int,
        precision: Precision,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = UpConv2x2(channels, channels, precision, options, dtype=dtype, rngs=rngs)
        self.quantized = options.activation_bits < 32
        if self.quantized:
            self.norm = NormActivation(channels, options, integer=precision in INTEGERS, rngs=rngs)
        else:
            self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Upsample.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, 2H, 2W, C] activations.
        """
        y = self.conv(x)
        if self.quantized:
            return self.norm(y)
        return y + self.bias[...].astype(y.dtype).reshape(1, 1, 1, -1)
