"""What every target's compiler is told, so that exported programs run elsewhere."""

import re
import subprocess
from pathlib import Path

import pytest
from triton import knobs

from tests.triton_kernels.compiled import compiled
from triton_kernels import max_pool2x2

LAUNCH = max_pool2x2.launch((2, 64, 64, 2, 4))


def ptx(target: int) -> str:
    options = tuple(LAUNCH.options_for(target).items())
    types = ("uint32", "uint32")
    sizes, constants = tuple(LAUNCH.sizes.items()), tuple(LAUNCH.constants.items())
    return compiled(LAUNCH.kernel, types, sizes, constants, options, target).asm["ptx"]


@pytest.mark.parametrize(
    ("target", "version"), [(75, "8.0"), (90, "8.0"), (100, "8.6"), (103, "8.8"), (120, "8.7")]
)
def test_an_older_assembler_takes_a_kernel(target: int, version: str, tmp_path: Path) -> None:
    text = ptx(target)
    assert re.findall(r"^\.version (.*)$", text, re.MULTILINE) == [version]
    file = tmp_path / "kernel.ptx"
    file.write_text(text)
    # Triton brings two assemblers: this one is CUDA 12's, and not what Triton takes from sm_90 on.
    arch = f"-arch=sm_{target}{'a' if target >= 90 else ''}"
    command = [knobs.nvidia.ptxas.path, arch, str(file), "-o", str(tmp_path / "kernel.cubin")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_kernel_holds_no_path() -> None:
    text = ptx(90)
    assert str(Path(__file__).parents[2]) not in text
    assert not re.search(r"\.file|\.loc\b", text)


def test_an_unknown_target_has_no_version() -> None:
    assert LAUNCH.options_for(None)["ptx_version"] is None
    assert LAUNCH.options_for(90)["num_warps"] == LAUNCH.warps
