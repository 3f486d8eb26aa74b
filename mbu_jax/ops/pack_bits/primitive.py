"""Packing of codes as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import target
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.pack_bits.popcount import pack_bits_popcount
from mbu_jax.ops.pack_bits.xla import pack_bits_xla
from mbu_jax.packing import word_count


def _shape(codes: Any, layer: None, *, bits: int) -> jax.ShapeDtypeStruct:
    if bits not in (1, 2):
        raise InputError(f"activation bits must be 1 or 2, not {bits}")
    if codes.dtype != jnp.uint8 or len(codes.shape) != 4:
        raise InputError(
            f"pack_bits takes codes, uint8 [B, H, W, C], not {codes.dtype}{list(codes.shape)}"
        )
    return jax.ShapeDtypeStruct((*codes.shape[:3], bits, word_count(codes.shape[3])), jnp.uint32)


OPERATION = Operation("pack_bits", _shape)
OPERATION.register(Engine("xla", pack_bits_xla))
OPERATION.register(
    Engine("popcount", pack_bits_popcount, platforms=("cuda",), absent=target.absent)
)
