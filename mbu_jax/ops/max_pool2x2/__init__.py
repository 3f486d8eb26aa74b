"""Max-pool of packed activations."""

from mbu_jax.ops.max_pool2x2.api import max_pool2x2

__all__ = ["max_pool2x2"]
