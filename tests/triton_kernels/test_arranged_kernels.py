"""Weights that were arranged before a program runs give what those arranged by it give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.bitsliced.engines import split_segments
from mbu_jax.ops.bitsliced_lists import bitsliced_lists
from mbu_jax.ops.conv3x3 import conv3x3
from mbu_jax.ops.gpu import bitsliced
from mbu_jax.ops.operation import known_platform
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.ops.up_conv2x2 import up_conv2x2
from tests.triton_kernels.simulated import gpu

# More outputs than a group, few enough that programs do not have 16 of them.
SPECS = [
    ConvSpec("conv", (1, 3, 40), (33, 3), 20, "masked", density=0.2),
    ConvSpec("up", (1, 3, 5), (8,), 3, "pow2", side=2, activation_bits=2),
]


@pytest.mark.parametrize(("engine", "spec"), [*zip(("popcount", "bmma"), SPECS, strict=True)])
def test_words_are_the_same(engine: str, spec: ConvSpec) -> None:
    x, layer = spec.arguments(seed=0)
    run = functools.partial(
        up_conv2x2 if layer.transposed else conv3x3, layer=layer, implementation=engine
    )
    images = jnp.stack([x, x[:, ::-1], x[:, :, ::-1]])
    with gpu(80):
        inside = jax.jit(jax.vmap(run))(images)
        with known_platform("cpu"):
            before = jax.jit(jax.vmap(run))(images)
    np.testing.assert_array_equal(before, inside)
    assert (before[0] != before[1]).any()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_planes_are_the_same_from_shorter_lists(spec: ConvSpec) -> None:
    x, layer = spec.arguments(seed=0)
    width = x.shape[2]
    listed = bitsliced.arrange_conv(split_segments(x, layer.segments), layer, width=width)
    weights = (1 if layer.transposed else 9) * layer.positive.shape[3] * 32
    assert listed.lists.shape[3] < weights
    images = split_segments(jnp.concatenate([x, x[:, ::-1], x[:, :, ::-1]]), layer.segments)
    expected = pixels.CONV(images, layer, width=width)
    shapes = jax.eval_shape(lambda: layer)
    with gpu(80):
        run = jax.jit(lambda x, listed: bitsliced.conv(x, shapes, listed, width=width))
        np.testing.assert_array_equal(run(images, listed), expected)


def test_the_kernels_lists_are_those_of_plain_jax() -> None:
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.integers(0, 2**32, (3, 2, 33), np.uint32) & np.uint32(0x1111F00F))
    planes = jnp.asarray(rng.permutation(33).astype(np.int32) * 1000)
    run = functools.partial(bitsliced_lists, weights, planes, channel_step=9, zeros=77)
    expected = run(implementation="xla")
    with gpu(90) as called:
        found = jax.jit(functools.partial(run, implementation="bitsliced"))()
    assert {kernel.function.__name__ for kernel in called} == {"bitsliced_lists_kernel"}
    np.testing.assert_array_equal(found, expected)
