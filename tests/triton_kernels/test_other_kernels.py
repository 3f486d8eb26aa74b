"""The kernels of stem, pool, head and packing, run as compiled PTX, against plain definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax import ops
from mbu_jax.packing import PackedHead, PackedStem, pack_channels
from tests.oracles import convolution, packed_network
from tests.triton_kernels.simulated import gpu

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ((2, 6, 10, 1, 2), 75),
        ((1, 2, 2, 2, 1), 80),
        ((3, 4, 70, 1, 8), 90),
        ((2, 2, 30, 2, 3), 120),
    ],
)
def test_the_pool_kernel_takes_the_largest_code(shape: tuple[int, ...], target: int) -> None:
    x = RNG.integers(0, 2**32, shape, dtype=np.uint32)
    codes = packed_network.read_codes(x, (32 * shape[4],))
    pooled = packed_network.write_codes(convolution.max_pool2x2(codes), shape[3])
    with gpu(target):
        words = ops.max_pool2x2(jnp.asarray(x), implementation="popcount")
    np.testing.assert_array_equal(words, pooled)


@pytest.mark.parametrize(
    ("size", "channels", "bits", "target"),
    [
        ((1, 1, 1), 3, 1, 86),
        ((2, 9, 11), 70, 2, 100),
        ((1, 3, 15), 1, 1, 90),
        ((2, 5, 7), 1, 2, 75),
    ],
)
def test_the_packing_kernel_packs_channels(
    size: tuple[int, ...], channels: int, bits: int, target: int
) -> None:
    codes = RNG.integers(0, 2**bits, (*size, channels)).astype(np.uint8)
    with gpu(target):
        words = ops.pack_bits(jnp.asarray(codes), bits, implementation="popcount")
    np.testing.assert_array_equal(words, packed_network.write_codes(codes, bits))


@pytest.mark.parametrize(
    ("size", "channels", "classes", "bits", "target"),
    [((1, 1, 1), 4, 1, 1, 89), ((2, 9, 11), 40, 3, 2, 90)],
)
def test_the_head_kernel_sums_exactly(
    size: tuple[int, ...], channels: int, classes: int, bits: int, target: int
) -> None:
    codes = RNG.integers(0, 2**bits, (*size, channels)).astype(np.uint8)
    layer = PackedHead(
        jnp.asarray(RNG.integers(-999, 999, (channels, classes)) / 256, jnp.float32),
        jnp.asarray(RNG.integers(-999, 999, classes) / 256, jnp.float32),
    ).validate(bits=bits)
    x = pack_channels(jnp.asarray(codes), bits)
    with gpu(target):
        logits = ops.head(x, layer, implementation="popcount")
    values = packed_network.values(codes.astype(np.int64), bits)
    expected = packed_network.logits(values, layer)
    np.testing.assert_array_equal(np.asarray(logits, np.float64), expected)


@pytest.mark.parametrize(
    ("size", "channels", "outputs", "bits", "target"),
    [((1, 1, 1), 3, 2, 1, 75), ((2, 9, 17), 1, 40, 2, 80), ((1, 17, 9), 3, 64, 1, 90)],
)
def test_the_stem_kernel_gives_every_bit(
    size: tuple[int, ...], channels: int, outputs: int, bits: int, target: int
) -> None:
    levels = RNG.integers(0, 256, (*size, channels)).astype(np.uint8)
    # The largest sums that a stem may have, and their signs, on the first two channels.
    weight = RNG.integers(-1000, 1000, (3, 3, channels, outputs))
    weight[..., :2] = np.array([1, -1]) * ((2**15 - 1) // (9 * channels))
    theta = np.sort(RNG.normal(0, 200_000, (2**bits - 1, outputs)), axis=0).astype(np.int32)
    layer = PackedStem(jnp.asarray(weight, jnp.int16), jnp.asarray(theta)).validate()
    with gpu(target):
        words = ops.stem(jnp.asarray(levels), layer, implementation="popcount")
    sums = convolution.conv3x3(2 * levels.astype(np.int64) - 255, weight, padding=0)
    codes = packed_network.compared(sums, theta)
    np.testing.assert_array_equal(words, packed_network.write_codes(codes, bits))
