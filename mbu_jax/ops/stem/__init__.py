"""The convolution on the image."""

from mbu_jax.ops.stem.api import stem

__all__ = ["stem"]
