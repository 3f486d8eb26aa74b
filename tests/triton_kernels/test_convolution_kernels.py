"""The convolutions' kernels, run as compiled PTX, against the independent oracle."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from mbu_jax import ops
from mbu_jax.ops.conv3x3 import arg_specs as conv_specs
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.ops.up_conv2x2 import arg_specs as up_specs
from mbu_jax.packing import PackedConv
from tests.oracles import packed_network
from tests.triton_kernels.compiled import TARGETS
from tests.triton_kernels.simulated import gpu

SPECS = [
    *conv_specs.ODD,
    ConvSpec("several_tiles", (2, 17, 19), (64,), 40, "binary", activation_bits=2),
    ConvSpec("four_words", (1, 9, 9), (64, 64), 33, "masked"),
    *up_specs.ODD,
    ConvSpec("four_words", (2, 9, 9), (64, 64), 33, "binary", side=2),
]


def expected(x: jax.Array, layer: PackedConv) -> NDArray:
    bits = layer.activation_bits
    codes = packed_network.read_codes(np.asarray(x), layer.segments)
    return packed_network.write_codes(packed_network.convolved(codes, layer), bits)


def check(spec: ConvSpec, target: int, seed: int) -> None:
    x, layer = spec.arguments(seed)
    operation = ops.up_conv2x2 if layer.transposed else ops.conv3x3
    with gpu(target):
        words = operation(x, layer, implementation="popcount")
    np.testing.assert_array_equal(words, expected(x, layer))


@pytest.mark.parametrize(
    ("spec", "target"),
    [(spec, TARGETS[i % len(TARGETS)]) for i, spec in enumerate(SPECS)],
    ids=[f"{spec.name}_{spec.side}x{spec.side}" for spec in SPECS],
)
def test_a_kernel_gives_every_bit(spec: ConvSpec, target: int) -> None:
    check(spec, target, seed=1)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    channels=st.integers(33, 64),
    outputs=st.integers(1, 70),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_kernel_gives_every_bit_of_any_size(
    size: tuple[int, int, int], channels: int, outputs: int, density: float, seed: int
) -> None:
    check(ConvSpec("any", size, (channels,), outputs, "masked", density=density), 90, seed)


def test_mapped_images_and_layers_give_every_bit() -> None:
    spec = ConvSpec("mapped", (2, 3, 4), (40,), 33, "masked", activation_bits=2)
    (x, layer), (other_x, other) = spec.arguments(1), spec.arguments(2)
    xs = jnp.stack([x, other_x], axis=2)
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), layer, other)

    def run(x: jax.Array, layer: PackedConv) -> jax.Array:
        return ops.conv3x3(x, layer, implementation="popcount")

    with gpu(80) as called:
        images = jax.vmap(run, in_axes=(2, None))(xs, layer)
        pairs = jax.vmap(run, in_axes=(2, 0))(xs, layers)
    assert len(called) > 0
    np.testing.assert_array_equal(images[0], expected(x, layer))
    np.testing.assert_array_equal(images[1], expected(other_x, layer))
    np.testing.assert_array_equal(pairs[0], images[0])
    np.testing.assert_array_equal(pairs[1], expected(other_x, other))


def test_a_sharded_batch_stays_where_it_is() -> None:
    spec = ConvSpec("sharded", (4, 3, 5), (40,), 33, "binary")
    x, layer = spec.arguments(seed=1)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    over = NamedSharding(mesh, PartitionSpec("batch"))
    run = jax.jit(lambda x: ops.conv3x3(x, layer, implementation="popcount"))
    with gpu(90):
        # JAX does not keep callbacks of what it partitions, so this is for reading alone.
        program = run.lower(jax.device_put(x, over)).compile().as_text() or ""
    (call,) = re.findall(r" = (.*) custom-call\(.*, custom_call_target=.*callback", program)
    assert "u32[2,3,5,1,2]" in call
    assert not re.search(r"all-gather|all-to-all|all-reduce|collective-permute", program)
