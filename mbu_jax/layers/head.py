"""The 1x1 convolution that makes logits."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from mbu_jax import convolution
from mbu_jax.layers.folding import Folded, Folding
from mbu_jax.layers.latent_weights import QuantizationOptions
from mbu_jax.thresholds import round_for_exact_sums


class Head(Folding):
    """1x1 convolution with bias, always full precision.

    Behind quantized activations, evaluation rounds the weights so that their sums are exact in
    float32, whatever the order: every engine then gives the same logits, to the last bit.

    Args:
      in_channels: C of the input.
      classes: channels of the logits.
      options: quantization of the input.
      dtype: of the arithmetic; evaluation takes float32 wherever activations are quantized.
      rngs: NNX random keys.

    Example:
      >>> Head(4, 2, QuantizationOptions(), rngs=nnx.Rngs(0))(jnp.ones((1, 2, 2, 4))).shape
      (1, 2, 2, 2)
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        super().__init__(options)
        scale = jnp.sqrt(1.0 / in_channels).astype(jnp.float32)
        shape = (in_channels, classes)
        self.weight = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32) * scale)
        self.bias = nnx.Param(jnp.zeros((classes,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        if options.activation_bits < 32:
            self.exact_weight = Folded(jnp.full(shape, jnp.inf, jnp.float32))
            self.exact_bias = Folded(jnp.full((classes,), jnp.inf, jnp.float32))

    def _fold(self) -> None:
        largest = 2**self.options.activation_bits - 1
        weight, bias = round_for_exact_sums(self.weight[...], self.bias[...], largest=largest)
        self.exact_weight[...] = jnp.asarray(weight)
        self.exact_bias[...] = jnp.asarray(bias)

    def __call__(self, x: Array) -> Array:
        """Classify every pixel.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, H, W, classes] float32 logits.
        """
        if self.use_running_average and self.options.activation_bits < 32:
            y = convolution.conv1x1(x.astype(jnp.float32), self.exact_weight[...])
            return y + self.exact_bias[...].reshape(1, 1, 1, -1)
        y = convolution.conv1x1(x.astype(self.dtype), self.weight[...].astype(self.dtype))
        return y.astype(jnp.float32) + self.bias[...].reshape(1, 1, 1, -1)
