"""Packing of codes by a Triton kernel."""

import jax
import jax.numpy as jnp
from jax import Array

from mbu_jax.ops.batches import split_over_batch
from mbu_jax.ops.gpu.calls import call
from mbu_jax.packing import word_count


def pack_bits_popcount(codes: Array, layer: None = None, *, bits: int) -> Array:
    """Shift every bit to its place and add.

    Args:
      codes: [B, H, W, C] uint8.
      layer: None; packing has no parameters.
      bits: 1 or 2.

    Returns:
      [B, H, W, P, ceil(C/32)] uint32.
    """
    from triton_kernels import pack_bits

    def run(codes: Array) -> Array:
        launch = pack_bits.launch(codes.shape, planes=bits)
        shape = (*codes.shape[:3], bits, word_count(codes.shape[3]))
        return call(launch, jax.ShapeDtypeStruct(shape, jnp.uint32), codes)

    return split_over_batch(run, batched=1)(codes)
