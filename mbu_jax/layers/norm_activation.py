"""BatchNorm and activation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from mbu_jax.layers.folding import Folded, Folding
from mbu_jax.layers.latent_weights import QuantizationOptions
from mbu_jax.quantizers import quantize_activation
from mbu_jax.thresholds import fold_batch_norm


class NormActivation(Folding):
    """BatchNorm and activation; in evaluation mode, a comparison with folded thresholds.

    Args:
      channels: C.
      options: quantization; ``activation_bits=32`` gives ReLU and no folding.
      integer: whether the input is the integer accumulator of a quantized convolution.
      factor: how many times larger than in training the input is in evaluation.
      rngs: NNX random keys.

    Example:
      >>> layer = NormActivation(2, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([[[[5.0, -3.0]], [[1.0, 9.0]]]])).tolist()
      [[[[1.0, -1.0]], [[-1.0, 1.0]]]]
    """

    def __init__(
        self,
        channels: int,
        options: QuantizationOptions,
        *,
        integer: bool,
        factor: float = 1.0,
        rngs: nnx.Rngs,
    ):
        super().__init__(options)
        bits = options.activation_bits
        # Unit-variance inputs use two-bit levels best when cut at ±1 standard deviation.
        scale = 2.0 if bits == 2 else 1.0
        self.norm = nnx.BatchNorm(
            channels,
            momentum=0.9,
            epsilon=1e-5,
            use_fast_variance=False,  # E[y²] - E[y]² loses the variance of a large accumulator
            scale_init=nnx.initializers.constant(scale),
            rngs=rngs,
        )
        self.integer = integer
        self.factor = factor
        if bits < 32:
            self.theta = Folded(jnp.zeros((2**bits - 1, channels), jnp.float32))
            self.sign = Folded(jnp.ones((channels,), jnp.float32))

    def _fold(self) -> None:
        norm = self.norm
        assert norm.scale is not None, "BatchNorm is made with a scale"
        assert norm.bias is not None, "BatchNorm is made with a bias"
        folded = fold_batch_norm(
            *(norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...]),
            epsilon=norm.epsilon,
            bits=self.options.activation_bits,
            integer=self.integer,
            factor=self.factor,
        )
        # Float32 holds every integer that an accumulator can reach; larger ones stay larger.
        self.theta[...] = jnp.asarray(folded.theta, jnp.float32)
        self.sign[...] = jnp.asarray(folded.sign)

    def __call__(self, y: Array) -> Array:
        """Normalize and activate.

        Args:
          y: [B, H, W, C] accumulators.

        Returns:
          [B, H, W, C] activations.
        """
        bits = self.options.activation_bits
        if bits == 32:
            z = self.norm(y.astype(jnp.float32))
            return jax.nn.relu(z).astype(y.dtype)
        y = y.astype(jnp.float32)
        if not self.use_running_average:
            return quantize_activation(self.norm(y), bits, self.options.activation_gradient)
        if self.integer:
            y = jnp.round(y)  # some GPU convolutions (Winograd) miss integers by a rounding
        y = y * self.sign[...].reshape(1, 1, 1, -1)
        code = sum((y >= t.reshape(1, 1, 1, -1)).astype(jnp.float32) for t in self.theta[...])
        return 2 * code - (2**bits - 1)
