"""What the inference benchmark is asked for: rows, groups and folders, and what it refuses."""

import contextlib
import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark import __main__ as program
from experiments.benchmark import rows
from experiments.benchmark.config import (
    PRESETS,
    BenchmarkConfig,
    GpuOptions,
    NetworkOptions,
    TimingOptions,
)
from experiments.benchmark.groups import plan
from mbu_jax.errors import InputError
from tests.experiments.benchmarking import SMOKE


def test_groups_cover_threads_sizes_batches_and_densities() -> None:
    config = dataclasses.replace(PRESETS["full"], threads=(2, 1))
    chosen = [rows.Row.parse(name) for name in ("xla-fp32", "binary:bitsliced", "all_masked:xla")]
    groups = plan(config, chosen)
    assert [(g.section, g.threads, g.size, g.batch) for g in groups] == [
        ("latency", 1, 512, 1),
        ("latency", 2, 512, 1),
        ("latency", 2, 256, 1),
        ("latency", 2, 1024, 1),
        ("latency", 2, 2048, 1),
        ("latency", 2, 512, 8),
        ("end_to_end", 2, 512, 1),
    ]
    sparse = plan(config, [rows.Row.parse("all_masked-2bit:bitsliced")])
    (density,) = (group for group in sparse if group.section == "density")
    assert [entry.density for entry in density.entries] == list(config.densities)
    assert sparse[-1].section == "layers"


def test_without_the_peers_their_rows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    chosen, lines = rows.choose_rows(None)
    names = [row.name for row in chosen]
    assert "xla-fp32" in names
    assert not any(name.startswith(("onnx", "openvino")) for name in names)
    assert any('pip install "mbu-jax[peers]"' in line for line in lines)
    with pytest.raises(InputError, match=r"openvino-int8, which cannot run: onnx, .*pip install"):
        rows.choose_rows(["openvino-int8"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nonsense"], "unknown row 'nonsense'"),
        (["binary:magic"], "unknown engine"),
        (["xla-fp32", "xla-fp32"], "twice"),
        ([], "at least one"),
    ],
)
def test_bad_rows_are_named(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows.choose_rows(names)


def test_a_baseline_must_be_a_row_but_need_not_be_timed() -> None:
    assert [row.name for row in rows.choose_rows(["xla-fp32"], ["openvino-int8"])[0]] == [
        "xla-fp32"
    ]
    with pytest.raises(InputError, match="unknown row 'openvino'"):
        rows.choose_rows(["xla-fp32"], ["openvino"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (100,)}, "size 100"),
        ({"size": 16}, "size 16"),
        ({"threads": (0,)}, "threads"),
        ({"threads": (4096,)}, "threads"),
        ({"threads": ()}, "threads"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"densities": (1.0,)}, "density 1.0"),
        ({"networks": NetworkOptions(density=0.0)}, "density 0.0"),
        ({"timing": TimingOptions(min_rounds=0)}, "min_rounds"),
        ({"timing": TimingOptions(min_rounds=5, max_rounds=4)}, "max_rounds"),
        ({"timing": TimingOptions(seconds=float("nan"))}, "seconds is nan"),
        ({"timing": TimingOptions(seconds=float("inf"))}, "seconds is inf"),
    ],
)
def test_bad_options_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMOKE, **changes).check()


def test_an_earlier_benchmark_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    config = BenchmarkConfig(threads=(1,), out=tmp_path)
    config.check()
    (tmp_path / "benchmark.json").write_text("{}")
    with pytest.raises(InputError, match="--overwrite"):
        config.check()
    dataclasses.replace(config, overwrite=True).check()
    (tmp_path / "benchmark.json").rename(tmp_path / "benchmark.png")  # of something else
    with pytest.raises(InputError, match=r"holds benchmark.png but no benchmark.json"):
        config.check()
    with pytest.raises(InputError, match="is a file"):
        dataclasses.replace(config, out=tmp_path / "benchmark.png").check()


def test_an_export_leaves_an_earlier_benchmark_alone(tmp_path: Path) -> None:
    (tmp_path / "benchmark.json").write_text("{}")
    gpu = GpuOptions(export_to=tmp_path / "folder", compute_capability=90)
    config = BenchmarkConfig(device="gpu", out=tmp_path, gpu=gpu)
    config.check()
    with pytest.raises(InputError, match="--overwrite"):
        dataclasses.replace(config, gpu=GpuOptions()).check()
    with pytest.raises(InputError, match="--overwrite"):
        dataclasses.replace(config, device="cpu", threads=(1,)).check()


def test_what_was_measured_is_kept_where_it_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", "--preset", "smoke", "--out", str(tmp_path)])
    monkeypatch.setattr(program, "Nursery", contextlib.nullcontext)
    monkeypatch.setattr(program, "benchmark", lambda *_: {"groups": []})
    with pytest.raises(KeyError):
        program.main()
    assert json.loads((tmp_path / "benchmark.json").read_text()) == {"groups": []}


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "there")
    monkeypatch.setattr("sys.argv", ["benchmark", "--preset", "smoke", "--out", out])
    monkeypatch.setattr(program, "benchmark", lambda *_: pytest.fail("timed all the same"))
    with pytest.raises(InputError, match="there cannot be made"):
        program.main()
