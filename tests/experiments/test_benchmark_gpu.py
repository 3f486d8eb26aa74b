"""The GPU benchmark, exported for a CPU and run from its folder; what it refuses and shows."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.benchmark.carried import checks, group, images, main, nvml, worker
from experiments.benchmark.carried.clock import Clock
from experiments.benchmark.carried.errors import CarriedError
from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.config import BenchmarkConfig, GpuOptions, NetworkOptions
from experiments.benchmark.gpu import command, exporting
from experiments.benchmark.gpu.float_unet import float_unet
from experiments.benchmark.gpu.layers import LayerProgram, layer_programs
from experiments.benchmark.gpu.programs import Machine
from experiments.benchmark.gpu.tables import tables
from mbu_jax.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIG = BenchmarkConfig(
    device="gpu",
    rows=("binary:xla", "xla-fp32"),
    networks=NetworkOptions(width=4),
    gpu=GpuOptions(
        image_sizes=((32, 40),), batches=(2,), layers_of=("binary",), export_platform="cpu"
    ),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "folder"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "layer_programs", two_layers)
        command.export_folder(CONFIG, Machine("cpu", None), path)
    return path


@pytest.fixture(scope="module")
def measured(exported: Path) -> Path:
    """What the folder's own program wrote, run where nothing of this repository is."""
    out = exported.parent / "out"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "JAX_ENABLE_X64")
    } | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    (exported.parent / "experiments").mkdir()  # a project of the user's own
    (exported.parent / "experiments" / "__init__.py").touch()
    run = [sys.executable, str(exported / "run.py"), "--out", str(out), "--minutes", "60"]
    subprocess.run(run, cwd=exported.parent, env=environment, check=True, capture_output=True)
    return out / "benchmark.json"


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    edit(manifest)
    file.write_text(json.dumps(manifest))


def two_layers(*arguments: Any) -> Iterator[LayerProgram]:
    every = list(layer_programs(*arguments))
    assert len(every) == 27
    yield from (made for made in every if made.name in ("up_c4.conv2", "pool8"))


def copy_of(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_a_folder_runs_alone_and_its_results_are_shown(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = command.read_report(measured)
    (rows,) = (found["rows"] for found in report["groups"])
    assert list(rows) == ["binary:xla", "xla-fp32"]
    assert rows["binary:xla"]["agreement"] == {"images": 2, "different_images": 0, "right": True}
    assert rows["xla-fp32"]["agreement"]["right"]
    assert rows["xla-fp32"]["agreement"]["largest_difference"] < 1e-4
    for row in rows.values():
        assert len(row["seconds"]) >= 3
        assert len(row["latencies"]) == 3 * len(row["seconds"])
        assert 0 < row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
    assert [line["layer"] for line in report["layers"]] == ["pool8", "up_c4.conv2"]
    assert set(report["ceilings"]) == {"copy", "bf16", "turn"}
    assert report["not_reached"] == []

    command.show(report, tmp_path)
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("binary:xla "))
    assert float(line.split()[1]) == pytest.approx(1000 * rows["binary:xla"]["median"], rel=0.05)
    assert "bit for bit" in line
    assert "not measured" in line  # neither an FP16 peer nor energy
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert command.read_report(tmp_path / "benchmark.json") == report


def test_logits_that_are_wrong_are_told(exported: Path, tmp_path: Path) -> None:
    folder = Folder(copy_of(exported, tmp_path))
    binary, float_row = folder.manifest["rows"]
    wanted = folder.arrays(folder.manifest["expected"]["full_precision"]["32x40"]["file"])
    logits = wanted["logits"]
    found = checks.agreement(float_row, (32, 40), logits, folder)
    assert found["right"]
    assert found["largest_difference"] == 0
    logits[1, 0, 0, 0] += 0.02 * found["largest_logit"]
    assert not checks.agreement(float_row, (32, 40), logits, folder)["right"]
    for overflown in (np.nan, np.inf):
        logits[1, 0, 0, 0] = overflown
        found = checks.agreement(float_row, (32, 40), logits, folder)
        assert not found["right"]
        assert found["largest_difference"] is None
        json.dumps(found, allow_nan=False)  # as results are written
    found = checks.agreement(binary, (32, 40), logits, folder)
    assert found == {"images": 2, "different_images": 2, "right": False}


def test_time_that_is_up_ends_the_run(exported: Path, tmp_path: Path) -> None:
    run = [sys.executable, str(exported / "run.py"), "--out", str(tmp_path), "--minutes", "0.001"]
    subprocess.run(run, check=True, capture_output=True)
    report = command.read_report(tmp_path / "benchmark.json")
    assert report["groups"] == []
    assert report["not_reached"] == ["ceilings", "32x40, batch 2", "layers, batch 2"]
    assert "not measured: ceilings; 32x40, batch 2" in tables(report)


def test_earlier_results_are_kept_unless_told_otherwise(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "benchmark.json"
    file.write_text("earlier")
    run = [sys.executable, str(exported / "run.py"), "--out", str(tmp_path), "--minutes", "0.001"]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: {tmp_path} holds a benchmark; choose another --out, or give --overwrite\n"
    )
    assert file.read_text() == "earlier"
    subprocess.run([*run, "--overwrite"], check=True, capture_output=True)
    assert command.read_report(file)["groups"] == []


def test_what_may_be_replaced_is_measured_anew(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_: BenchmarkConfig, __: Machine, path: Path) -> None:
        shutil.copytree(exported, path)

    monkeypatch.setattr(command, "export_folder", export)
    (tmp_path / "benchmark.json").write_text("earlier")
    gpu = dataclasses.replace(CONFIG.gpu, minutes=0.001)
    config = dataclasses.replace(CONFIG, gpu=gpu, out=tmp_path, overwrite=True)
    config.check()
    command.run(config)
    assert command.read_report(tmp_path / "benchmark.json")["groups"] == []


def test_a_row_that_takes_too_long_or_breaks_is_not_measured(
    exported: Path, tmp_path: Path
) -> None:
    def spoil(manifest: dict[str, Any]) -> None:
        binary, float_row = manifest["rows"]
        binary["loading_seconds"] = 0.1
        float_row["network"] = "absent"

    path = copy_of(exported, tmp_path)
    change(path, spoil)
    folder = Folder(path)
    (step,) = (step for step in folder.manifest["steps"] if step["kind"] == "group")
    lines: list[str] = []
    found = group.time_group(folder, step, Clock(60), memory=None, energy=False, tell=lines.append)
    assert found["rows"] == {}
    assert "longer than the 0 s" in found["not_measured"]["binary:xla"]
    assert "KeyError" in found["not_measured"]["xla-fp32"]
    assert len(lines) == 2


def overlong(manifest: dict[str, Any]) -> None:
    next(iter(manifest["files"].values()))["bytes"] += 1


def outside(manifest: dict[str, Any]) -> None:
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda manifest: manifest.pop("rows"), "lacks rows"),
        (lambda manifest: manifest.update(format=7), "format 1"),
        (lambda manifest: manifest["files"].update(x={"bytes": "1"}), "describe x"),
        (overlong, "size noted"),
        (outside, "outside"),
    ],
    ids=["part", "format", "file", "size", "outside"],
)
def test_a_bad_manifest_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, exported: Path, tmp_path: Path
) -> None:
    path = copy_of(exported, tmp_path)
    change(path, edit)
    with pytest.raises(CarriedError, match=message):
        Folder(path)


def test_a_damaged_file_is_refused(exported: Path, tmp_path: Path) -> None:
    path = copy_of(exported, tmp_path)
    file = path / "weights" / "binary.npz"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(CarriedError, match="damaged"):
        Folder(path).arrays("weights/binary.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folder", "nowhere"], "error: nowhere has no manifest.json"),
        (["--minutes", "0"], "error: --minutes is 0"),
        (["--minutes", "nan"], "error: --minutes is nan"),
    ],
)
def test_run_refuses_in_one_line(
    options: list[str], message: str, exported: Path, tmp_path: Path
) -> None:
    run = [sys.executable, str(exported / "run.py"), "--out", str(tmp_path / "out"), *options]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(message)
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_jax_lacks_to_read_programs_is_told(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CarriedError, match="flatbuffers, which is not installed"):
        main.measure(exported, tmp_path / "out", 1.0)
    assert not (tmp_path / "out").exists()


def test_what_is_carried_needs_nothing_of_ours() -> None:
    allowed = set(sys.stdlib_module_names) | {"jax", "numpy", "torch", "experiments"}
    for file in (ROOT / "experiments" / "benchmark" / "carried").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            for name in names:
                assert name.partition(".")[0] in allowed, (file, name)
                if name.startswith("experiments"):
                    assert name.startswith("experiments.benchmark.carried"), (file, name)


@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        (None, ("nvmlDeviceGetHandleByIndex_v2", 0)),
        ("2,0", ("nvmlDeviceGetHandleByIndex_v2", 2)),
        ("GPU-ab-cd", ("nvmlDeviceGetHandleByUUID", b"GPU-ab-cd")),
    ],
)
def test_energy_is_that_of_the_gpu_that_programs_see(
    visible: str | None, asked: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[Any, ...]] = []

    class Library:
        def __getattr__(self, name: str) -> Callable[..., int]:
            def function(*arguments: Any) -> int:
                called.append((name, *arguments[:1]))
                return 0

            return function

    monkeypatch.setattr(nvml.ctypes, "CDLL", lambda _: Library())
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert nvml.first_gpu() is not None
    assert called == [("nvmlInit_v2",), asked]


@pytest.mark.parametrize("begin", [0.0, 0.03, 0.06, 0.099])
def test_energy_is_counted_from_step_to_step(begin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU that idles at 50 W and works at 500 W, and tells what it took every 0.1 s."""
    idle = 10 + begin
    now = [idle]

    class Gpu:
        def joules(self) -> float:
            told = now[0] // 0.1 * 0.1
            return 50 * min(told, idle) + 500 * max(0.0, told - idle)

    class Busy:
        def run(self, calls: int) -> dict[str, float]:
            now[0] += 0.001 * calls
            return {}

    monkeypatch.setattr(worker, "first_gpu", Gpu)
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    busy: Any = Busy()
    found = worker._energy(busy, seconds=1.5, calls=7)
    assert found["joules"] / found["calls"] == pytest.approx(0.5, rel=0.01)
    assert found["joules"] / found["seconds"] == pytest.approx(500, rel=0.01)
    assert 1.5 <= found["seconds"] < 1.65
    monkeypatch.setattr(Gpu, "joules", lambda _: 1.0)
    with pytest.raises(RuntimeError, match="stands still"):
        worker._energy(busy, seconds=1.5, calls=7)


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "first_gpu", lambda: None)
    with pytest.raises(InputError, match=r"no NVIDIA GPU here; give --export-to"):
        command.run(BenchmarkConfig(device="gpu"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[]", "no report"), ("{", "no JSON"), ('{"format": 1, "groups": 3}', "no report")],
)
def test_results_that_are_none_are_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "benchmark.json"
    with pytest.raises(InputError, match="no file"):
        command.read_report(file)
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        command.read_report(file)


def test_float_weights_are_drawn_anew(exported: Path) -> None:
    from experiments.benchmark.carried import weights

    folder = Folder(exported)
    about = folder.manifest["networks"]["full_precision"]
    assert len(about["drawn"]) == 23
    tensors = weights.read(about["drawn"], folder.arrays(about["weights"]))
    assert set(tensors) == set(about["order"])
    picture = folder.arrays(folder.manifest["images"]["32x40"])["picture"]
    logits = jax.jit(float_unet)(
        {name: jnp.asarray(tensor) for name, tensor in tensors.items()},
        jnp.asarray(images.batch_of(picture, 1)),
    )
    wanted = folder.arrays(folder.manifest["expected"]["full_precision"]["32x40"]["file"])
    largest = np.abs(wanted["logits"]).max()
    np.testing.assert_allclose(logits[0], wanted["logits"][0], rtol=0, atol=1e-4 * largest)
    about["drawn"]["head.weight"]["sha256"] = "other"
    with pytest.raises(RuntimeError, match=r"other numbers for head\.weight"):
        weights.read(about["drawn"], {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_sizes": ()}, "image_sizes is empty"),
        ({"image_sizes": ((8, 512),)}, "image size 8 512"),
        ({"batches": (0,)}, "batches"),
        ({"batches": (1, 1)}, "batches names one twice"),
        ({"minutes": 0.0}, "minutes"),
        ({"results": Path("a"), "export_to": Path("b")}, "not both"),
        ({"export_platform": "cpu", "compute_capability": 90}, "no compute capability"),
        ({"export_platform": "cpu", "tune": True}, "has no tiles"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchmarkConfig(device="gpu", gpu=GpuOptions(**changes)).check()


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="empty folder"):
        command.export_folder(CONFIG, Machine("cpu", None), tmp_path)
    assert (tmp_path / "file").read_text() == "mine"
