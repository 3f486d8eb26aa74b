"""Layers whose sums 32 bits cannot hold are refused before anything runs."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mbu_jax import ops
from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.packing import PackedConv, word_count

# (2^30 - 1) // (levels x largest weight x taps)
LIMITS = [("binary", 1, 3, 119304647), ("pow2", 2, 3, 9942053), ("masked", 2, 2, 357913941)]


def shapes(precision: str, bits: int, side: int, channels: int) -> PackedConv:
    def shape(dtype: Any, *sizes: int) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    def words(*leading: int) -> Any:
        return shape(jnp.uint32, *leading, side, side, 1, word_count(channels))

    return PackedConv(
        positive=words(),
        negative=None if precision == "binary" else words(),
        exponent=words(2) if precision == "pow2" else None,
        theta=shape(jnp.int32, 2**bits - 1, 1),
        segments=(channels,),
    )


@pytest.mark.parametrize(("precision", "bits", "side", "most"), LIMITS)
@pytest.mark.parametrize("layout", ["channels", "pixels"])
def test_the_widest_layer_fits_and_a_wider_one_is_refused(
    precision: str, bits: int, side: int, most: int, layout: str
) -> None:
    def traced(channels: int) -> jax.ShapeDtypeStruct:
        layer = shapes(precision, bits, side, channels)
        if layout == "channels":
            operation = ops.conv3x3 if side == 3 else ops.up_conv2x2
            x = jax.ShapeDtypeStruct((1, 2, 2, bits, word_count(channels)), jnp.uint32)
            return jax.eval_shape(operation, x, layer)
        parts = [jax.ShapeDtypeStruct((1, bits, n, 2, 1), jnp.uint32) for n in (channels, 0)]
        return jax.eval_shape(lambda x, layer: pixels.CONV(x, layer, width=2), parts, layer)

    assert traced(most).shape[0] == 1
    with pytest.raises(InputError, match=f"{most + 1} channels lets sums overflow 32 bits; at mos"):
        traced(most + 1)
