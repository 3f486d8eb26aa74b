"""Networks whose layers run in any mixture of layouts: the bits stay the same."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mbu_jax.layers import QuantizationOptions
from mbu_jax.ops.layouts import LayoutName, Mixed, Place
from mbu_jax.ops.network import forward
from mbu_jax.unet import UNetConfig
from tests.oracles import packed_network
from tests.random_packed import random_packed

PARAMS = random_packed(
    UNetConfig(
        width=3,
        precisions=("binary", "masked", "pow2") * 4,
        quantization=QuantizationOptions(activation_bits=2),
    )
)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 48, 3)).astype(np.uint8)
POOLS = [f"down_c{index}.pool" for index in range(1, 5)]
STEPS = ("stem.conv1", *PARAMS.conv_names, *POOLS, "head")
ALTERNATING: dict[str, LayoutName] = {
    name: "pixels" if i % 2 else "channels" for i, name in enumerate(STEPS)
}


@functools.cache
def expected() -> tuple[dict[str, np.ndarray], np.ndarray]:
    return packed_network.network(PARAMS, IMAGES)


def mixed(layouts: dict[str, LayoutName], engine: str | None = None) -> Mixed:
    return Mixed({name: Place(layout, engine) for name, layout in layouts.items()})


def logits(images: Array, layouts: dict[str, LayoutName]) -> Array:
    return forward(PARAMS, images, mixed(layouts))[0]


@settings(deadline=None, max_examples=12, derandomize=True)
@given(st.lists(st.sampled_from(("channels", "pixels")), min_size=len(STEPS), max_size=len(STEPS)))
def test_no_bit_depends_on_the_plan(chosen: list[LayoutName]) -> None:
    layouts = dict(zip(STEPS, chosen, strict=True))
    found, words = forward(PARAMS, jnp.asarray(IMAGES), mixed(layouts), keep=True)
    codes, exact = expected()
    np.testing.assert_array_equal(np.asarray(found, np.float64), exact)
    assert np.unique(exact).size > 1
    for name in words:
        read = packed_network.read_codes(np.asarray(words[name]), codes[name].shape[-1:])
        np.testing.assert_array_equal(read, codes[name], err_msg=name)


def test_mapped_images_are_a_batch() -> None:
    found = jax.vmap(lambda image: logits(image[None], ALTERNATING)[0])(jnp.asarray(IMAGES))
    np.testing.assert_array_equal(np.asarray(found, np.float64), expected()[1])


def test_a_compiled_network_leaves_a_batch_split_over_devices() -> None:
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    images = jax.device_put(jnp.asarray(IMAGES), split)
    program = jax.jit(functools.partial(logits, layouts=ALTERNATING)).lower(images).compile()
    collectives = r"all-gather|all-to-all|all-reduce|collective-permute"
    assert not re.findall(collectives, program.as_text() or "")
    found = program(images)
    assert found.sharding.is_equivalent_to(split, found.ndim)
    np.testing.assert_array_equal(np.asarray(found, np.float64), expected()[1])


@pytest.mark.parametrize("engine", [None, "xla"])
def test_a_result_is_turned_once_for_all_that_want_it(engine: str | None) -> None:
    layouts: dict[str, LayoutName] = dict.fromkeys(STEPS, "channels")
    # Both read the stem's result, the one as a pool, the other as a skip connection.
    layouts |= {"down_c1.pool": "pixels", "up_c4.conv1": "pixels"}
    program = jax.make_jaxpr(lambda x: forward(PARAMS, x, mixed(layouts, engine))[0])(IMAGES)
    called = re.findall(r"mbu_\w+", str(program))
    # That one, and the transposed convolution's beside it.
    assert called.count("mbu_to_pixels") == 2
    # The pool's result, and the convolution's.
    assert called.count("mbu_to_channels") == 2
    assert called.count("mbu_pixel_conv") == called.count("mbu_pixel_max_pool2x2") == 1
