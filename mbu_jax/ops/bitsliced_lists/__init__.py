"""Lists of non-zero weights."""

from mbu_jax.ops.bitsliced_lists.api import bitsliced_lists

__all__ = ["bitsliced_lists"]
