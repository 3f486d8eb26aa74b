"""Programs for a GPU that is not here; JAX's part for CUDA is needed, a driver is not."""

import functools
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mbu_jax.inference import infer
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.unet import UNetConfig
from tests.cuda_plugin import require_plugin
from tests.random_packed import random_packed
from tests.triton_kernels.kernel_calls import kernel_calls

require_plugin()

CALL = "triton_kernel_call_ffi"
ALLOWED = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in (CALL, "mbu_stem", "mbu_conv", "mbu_pool", "mbu_head")
]
MIXED = UNetConfig(width=2, precisions=("binary", "masked", "pow2") * 4)
SMALL = UNetConfig(width=2, precisions=("masked",) * 12)
IMAGES = jax.ShapeDtypeStruct((2, 20, 33, 3), jnp.uint8)


@pytest.mark.parametrize("implementation", ["popcount", None])
def test_every_layer_of_a_network_is_a_kernel(implementation: str | None) -> None:
    run = jax.jit(functools.partial(infer, random_packed(MIXED), implementation=implementation))
    with compute_capability(90):
        program = run.trace(IMAGES).lower(lowering_platforms=("cuda",)).as_text()
    # The stem, 21 convolutions, 4 pools and the head.
    assert len(re.findall(f"custom_call @{CALL}", program)) == 27


def test_a_mapped_network_is_as_many_kernels() -> None:
    run = jax.jit(jax.vmap(functools.partial(infer, random_packed(MIXED))))
    images = jax.ShapeDtypeStruct((3, *IMAGES.shape), jnp.uint8)
    with compute_capability(90):
        program = run.trace(images).lower(lowering_platforms=("cuda",)).as_text()
    assert len(re.findall(f"custom_call @{CALL}", program)) == 27


@pytest.mark.parametrize("mapped", [False, True])
def test_a_bitsliced_network_is_lists_and_kernels(mapped: bool) -> None:
    run = functools.partial(infer, random_packed(SMALL), implementation="bitsliced")
    images = IMAGES
    if mapped:
        run, images = jax.vmap(run), jax.ShapeDtypeStruct((3, *IMAGES.shape), jnp.uint8)
    with compute_capability(90):
        program = jax.jit(run).trace(images).lower(lowering_platforms=("cuda",)).as_text()
    names = [
        re.findall(rb"^\.visible \.entry (\w+)_kernel", content, re.MULTILINE)
        for content in kernel_calls(program)
    ]
    assert Counter(name.decode() for (name,) in names) == {
        "stem": 1,
        "channels_to_pixels": 1,
        "bitsliced_lists": 21,
        "bitsliced_conv3x3": 17,
        "bitsliced_up_conv2x2": 4,
        "bitsliced_max_pool2x2": 4,
        "pixels_to_channels": 1,
        "head": 1,
    }


def test_a_network_of_a_sharded_batch_is_lowered_for_every_devices_images() -> None:
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    images = jax.ShapeDtypeStruct(
        (4, *IMAGES.shape[1:]), jnp.uint8, sharding=NamedSharding(mesh, PartitionSpec("batch"))
    )
    run = jax.jit(functools.partial(infer, random_packed(SMALL), implementation="bitsliced"))
    with compute_capability(90):
        program = run.trace(images).lower(lowering_platforms=("cuda",)).as_text()
    # Kernels are compiled once the partitioner has cut the batch, which takes a GPU.
    assert program.count("custom_call @CustomSPMDPartitioning") == 50
    assert CALL not in program


def test_one_exported_program_runs_here_and_has_the_kernels() -> None:
    params = random_packed(MIXED)
    run = jax.jit(functools.partial(infer, params))
    with compute_capability(90):
        exported = jax.export.export(run, platforms=("cpu", "cuda"), disabled_checks=ALLOWED)
        restored = jax.export.deserialize(exported(IMAGES).serialize())
    assert restored.mlir_module().count(f"custom_call @{CALL}") == 27
    images = np.random.default_rng(0).integers(0, 256, IMAGES.shape).astype(np.uint8)
    np.testing.assert_array_equal(restored.call(images), infer(params, images))
