"""Convolutions of either kind at any precision."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mbu_jax import convolution
from mbu_jax.layers.latent_weights import (
    LatentWeight,
    Precision,
    QuantizationOptions,
    check_precision,
    latent_initializer,
    quantize_weight,
)


class _Convolution(nnx.Module):
    """The weights of one convolution at one precision.

    Attributes:
      use_running_average: False in training; `flax.nnx.Module.eval` sets it.
    """

    _side: ClassVar[int]  # of the kernel
    _taps: ClassVar[int]  # of the kernel, those that meet in one output

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        precision: Precision,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        check_precision(precision, type(self).__name__)
        self.precision: Precision = precision
        self.options = options
        self.dtype = jnp.dtype(dtype)
        self.use_running_average = False
        shape = (self._side, self._side, in_channels, out_channels)
        if precision == "float32":
            scale = jnp.sqrt(2.0 / (self._taps * in_channels)).astype(jnp.float32)
            self.weight = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * scale)
        else:
            init = latent_initializer(options.density)
            self.weight = LatentWeight(init(rngs.params(), shape, jnp.float32))
        if precision == "ttq":
            self.scales = nnx.Param(jnp.ones(2, jnp.float32))

    def quantized_weight(self) -> Array:
        """The weights that the layer multiplies by, integers as far as its precision has them."""
        scales = self.scales[...] if self.precision == "ttq" else None
        return quantize_weight(self.weight[...], self.precision, self.options, scales)

    def _operands(self, x: Array) -> tuple[Array, Array]:
        # Integers need float32's 24-bit mantissa, and so does what other engines must repeat.
        repeated = self.use_running_average and self.options.activation_bits < 32
        narrow = self.precision == "float32" and not repeated
        dtype = self.dtype if narrow else jnp.float32
        return x.astype(dtype), self.quantized_weight().astype(dtype)


class Conv3x3(_Convolution):
    """3x3 convolution, stride 1, same size, no bias.

    Quantized weights see the lowest activation level outside the image, full-precision ones 0.

    Args:
      in_channels: C of the input.
      out_channels: K of the output.
      precision: of the weights: ``float32``, ``int8``, ``int4``, ``int2``, ``pow2`` (0, ±1, ±2,
        ±4), ``masked`` (0, ±1), ``binary`` (±1) or ``ttq`` (0 and two learned magnitudes).
      options: quantization.
      dtype: of the arithmetic where the precision is float32; evaluation takes float32 wherever
        activations are quantized.
      rngs: NNX random keys.

    Raises:
      InputError: for an unknown precision.

    Example:
      >>> layer = Conv3x3(4, 8, "masked", QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((1, 5, 7, 4))).shape
      (1, 5, 7, 8)
    """

    _side, _taps = 3, 9

    def __call__(self, x: Array) -> Array:
        """Convolve.

        Args:
          x: [B, H, W, C] image or activations.

        Returns:
          [B, H, W, K] accumulators: integers where the weights are quantized.
        """
        lowest = -(2.0**self.options.activation_bits - 1)
        padding = 0.0 if self.precision == "float32" else lowest
        return convolution.conv3x3(*self._operands(x), padding)


class UpConv2x2(_Convolution):
    """2x2 transposed convolution with stride 2, no bias.

    Args:
      in_channels: C of the input.
      out_channels: K of the output.
      precision: of the weights: ``float32``, ``int8``, ``int4``, ``int2``, ``pow2`` (0, ±1, ±2,
        ±4), ``masked`` (0, ±1), ``binary`` (±1) or ``ttq`` (0 and two learned magnitudes).
      options: quantization.
      dtype: of the arithmetic where the precision is float32; evaluation takes float32 wherever
        activations are quantized.
      rngs: NNX random keys.

    Raises:
      InputError: for an unknown precision.

    Example:
      >>> layer = UpConv2x2(4, 8, "binary", QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((1, 5, 7, 4))).shape
      (1, 10, 14, 8)
    """

    _side, _taps = 2, 1

    def __call__(self, x: Array) -> Array:
        """Convolve.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, 2H, 2W, K] accumulators: integers where the weights are quantized.
        """
        return convolution.up_conv2x2(*self._operands(x))
