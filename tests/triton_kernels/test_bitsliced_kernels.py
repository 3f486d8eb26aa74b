"""The bit-sliced kernels, run as compiled PTX against the oracle."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced.engines import split_segments
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.gpu import bitsliced
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.packing import PackedConv, pack_pixels
from tests.oracles import convolution, packed_network
from tests.triton_kernels.compiled import TARGETS
from tests.triton_kernels.simulated import gpu

RNG = np.random.default_rng(0)
SPECS = [
    *conv_specs.ODD[:5],
    ConvSpec("four_words", (2, 40, 100), (8, 3), 5, "masked", density=0.2),
    *up_specs.ODD[1:],
    ConvSpec("two_words", (2, 33, 40), (8,), 3, "masked", side=2),
]


def convolved(x: tuple[Array, Array], layer: PackedConv, *, width: int) -> Array:
    return bitsliced.conv(x, layer, bitsliced.arrange_conv(x, layer, width=width), width=width)


def check(spec: ConvSpec, target: int, seed: int) -> None:
    words, layer = spec.arguments(seed)
    width = words.shape[2]
    with gpu(target):
        x = split_segments(words, layer.segments)
        planes = jax.jit(functools.partial(convolved, width=width))(x, layer)
    codes = packed_network.convolved(
        packed_network.read_codes(np.asarray(words), layer.segments), layer
    )
    expected = pack_pixels(jnp.asarray(codes, jnp.uint8), spec.activation_bits)
    np.testing.assert_array_equal(planes, expected)


@pytest.mark.parametrize(
    ("spec", "target"),
    [(spec, TARGETS[i % len(TARGETS)]) for i, spec in enumerate(SPECS)],
    ids=[f"{spec.name}_{spec.side}x{spec.side}" for spec in SPECS],
)
def test_a_kernel_gives_every_bit(spec: ConvSpec, target: int) -> None:
    check(spec, target, seed=1)


@pytest.mark.parametrize(
    ("size", "channels", "bits", "target"),
    [((1, 2, 2), 1, 1, 75), ((2, 4, 70), 3, 2, 90), ((1, 6, 130), 5, 1, 120)],
)
def test_the_pool_kernel_takes_the_largest_code(
    size: tuple[int, int, int], channels: int, bits: int, target: int
) -> None:
    codes = RNG.integers(0, 2**bits, (*size, channels)).astype(np.uint8)
    pooled = convolution.max_pool2x2(codes).astype(np.uint8)
    with gpu(target):
        planes = bitsliced.max_pool2x2(pack_pixels(jnp.asarray(codes), bits), None, width=size[2])
    np.testing.assert_array_equal(planes, pack_pixels(jnp.asarray(pooled), bits))


def test_planes_beyond_the_kernels_offsets_are_refused() -> None:
    _, layer = ConvSpec("", (1, 1, 1), (64,), 2, "masked").arguments(seed=0)
    x = jax.ShapeDtypeStruct((1, 1, 64, 8192, 2048), jnp.uint32)
    second = jax.ShapeDtypeStruct((1, 1, 0, 8192, 2048), jnp.uint32)
    with pytest.raises(InputError, match="64 channels of 8192x65536 pixels are too many"):
        jax.eval_shape(functools.partial(convolved, width=65536), (x, second), layer)


def test_a_sharded_batch_stays_where_it_is() -> None:
    words, layer = ConvSpec("sharded", (4, 3, 40), (8,), 3, "masked").arguments(seed=1)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    over = NamedSharding(mesh, PartitionSpec("batch"))
    x = jax.device_put(split_segments(words, layer.segments), over)
    with gpu(90):
        run = jax.jit(functools.partial(convolved, layer=layer, width=40))
        program = run.lower(x).compile().as_text() or ""
    # Callbacks of what is partitioned are not kept, so this is for reading alone.
    assert re.search(r"u32\[2,1,3,3,2\].* custom-call\(.*callback", program)
    assert not re.search(r"all-gather|all-to-all|all-reduce|collective-permute", program)
