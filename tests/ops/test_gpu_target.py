"""What a GPU's kernels need, and what is said where it is missing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxlib import gpu_triton

from mbu_jax.errors import InputError
from mbu_jax.inference import infer
from mbu_jax.ops.conv3x3.primitive import OPERATION
from mbu_jax.ops.gpu import target
from mbu_jax.ops.gpu.target import compute_capability
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed


class Device:
    compute_capability = "10.3"


def test_a_named_target_is_taken_before_the_one_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda **_: [Device()])
    assert target.target() == 103
    with compute_capability(90):
        assert target.target() == 90
        with compute_capability(75):
            assert target.target() == 75
        assert target.target() == 90
    assert target.target() == 103


@pytest.mark.usefixtures("with_cuda")
def test_an_old_gpu_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "compute_capability", "7.0")
    monkeypatch.setattr(jax, "local_devices", lambda **_: [Device()])
    assert target.absent() == "the GPU's compute capability is 70; kernels begin at 75"


def test_a_target_without_kernels_is_refused() -> None:
    with pytest.raises(InputError, match="compute capability 70 has no kernels"):
        compute_capability(70).__enter__()


def test_jax_keeps_no_program_of_another_target() -> None:
    seen = []

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        seen.append(target.target())
        return x

    for capability in (80, 90, 80):
        with compute_capability(capability):
            run(jnp.zeros(1))
    assert seen == [80, 90]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_triton, "TritonKernel", object(), raising=False)


@pytest.mark.usefixtures("with_cuda")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu = "no NVIDIA GPU is here, and no compute capability was named"
    assert target.absent() == no_gpu
    with compute_capability(90):
        assert target.absent() is None
        assert OPERATION.choose("cuda").engine.name == "popcount"
        monkeypatch.delattr(gpu_triton, "TritonKernel")
        assert target.absent() == "JAX is installed without CUDA; install mbu_jax[cuda13]"
    choice = OPERATION.choose("cuda")
    assert choice.engine.name == "xla"
    assert "popcount: JAX is installed without CUDA" in choice.reason
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert str(target.absent()).startswith("triton is not installed")


def lowered(platform: str, implementation: str | None) -> Any:
    params = random_packed(UNetConfig(width=2))
    run = functools.partial(infer, params, implementation=implementation)
    images = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.uint8)
    return jax.jit(run).trace(images).lower(lowering_platforms=(platform,))


@pytest.mark.usefixtures("with_cuda")
def test_popcount_asked_for_where_it_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"popcount.*it runs on cuda, not on cpu"):
        lowered("cpu", "popcount")
    with pytest.raises(InputError, match=r"popcount.*no NVIDIA GPU is here"):
        lowered("cuda", "popcount")


@pytest.mark.usefixtures("with_cuda")
def test_without_a_target_cuda_has_the_engine_in_plain_jax() -> None:
    assert "custom_call" not in lowered("cuda", None).as_text()
