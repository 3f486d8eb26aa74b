"""Random arguments of packed convolutions, by named shapes that tests and benchmarks share."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array

from mbu_jax.packing import PackedConv, valid_bits
from mbu_jax.packing.layers import PackedPrecision
from mbu_jax.thresholds import INT_MAX


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """Shape and kind of one packed convolution's arguments.

    Attributes:
      name: of the case.
      size: B, H and W of the input.
      segments: input channels of each concatenated part.
      out_channels: K.
      precision: of the weights.
      activation_bits: 1 or 2.
      density: share of weights that are not 0, where they may be.
      side: of the kernel; 2 is the transposed convolution.

    Example:
      >>> x, layer = ConvSpec("small", (1, 4, 5), (40,), 8, "masked").arguments(seed=0)
      >>> x.shape, layer.precision
      ((1, 4, 5, 1, 2), 'masked')
    """

    name: str
    size: tuple[int, int, int]
    segments: tuple[int, ...]
    out_channels: int
    precision: PackedPrecision
    activation_bits: int = 1
    density: float = 0.5
    side: int = 3

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those on the border and with zero weights included."""
        return math.prod(self.size) * self.side**2 * sum(self.segments) * self.out_channels

    def arguments(self, seed: int) -> tuple[Array, PackedConv]:
        """Draw words, weights and thresholds near 0; a channel each is always and never passed.

        Args:
          seed: of the random numbers.

        Returns:
          Input words, uint32 [B, H, W, P, N], and the layer.
        """
        rng = np.random.default_rng(seed)
        valid = valid_bits(self.segments)
        kernel = (self.side, self.side, self.out_channels, len(valid))

        def bits(*shape: int, density: float = 0.5) -> np.ndarray:
            chosen = rng.random((*shape, 32), np.float32) < density
            return np.packbits(chosen, axis=-1, bitorder="little").view("<u4")[..., 0]

        x = bits(*self.size, self.activation_bits, len(valid)) & valid
        kept = valid if self.precision == "binary" else bits(*kernel, density=self.density) & valid
        positive = bits(*kernel) & kept
        exponent = None
        if self.precision == "pow2":
            double = bits(*kernel) & kept
            exponent = jnp.asarray(np.stack([double, bits(*kernel) & kept & ~double]))
        levels = 2**self.activation_bits - 1
        spread = math.sqrt(self.side**2 * sum(self.segments) * self.density) * levels
        theta = rng.normal(0, spread, (levels, self.out_channels)).astype(np.int32)
        theta[:, 0], theta[:, -1] = -INT_MAX, INT_MAX
        layer = PackedConv(
            positive=jnp.asarray(positive),
            negative=None if self.precision == "binary" else jnp.asarray(kept & ~positive),
            exponent=exponent,
            theta=jnp.asarray(np.sort(theta, axis=0)),
            segments=self.segments,
        )
        return jnp.asarray(x), layer.validate(self.name)
