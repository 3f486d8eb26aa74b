"""Exported programs hold their kernels; JAX's part for CUDA is needed, a driver is not."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax_triton
import pytest

from mbu_jax.errors import InputError
from mbu_jax.export import export
from mbu_jax.packing import PackedUNet
from mbu_jax.unet import UNetConfig
from tests.cuda_plugin import require_plugin
from tests.random_packed import random_packed
from tests.triton_kernels.kernel_calls import code, kernel_calls
from tests.triton_kernels.simulated import Kernel

require_plugin()

SHAPE = (2, 20, 33, 3)
# The stem, 21 convolutions, 4 pools and the head.
KERNELS = 27
MOVES = {"constant", "custom_call", "slice", "concatenate", "broadcast_in_dim", "reshape"}


@pytest.fixture(scope="module")
def params() -> PackedUNet:
    return random_packed(UNetConfig(width=2, precisions=("binary", "masked") * 6))


@pytest.mark.parametrize(
    ("capability", "target", "version"),
    [(75, "sm_75", "8.0"), (80, "sm_80", "8.0"), (90, "sm_90a", "8.0"), (120, "sm_120a", "8.7")],
)
def test_a_program_holds_kernels_for_the_gpu_named(
    params, capability: int, target: str, version: str
) -> None:
    program = export(params, SHAPE, platform="cuda", compute_capability=capability)
    exported = jax.export.deserialize(bytearray(program))
    assert exported.platforms == ("cuda",)
    assert exported.out_avals[0].shape == (*SHAPE[:3], 1)
    module = exported.mlir_module()
    calls = re.findall(r"custom_call @([\w.$]+)", module)
    assert calls == ["triton_kernel_call_ffi"] * KERNELS
    assert module.count("custom_call") == KERNELS
    # Weights lie in the order in which kernels read them: only images and activations move.
    assert set(re.findall(r" stablehlo\.(\w+)", module)) <= MOVES
    contents = kernel_calls(module)
    assert len(contents) == KERNELS
    here = str(Path(__file__).parents[2]).encode()
    assert here not in program
    for content in contents:
        assert here not in content
        assert re.findall(rb"^\.target (\w+)", content, re.MULTILINE) == [target.encode()]
        assert re.findall(rb"^\.version (.*)$", content, re.MULTILINE) == [version.encode()]
        assert len(re.findall(rb"^\.visible \.entry ", content, re.MULTILINE)) == 1


@pytest.mark.parametrize(
    ("capability", "width", "engine", "named"),
    [
        (75, 2, "popcount", "conv3x3"),
        (80, 2, "bmma", "bmma_up_conv2x2"),
        (90, 64, "bmma", "wgmma_conv3x3"),
        (90, 2, "bitsliced", "bitsliced_conv3x3"),
    ],
)
def test_a_program_holds_the_kernels_that_are_tested(
    capability: int, width: int, engine: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What jax_triton compiles is what Triton compiles for the tests that execute it."""
    called: list[Kernel] = []
    launch = jax_triton.triton_call

    def call(*arrays: Any, grid: int, name: str, compute_capability: int, **others: Any) -> Any:
        called.append(Kernel.called(*arrays, **others))
        geometry = {"grid": grid, "name": name, "compute_capability": compute_capability}
        return launch(*arrays, **geometry, **others)

    monkeypatch.setattr(jax_triton, "triton_call", call)
    network = random_packed(UNetConfig(width=width, precisions=("binary", "masked") * 6))
    program = export(
        network, (1, 20, 33, 3), platform="cuda", compute_capability=capability,
        implementation=engine,
    )  # fmt: skip
    contents = kernel_calls(jax.export.deserialize(bytearray(program)).mlir_module())
    shipped = {"\n".join(code(content.decode("latin-1"))) for content in contents}
    tested = {"\n".join(code(kernel.compiled(capability).asm["ptx"])) for kernel in called}
    assert shipped == tested
    assert any(f".entry {named}_kernel" in text for text in shipped)


def test_a_program_is_lowered_for_a_gpu_where_triton_is_not(params, tmp_path: Path) -> None:
    program = export(params, SHAPE, platform="cuda", compute_capability=80)
    (tmp_path / "unet.jax").write_bytes(program)
    source = f"""
import sys
sys.modules.update(dict.fromkeys(("mbu_jax", "triton", "triton_kernels", "jax_triton")))
import jax, numpy as np
with open("unet.jax", "rb") as file:
    program = jax.export.deserialize(file.read())
images = jax.ShapeDtypeStruct({SHAPE}, np.uint8)
lowered = jax.jit(program.call).trace(images).lower(lowering_platforms=("cuda",))
assert lowered.as_text().count("custom_call @triton_kernel_call_ffi") == {KERNELS}
"""
    result = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_a_gpu_has_to_be_named_where_none_is(params) -> None:
    if any(device.platform == "gpu" for device in jax.devices()):
        pytest.skip("a GPU is here")
    with pytest.raises(InputError, match="no NVIDIA GPU is here, and no compute capability was"):
        export(params, SHAPE, platform="cuda")
