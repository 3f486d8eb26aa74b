"""Programs for a GPU that is not here; JAX's part for CUDA is needed, a driver is not."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib import gpu_triton

from mbu_jax.inference import infer
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

if not hasattr(gpu_triton, "TritonKernel"):
    pytest.skip("jax-cuda13-plugin is not installed", allow_module_level=True)

CALL = "triton_kernel_call_ffi"
ALLOWED = [
    jax.export.DisabledSafetyCheck.custom_call(name)
    for name in (CALL, "mbu_stem", "mbu_conv", "mbu_pool", "mbu_head")
]
MIXED = UNetConfig(width=2, precisions=("binary", "masked", "pow2") * 4)
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


def test_one_exported_program_runs_here_and_has_the_kernels() -> None:
    params = random_packed(MIXED)
    run = jax.jit(functools.partial(infer, params))
    with compute_capability(90):
        exported = jax.export.export(run, platforms=("cpu", "cuda"), disabled_checks=ALLOWED)
        restored = jax.export.deserialize(exported(IMAGES).serialize())
    assert restored.mlir_module().count(f"custom_call @{CALL}") == 27
    images = np.random.default_rng(0).integers(0, 256, IMAGES.shape).astype(np.uint8)
    np.testing.assert_array_equal(restored.call(images), infer(params, images))
