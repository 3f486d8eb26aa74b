"""The `xla` engine's packing, pooling, stem and head against the references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax import ops
from mbu_jax.ops.head.reference import head_reference
from mbu_jax.ops.max_pool2x2.reference import max_pool2x2_reference
from mbu_jax.ops.stem.reference import stem_reference
from mbu_jax.packing import PackedHead, PackedStem, pack_channels
from tests.oracles import packed_network

RNG = np.random.default_rng(0)


def random_words(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.integers(0, 2**32, shape, dtype=np.uint32))


@pytest.mark.parametrize("planes", [1, 2])
def test_max_pool_takes_the_largest_code(planes: int) -> None:
    x = random_words(2, 6, 4, planes, 3)
    pooled = ops.max_pool2x2(x)
    np.testing.assert_array_equal(pooled, max_pool2x2_reference(x))
    mapped = jax.vmap(ops.max_pool2x2, in_axes=2, out_axes=3)(jnp.stack([x, x], axis=2))
    np.testing.assert_array_equal(mapped[:, :, :, 1], pooled)


@pytest.mark.parametrize("bits", [1, 2])
def test_pack_bits_packs_channels(bits: int) -> None:
    codes = jnp.asarray(RNG.integers(0, 2**bits, (2, 3, 5, 33)).astype(np.uint8))
    words = packed_network.write_codes(np.asarray(codes), bits)
    np.testing.assert_array_equal(ops.pack_bits(codes, bits), words)
    mapped = jax.vmap(lambda c: ops.pack_bits(c, bits))(jnp.stack([codes, codes]))
    np.testing.assert_array_equal(mapped[1], words)


def random_stem(bits: int) -> PackedStem:
    theta = np.sort(RNG.normal(0, 1e5, (2**bits - 1, 40)), axis=0)
    weight = RNG.integers(-999, 1000, (3, 3, 3, 40))
    return PackedStem(jnp.asarray(weight, jnp.int16), jnp.asarray(theta, jnp.int32)).validate()


@pytest.mark.parametrize(("size", "bits"), [((1, 1, 1), 1), ((2, 97, 65), 2)])
def test_stem_in_blocks_is_the_stem_at_once(size: tuple[int, ...], bits: int) -> None:
    layer = random_stem(bits)
    levels = jnp.asarray(RNG.integers(0, 256, (*size, 3)).astype(np.uint8))
    codes = ops.stem(levels, layer, implementation="xla")
    np.testing.assert_array_equal(codes, jax.jit(stem_reference)(levels, layer))


@pytest.mark.parametrize(("channels", "planes"), [(4, 1), (40, 2)])
def test_head_is_the_exact_sum(channels: int, planes: int) -> None:
    codes = RNG.integers(0, 2**planes, (2, 3, 5, channels)).astype(np.uint8)
    layer = PackedHead(
        jnp.asarray(RNG.integers(-999, 999, (channels, 3)) / 256, jnp.float32),
        jnp.asarray(RNG.integers(-999, 999, 3) / 256, jnp.float32),
    ).validate(bits=planes)
    x = pack_channels(jnp.asarray(codes), planes)
    logits = ops.head(x, layer, implementation="xla")
    np.testing.assert_array_equal(logits, head_reference(x, layer))
    values = 2.0 * codes - (2**planes - 1)
    exact = values @ np.asarray(layer.weight, np.float64) + np.asarray(layer.bias, np.float64)
    np.testing.assert_array_equal(np.asarray(logits, np.float64), exact)
