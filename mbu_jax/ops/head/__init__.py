"""Logits of packed activations."""

from mbu_jax.ops.head.api import head

__all__ = ["head"]
