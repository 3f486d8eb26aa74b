"""The two convolutions behind the image."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from mbu_jax.layers.blocks import DoubleConv
from mbu_jax.layers.latent_weights import Precision, QuantizationOptions


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
        super().__init__(
            in_channels, out_channels, ("float32", second), options, dtype=dtype, rngs=rngs
        )
        if bits == 32:
            return
        contrast = out_channels // 2
        kernels = self.conv1.weight[...]
        means = kernels.mean(axis=(0, 1), keepdims=True)
        is_contrast = jnp.arange(out_channels).reshape(1, 1, 1, -1) < contrast
        self.conv1.weight[...] = jnp.where(is_contrast, kernels - means, kernels)
        spread = jnp.linspace(-1.5, 1.5, out_channels - contrast)
        bias = self.norm1.norm.bias
        assert bias is not None, "BatchNorm is made with scale and bias"
        bias[...] = bits * jnp.concatenate([jnp.zeros(contrast), spread])
