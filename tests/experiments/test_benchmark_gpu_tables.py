"""Tables and pictures of the GPU benchmark, of results made up here."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmark.carried.folder import FORMAT
from experiments.benchmark.gpu.charts import draw
from experiments.benchmark.gpu.command import read_report
from experiments.benchmark.gpu.tables import fastest_fp16, floor_of, tables
from mbu_jax.errors import InputError


def test_tables_compare_with_the_fastest_peer_that_is_right() -> None:
    def row(ms: float, *, right: bool = True, joules: float = 1.0) -> dict[str, Any]:
        return {
            "seconds": [ms / 1000] * 3,
            "median": ms / 1000,
            "quartiles": [ms / 1000] * 2,
            "latency": ms / 500,
            "images_per_second": 1000 / ms,
            "shift": 0,
            "energy": {"joules_per_image": joules},
            "memory": {"peak_bytes": 10**6},
            "agreement": {"pixels": 4, "different_pixels": 1, "right": right},
        }

    ours = row(2.0, joules=0.1) | {
        "agreement": {"images": 8, "different_images": 3, "right": False}
    }
    rows = {"xla-fp16": row(20.0), "torch-fp16": row(10.0, right=False), "mbu:auto": ours}
    group = {"size": [512, 512], "batch": 64, "rows": rows, "not_measured": {"torch-fp32": "why"}}
    about = {name: {"engine": name.rpartition("-")[2], "ours": False} for name in rows}
    about["mbu:auto"] = {"engine": "auto", "ours": True}
    assert fastest_fp16(group, about) == "xla-fp16"
    report = {
        "machine": {"name": "a GPU", "driver": "1", "idle_watts": 70.0, "versions": {}, "cores": 1},
        "networks": {},
        "ceilings": {"copy": {"amount": 3e9, "samples": [0.002, 0.001], "unit": "bytes"}},
        "groups": [group],
        "rows": about,
        "layers": [
            {
                "layer": "head",
                "network": "mbu",
                "engine": "bmma",
                "batch": 64,
                "size": [512, 512],
                "work": {"bytes": 3e6},
                "samples": [4e-6, 5e-6, 2e-6],
            }
        ],
        "not_reached": [],
    }
    text = tables(report)
    assert "mma.sync" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("mbu:auto"))
    cells = line.split()
    assert cells[1] == "2.00"
    assert cells[5:8] == ["10.00", "100", "10.00"]
    assert line.endswith("WRONG in 3 of 8 images")
    assert "torch-fp32: not measured, why" in text
    assert next(line for line in text.splitlines() if line.startswith("copy")).split()[1] == "3"
    assert next(line for line in text.splitlines() if line.startswith("head")).split() == [
        *("head", "4.0", "1.0", "25%"),
    ]
    report["layers"][0]["work"] = {"wgmma_macs": 3e6}
    assert "the rate of wgmma was not measured" in tables(report)
    report["ceilings"]["wgmma"] = report["ceilings"]["copy"]
    assert "mma.sync" not in tables(report)


LITTLE = {"machine": {"versions": {}}, "groups": [], "layers": [], "rows": {}, "ceilings": {}}


def test_a_picture_of_little_is_drawn(tmp_path: Path) -> None:
    draw(LITTLE, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_a_chart_that_does_not_fit_on_the_disk_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    chart = tmp_path / "chart.png"
    chart.write_bytes(b"earlier")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        draw(LITTLE, chart)
    assert chart.read_bytes() == b"earlier"


def test_a_report_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"format": FORMAT, "made_for": {}, "machine": {"versions": {}}}
    whole |= {"networks": {}, "rows": {}, "ceilings": {}}
    whole |= {"groups": [], "layers": [], "not_reached": []}
    file = tmp_path / "benchmark.json"
    lacking = [{k: v for k, v in whole.items() if k != name} for name in whole]
    for report in (*lacking, whole | {"machine": {}}, whole | {"networks": []}, []):
        file.write_text(json.dumps(report))
        with pytest.raises(InputError, match="is no report of the GPU benchmark; give the"):
            read_report(file)
    file.write_text(json.dumps(whole))
    assert "ceilings: not measured" in tables(read_report(file))


def test_a_floor_is_the_longest_of_its_parts() -> None:
    ceilings = {
        "copy": {"amount": 1e12, "samples": [1.0]},
        "bmma": {"amount": 1e15, "samples": [2.0, 1.0]},
    }
    assert floor_of({"bytes": 1e6, "bmma_macs": 5e9}, ceilings) == pytest.approx(5e-6)
    assert floor_of({"bytes": 1e7, "bmma_macs": 5e9}, ceilings) == pytest.approx(1e-5)
    assert floor_of({"bytes": 1e7, "lop3": 5e9}, ceilings) is None
    # Products of warpgroups at their own rate, or at that of warps where it is not known.
    work = {"bytes": 1e6, "wgmma_macs": 5e9}
    assert floor_of(work, ceilings) == pytest.approx(5e-6)
    ceilings["wgmma"] = {"amount": 2e15, "samples": [1.0]}
    assert floor_of(work, ceilings) == pytest.approx(2.5e-6)
