"""The convolution on the image as a JAX primitive, and its engines."""

from typing import Any

import jax
import jax.numpy as jnp

from mbu_jax.errors import InputError
from mbu_jax.ops.operation import Engine, Operation
from mbu_jax.ops.stem.xla import stem_xla
from mbu_jax.packing import PackedStem, word_count


def _shape(images: Any, layer: PackedStem) -> jax.ShapeDtypeStruct:
    if images.dtype != jnp.float32 or images.shape[3:] != (layer.in_channels,):
        raise InputError(
            f"stem takes images, float32 [B, H, W, {layer.in_channels}], "
            f"not {images.dtype}{list(images.shape)}"
        )
    words = word_count(layer.out_channels)
    return jax.ShapeDtypeStruct((*images.shape[:3], layer.activation_bits, words), jnp.uint32)


OPERATION = Operation("stem", _shape)
OPERATION.register(Engine("xla", stem_xla))
