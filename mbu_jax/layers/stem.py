"""The two convolutions behind the image."""

from typing import override

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mbu_jax import convolution
from mbu_jax.images import LARGEST_LEVEL, image_to_float, image_to_levels, numerators
from mbu_jax.layers.blocks import DoubleConv
from mbu_jax.layers.convolutions import Conv3x3
from mbu_jax.layers.folding import Folded, Folding
from mbu_jax.layers.latent_weights import Precision, QuantizationOptions
from mbu_jax.layers.norm_activation import NormActivation
from mbu_jax.thresholds import round_image_weights


class ImageConv3x3(Conv3x3, Folding):
    """3x3 convolution of ``2 image - 1``, zeros outside, with full-precision weights.

    Where activations are quantized, evaluation sums integers: numerators of the image's 256 levels
    times weights rounded to 15 bits and a sign. These sums, 255 times those of training, are exact
    in float32 in any order, so every engine compares the same numbers.

    Args:
      in_channels: C of the image.
      out_channels: K of the output.
      options: quantization; with ``activation_bits=32`` evaluation is as training.
      dtype: of the arithmetic in training, as in `Conv3x3`.
      rngs: NNX random keys.

    Example:
      >>> layer = ImageConv3x3(3, 8, QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((1, 4, 4, 3))).shape
      (1, 4, 4, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(in_channels, out_channels, "float32", options, dtype=dtype, rngs=rngs)
        if options.activation_bits < 32:
            self.exact_weight = Folded(jnp.full_like(self.weight[...], jnp.inf))

    def _fold(self) -> None:
        integers, step = round_image_weights(self.weight[...])
        self.exact_weight[...] = jnp.asarray(integers * step, jnp.float32)

    @override
    def __call__(self, x: Array) -> Array:
        """Convolve.

        Args:
          x: images [B, H, W, C], float32 in [0, 1] or uint8.

        Returns:
          [B, H, W, K] sums; in evaluation, where activations are quantized, 255 times as large.
        """
        if self.use_running_average and self.options.activation_bits < 32:
            levels = image_to_levels(x)
            return convolution.exact_conv3x3(numerators(levels), self.exact_weight[...])
        return super().__call__(2 * image_to_float(x) - 1)


class Stem(DoubleConv):
    """The first two convolutions; the one on the image is full precision, the next is masked.

    A sign keeps no amplitude, so what its threshold separates matters from the first update on.
    Half of the first convolution's channels start without a response to constant brightness and
    see contrast, however dim the image; the others start with thresholds spread over ±1.5
    standard deviations and see brightness, as a thermometer does.

    Args:
      in_channels: C of the image.
      out_channels: K of the output.
      options: quantization; with ``activation_bits=32`` this is a plain `DoubleConv`.
      dtype: of the full-precision arithmetic, as in `Conv3x3`.
      rngs: NNX random keys.

    Example:
      >>> stem = Stem(3, 8, QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> stem(jnp.ones((1, 4, 4, 3))).shape
      (1, 4, 4, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        bits = options.activation_bits
        second: Precision = "float32" if bits == 32 else "masked"
        outputs = out_channels
        self.conv1 = ImageConv3x3(in_channels, outputs, options, dtype=dtype, rngs=rngs)
        self.norm1 = NormActivation(
            outputs, options, integer=False, factor=float(LARGEST_LEVEL), rngs=rngs
        )
        self.conv2 = Conv3x3(outputs, outputs, second, options, dtype=dtype, rngs=rngs)
        self.norm2 = NormActivation(outputs, options, integer=bits < 32, rngs=rngs)
        if bits == 32:
            return
        contrast = out_channels // 2
        kernels = self.conv1.weight[...]
        means = kernels.mean(axis=(0, 1), keepdims=True)
        is_contrast = jnp.arange(out_channels).reshape(1, 1, 1, -1) < contrast
        self.conv1.weight[...] = jnp.where(is_contrast, kernels - means, kernels)
        spread = jnp.linspace(-1.5, 1.5, out_channels - contrast, dtype=jnp.float32)
        bias = self.norm1.norm.bias
        assert bias is not None, "BatchNorm is made with scale and bias"
        bias[...] = bits * jnp.concatenate([jnp.zeros(contrast, jnp.float32), spread])
