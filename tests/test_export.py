"""Programs for machines that have JAX and NumPy: they run where everything else is missing."""

import dataclasses
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments import command
from experiments import export as program
from mbu_jax.errors import InputError
from mbu_jax.export import export
from mbu_jax.inference import infer
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import save_packed
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed

ROOT = Path(__file__).parents[1]
SIZE = (20, 33)
MIXED = UNetConfig(width=2, precisions=("pow2", *("binary",) * 10, "masked"))
# Compiling takes longer than running here.
FAST = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}


def installed_beside(*names: str) -> list[str]:
    """What can be imported here and is of no distribution that the named ones need."""
    needed: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in needed:
            continue
        needed.add(name)
        requirements = map(Requirement, metadata.requires(name) or ())
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate()]
    ours = ["mbu_jax", "experiments", "triton_kernels"]
    others = metadata.packages_distributions().items()
    return ours + [name for name, of in others if not needed & {*map(canonicalize_name, of)}]


ALONE = f"import sys; sys.modules.update(dict.fromkeys({installed_beside('jax', 'flatbuffers')}))\n"


@pytest.fixture(scope="module")
def params() -> PackedUNet:
    return random_packed(MIXED)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3)).astype(np.uint8)


def run_alone(source: str, folder: Path) -> None:
    """Run Python that finds JAX, NumPy and what these need, and fails to import the rest."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE + source],
        cwd=folder, env=os.environ | FAST, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["mbu_jax", "flax", "tqdm"])
def test_what_is_blocked_cannot_be_imported(name: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=f"import of {name} halted"):
        run_alone(f"import {name}", tmp_path)


@pytest.fixture(scope="module")
def made(params: PackedUNet) -> bytes:
    return export(params, (2, *SIZE, 3), dtype=np.float32)


def test_a_program_gives_the_packed_networks_logits(params, images, made, tmp_path: Path) -> None:
    (tmp_path / "unet.jax").write_bytes(made)
    floats = images[:2].astype(np.float32) / 255
    np.save(tmp_path / "images.npy", floats)
    source = """
import jax, numpy as np
with open("unet.jax", "rb") as file:
    program = jax.export.deserialize(file.read())
np.save("logits.npy", program.call(np.load("images.npy")))
"""
    run_alone(source, tmp_path)
    expected = infer(params, jnp.asarray(floats))
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), expected)
    assert np.unique(expected).size > 1


def test_a_program_for_a_cpu_calls_nothing_foreign(made) -> None:
    exported = jax.export.deserialize(bytearray(made))
    assert exported.platforms == ("cpu",)
    assert "custom_call" not in exported.mlir_module()


def test_the_same_network_gives_the_same_program(made) -> None:
    again = export(random_packed(MIXED), (2, *SIZE, 3), dtype=np.float32)
    assert again == made
    assert str(ROOT).encode() not in made


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((1, 16, 16), {}, r"images have shape \(1, 16, 16\)"),
        ((1, 16, 16, 4), {}, r"images have shape \(1, 16, 16, 4\)"),
        ((1, 0, 16, 3), {}, r"shape is \(1, 0, 16, 3\)"),
        ((0, 16, 16, 3), {}, r"shape is \(0, 16, 16, 3\)"),
        ((), {}, r"shape is \(\)"),
        ((1, None, 16, 3), {}, r"shape is \(1, None, 16, 3\)"),
        ((None, 16, 3), {}, "only the number of images B may be None"),
        ((None, 16, 16, 3), {"platform": "cuda", "compute_capability": 90}, "only on cpu"),
        ((1, 16, 16, 3), {"dtype": np.int32}, "dtype is int32; choose uint8 or float32"),
        ((1, 16, 16, 3), {"platform": "tpu"}, "platform is 'tpu'; choose cpu or cuda"),
        ((1, 16, 16, 3), {"compute_capability": 90}, "a program for cpu has no compute capability"),
        ((1, 16, 16, 3), {"implementation": "bitsliced"}, "export xla, or install mbu_jax there"),
        ((1, 16, 16, 3), {"implementation": "popcount"}, "it runs on cuda, not on cpu"),
        ((1, 16, 16, 3), {"implementation": "bmma@cuda"}, "name the engine alone, 'bmma'"),
        ((1, 16, 16, 3), {"implementation": "magic"}, "unknown implementation 'magic'"),
        ((1, 16, 16, 3), {"platform": "cuda", "compute_capability": 77}, "choose one of 75, 80,"),
    ],
)
def test_what_cannot_be_exported_says_why(
    params, shape: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        export(params, shape, **options)


def test_a_gpu_without_kernels_is_refused_unless_xla_is_asked_for(params, monkeypatch) -> None:
    monkeypatch.setattr("mbu_jax.ops.gpu.target.absent", lambda: "Triton is away")
    options: Any = {"platform": "cuda", "compute_capability": 90}
    with pytest.raises(InputError, match="Triton is away; or export implementation xla"):
        export(params, (1, 16, 16, 3), **options)
    made = export(params, (1, 16, 16, 3), platform="cuda", implementation="xla")
    exported = jax.export.deserialize(bytearray(made))
    assert exported.platforms == ("cuda",)
    assert "custom_call" not in exported.mlir_module()


def run_command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["export", "--model", "model.safetensors", *arguments])
    code: Any = 0
    try:
        command.run(program.main)
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_commands_file_runs_as_the_readme_says(
    params, images, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    save_packed("model.safetensors", params)
    with monkeypatch.context() as patched:
        patched.setattr(program, "export", lambda *_, **__: b"a program")
        code, out, _ = run_command(monkeypatch, capsys)
    assert code == 0
    assert out.startswith("unet.jax: 9 bytes")
    assert Path("unet.jax").read_bytes() == b"a program"
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (shown,) = [block for block in blocks if "jax.export.deserialize" in block]
    assert sum(line != "" for line in shown.splitlines()) == 5
    assert out.endswith(f"\n{shown}\n")

    code, out, _ = run_command(
        monkeypatch, capsys, "--image-size", *map(str, SIZE), "--batch-size", "any", "--overwrite"
    )
    assert code == 0
    assert "images = np.zeros((1, 20, 33, 3), np.uint8)" in out
    np.save("images.npy", images)
    loader, changes = re.subn(r"np\.zeros\(.*\)", 'np.load("images.npy")', shown)
    assert changes == 1
    run_alone(loader + 'np.save("masks.npy", masks)', tmp_path)
    expected = np.asarray(infer(params, jnp.asarray(images)))[..., 0] > 0
    np.testing.assert_array_equal(np.load("masks.npy"), expected)
    assert 0 < expected.mean() < 1


def test_a_run_that_scaled_its_images_says_so(params, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(program, "export", lambda *_, **__: b"a program")
    save_packed("model.safetensors", dataclasses.replace(params, image_size=(48, 80)))
    said = "The network was trained on images scaled to 48x80: scale yours, too.\n"
    code, out, _ = run_command(monkeypatch, capsys)
    assert code == 0
    assert "images = np.zeros((1, 48, 80, 3), np.uint8)" in out
    assert out.endswith(said)
    _, out, _ = run_command(monkeypatch, capsys, "--image-size", "16", "32", "--overwrite")
    assert "images = np.zeros((1, 16, 32, 3), np.uint8)" in out
    assert out.endswith(said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "absent"], "absent cannot be read"),
        (["--out", "."], ". is a folder"),
        (["--out", "absent/unet.jax"], "absent is no folder"),
        (["--out", "here.jax"], "here.jax exists; choose another --out, or allow --overwrite"),
        (["--platform", "tpu"], "tpu"),
        (["--batch-size", "0"], "batch_size is 0; give a number of at least 1, or any"),
        (
            ["--batch-size", "any", "--platform", "cuda"],
            "--platform cpu alone takes; give a number",
        ),
        (["--image-size", "256"], "--image-size takes two whole numbers, height and width"),
        (["--compute-capability", "90"], "a program for cpu has no compute capability"),
        (["--implementation", "magic"], "unknown implementation 'magic'"),
        (["--implementation", "popcount"], "it runs on cuda, not on cpu"),
        (["--implementation", "bitsliced"], "export xla, or install mbu_jax there"),
        (["--platform", "cuda", "--compute-capability", "77"], "choose one of 75, 80,"),
    ],
)
def test_bad_options_are_one_line(
    params, arguments: list[str], said: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    save_packed("model.safetensors", params)
    Path("here.jax").write_text("mine")
    code, out, err = run_command(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("error: ")  # and does not say before that it compiles
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()}["here.jax"] == b"mine"
    assert len(list(Path().iterdir())) == 2
