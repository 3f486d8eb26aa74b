"""A mixed plan lowered for a GPU that is not here; JAX's part for CUDA is needed."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax import Array

from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.ops.layouts import Mixed, Part, Place
from mbu_jax.ops.specs import ConvSpec
from tests.cuda_plugin import require_plugin

require_plugin()

CALL = "triton_kernel_call_ffi"
FOREIGN = [jax.export.DisabledSafetyCheck.custom_call(name) for name in (CALL, "mbu_conv")]
PLACES = {
    "first": Place("channels", "bmma@cuda"),
    "second": Place("pixels", "bitsliced@cuda"),
    "third": Place("channels", "popcount@cuda"),
}
X, LAYER = ConvSpec("", (2, 6, 33), (40,), 40, "masked", density=0.2).arguments(seed=0)


def run(x: Array, places: Mapping[str, Place]) -> Array:
    mixed, parts = Mixed(places), (Part(40, 33, x, "channels"),)
    for name in places:
        parts = mixed.conv(name, parts, LAYER)
    return mixed.channel_words(parts)


def test_engines_of_a_mixed_plan_are_lowered_beside_those_of_a_cpu() -> None:
    with compute_capability(86):
        program = jax.jit(functools.partial(run, places=PLACES))
        exported = jax.export.export(program, platforms=("cpu", "cuda"), disabled_checks=FOREIGN)(X)
    # A kernel a convolution, one that lists weights, and two that change the layout.
    assert exported.mlir_module().count(f"custom_call @{CALL}") == 3 + 1 + 2
    expected = run(X, dict.fromkeys(PLACES, Place("channels", "xla")))
    np.testing.assert_array_equal(exported.call(X), expected)
