"""Logits of packed activations as their definition reads."""

from jax import Array

from mbu_jax.convolution import conv1x1
from mbu_jax.ops.values import activation_values
from mbu_jax.packing import PackedHead


def head_reference(x: Array, layer: PackedHead) -> Array:
    """Multiply floats; for tests and as a benchmark's baseline.

    Args:
      x: [B, H, W, P, N] uint32.
      layer: weights and bias.

    Returns:
      [B, H, W, classes] float32.
    """
    values = activation_values(x, (layer.in_channels,))
    return conv1x1(values, layer.weight) + layer.bias.reshape(1, 1, 1, -1)
