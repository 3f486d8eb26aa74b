"""The inference benchmark: what it reports, and how it takes turns."""

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from experiments.benchmark import __main__ as program
from experiments.benchmark import measuring, rows
from experiments.benchmark.__main__ import benchmark
from experiments.benchmark.account import account
from experiments.benchmark.charts import draw
from experiments.benchmark.config import TimingOptions, available_cores
from experiments.benchmark.groups import plan
from experiments.benchmark.job import Job
from experiments.benchmark.materials import Material
from experiments.benchmark.nursery import Nursery
from experiments.benchmark.processes import Worker
from experiments.benchmark.tables import tables
from mbu_jax.errors import InputError
from mbu_jax.files import write_json_atomic
from mbu_jax.inference import infer
from mbu_jax.ops.bitsliced import library
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import save_packed
from mbu_jax.unet import UNet, UNetConfig
from tests.experiments.benchmarking import SMOKE, needs_peers, quick_nursery
from tests.random_packed import random_packed
from tests.unet_models import random_model


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with quick_nursery() as started:
        yield started


@pytest.fixture(scope="module")
def report(nursery: Nursery) -> dict[str, Any]:
    return benchmark(SMOKE, nursery)


def section(report: dict[str, Any], name: str) -> dict[str, Any]:
    (group,) = (group for group in report["groups"] if group["section"] == name)
    return group["rows"]


def test_every_row_that_can_run_is_timed_and_summarized(report: dict[str, Any]) -> None:
    latency = section(report, "latency")
    absent = [name for name in rows.DEFAULT_ROWS if rows.Row.parse(name).obstacle()]
    assert list(latency) == [name for name in rows.DEFAULT_ROWS if name not in absent]
    assert len(report["left_out"]) == (1 if absent else 0)
    counts = {len(row["seconds"]) for row in latency.values()}
    assert counts <= {2, 3}
    assert len(counts) == 1
    for row in latency.values():
        assert min(row["seconds"]) > 0
        assert row["median"] == statistics.median(row["seconds"])
        assert row["images_per_second"] == pytest.approx(1 / row["median"])
        low, high = row["quartiles"]
        assert min(row["seconds"]) <= low <= row["median"] <= high <= max(row["seconds"])
        for name, speedup in row["speedup"].items():
            turns = zip(latency[name]["seconds"], row["seconds"], strict=True)
            assert speedup == pytest.approx(statistics.median(a / b for a, b in turns))
        assert row["busy_threads"] < 1.5  # it has one core
        assert row["idle_busy_threads"] < 0.5  # it does not spin while others run
        assert row["model_bytes"] > 0


@needs_peers
def test_all_runtimes_are_there_and_the_named_baselines(report: dict[str, Any]) -> None:
    latency = section(report, "latency")
    assert list(latency) == list(rows.DEFAULT_ROWS)
    for row in latency.values():
        assert set(row["speedup"]) == {"onnxruntime-fp32", "openvino-int8"}
    assert latency["openvino-int8"]["speedup"]["openvino-int8"] == 1
    small, large = (latency[f"onnxruntime-{kind}"]["model_bytes"] for kind in ("int8", "fp32"))
    assert small < large / 2
    assert latency["openvino-bf16"]["runtime"]["inference_precision_hint"] in ("bf16", "f32")
    whole = section(report, "end_to_end")
    assert {"onnxruntime-int8", "openvino-int8", "all_masked:bitsliced"} <= set(whole)


def test_logits_are_compared_with_the_model(report: dict[str, Any]) -> None:
    for name, row in section(report, "latency").items():
        agreement = row["agreement"]
        assert agreement["pixels"] == 64 * 64
        if ":" in name:
            assert agreement["logits"] == 64 * 64
            assert agreement["different_logits"] == agreement["different_pixels"] == 0
            continue
        difference = agreement["largest_difference"] / agreement["largest_logit"]
        if name.endswith("fp32"):
            assert difference < 1e-4
        if name.endswith("int8"):
            assert 1e-6 < difference < 0.5
            assert agreement["different_pixels"] < 0.2 * agreement["pixels"]


def test_memory_is_that_of_the_network(report: dict[str, Any]) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell a process's peak memory")
    for row in section(report, "latency").values():
        assert row["loading_peak_bytes"] >= row["baseline_bytes"] > 1e6
        assert row["loading_memory_bytes"] == row["loading_peak_bytes"] - row["baseline_bytes"]
        assert row["running_memory_bytes"] == row["running_peak_bytes"] - row["baseline_bytes"]


def test_other_densities_and_single_layers_are_timed(report: dict[str, Any]) -> None:
    swept = section(report, "density")
    assert list(swept) == ["all_masked:bitsliced@0.3", "all_masked-2bit:bitsliced@0.3"]
    for row in swept.values():
        assert row["density"] == pytest.approx(0.3, abs=0.02)
    for row in section(report, "layers").values():
        layers = row["layers"]
        assert len(layers) == 21 + 2
        assert all(row["ceilings"][kind] > 1e9 for kind in ("adders", "l1", "l2"))
        assert layers["network"]["nonzero_macs"] == sum(
            layer["nonzero_macs"] for name, layer in layers.items() if "." in name
        )


def test_the_report_is_json_a_table_and_a_picture(report: dict[str, Any], tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "benchmark.json", report)
    read = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"config", "machine", "networks", "groups", "left_out"} <= set(read)
    assert {"cpu", "cores", "versions", "instructions"} <= set(read["machine"])
    text = tables(read)
    for name, row in section(read, "latency").items():
        line = next(line for line in text.splitlines() if line.startswith(f"{name}  "))
        assert float(line.split()[1]) == pytest.approx(1000 * row["median"], rel=0.05)
    draw(read, tmp_path / "benchmark.png")
    with Image.open(tmp_path / "benchmark.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def ended_in_between(monkeypatch: pytest.MonkeyPatch, row: str, threads: int) -> None:
    """Let a row's processes of so many threads be ended once they are timed."""
    timed = measuring.time_in_turn

    def time_in_turn(started: Sequence[Worker], *others: Any) -> list[list[dict[str, Any]]]:
        for worker in started:
            if (worker.job.row, worker.job.threads) == (row, threads):
                os.kill(worker.pid, 9)
        return timed(started, *others)

    monkeypatch.setattr(measuring, "time_in_turn", time_in_turn)


TWO_ROWS = dataclasses.replace(
    SMOKE,
    rows=("binary:bitsliced", "all_masked:bitsliced"),
    baselines=(),
    threads=(1, 2),
    densities=(),
    end_to_end=False,
    layers=False,
)


@pytest.mark.skipif(len(available_cores()) < 2, reason="two threads need two cores")
def test_a_row_that_dies_later_does_not_take_the_others_results_with_it(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended_in_between(monkeypatch, "binary:bitsliced", threads=2)
    report = benchmark(TWO_ROWS, nursery)
    first, second = report["groups"]
    assert list(first["rows"]) == ["binary:bitsliced", "all_masked:bitsliced"]
    assert list(second["rows"]) == ["all_masked:bitsliced"]
    (line,) = report["left_out"]
    assert re.match("left out of 64x64, 1 image, 2 threads: row binary:bitsliced .*SIGKILL", line)
    assert line in tables(report).splitlines()
    draw(report, tmp_path / "benchmark.png")


def test_a_row_that_dies_at_once_is_an_error(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_in_between(monkeypatch, "all_masked:bitsliced", threads=1)
    with pytest.raises(InputError, match=r"row all_masked:bitsliced .*SIGKILL"):
        benchmark(TWO_ROWS, nursery)


@needs_peers
@pytest.mark.parametrize(("channels", "classes"), [(3, 1), (1, 3)])
def test_the_exported_network_gives_the_models_logits(channels: int, classes: int) -> None:
    """Whatever its BatchNorms: negative, zero and tiny scales, large variances."""
    import onnxruntime

    from experiments.benchmark.onnx_export import export_onnx

    config = UNetConfig.preset("full_precision", width=4, in_channels=channels, classes=classes)
    model = random_model(config, seed=1)
    model.up_ct2.bias.set_value(jnp.arange(16, dtype=jnp.float32) / 8 - 1)
    model.eval()
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, channels), dtype=np.uint8)
    wanted = np.asarray(nnx.jit(UNet.__call__)(model, jnp.asarray(images)))
    session = onnxruntime.InferenceSession(export_onnx(model).SerializeToString())
    x = np.moveaxis(images / np.float32(127.5) - np.float32(1), 3, 1)
    outputs: Any = session.run(None, {"image": np.ascontiguousarray(x, np.float32)})
    found = np.moveaxis(outputs[0], 1, 3)
    assert np.ptp(wanted) > 0.01
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * float(np.abs(wanted).max()))


@needs_peers
def test_a_quantized_network_is_not_exported() -> None:
    from experiments.benchmark.onnx_export import export_onnx

    with pytest.raises(InputError, match="full_precision"):
        export_onnx(random_model(UNetConfig(width=4)))


def packed_job(folder: Path, **changes: Any) -> tuple[Job, PackedUNet, np.ndarray]:
    """A tiny network on one thread, with the engine that compiles fast where it is there."""
    engine = "xla" if library.absent() else "bitsliced"
    params = random_packed(UNetConfig(width=4))
    save_packed(folder / "model.safetensors", params)
    images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    Image.fromarray(images[0]).save(folder / "picture.png")
    job = Job(
        row="a row",
        runtime="packed",
        engine=engine,
        model=str(folder / "model.safetensors"),
        unet=params.config.to_dict(),
        images=str(folder / "images.npy"),
        batch=1,
        cores=available_cores()[:1],
        cache=os.environ.get("JAX_COMPILATION_CACHE_DIR"),
    )
    return dataclasses.replace(job, **changes), params, images


def test_a_process_segments_files_and_tells_when_it_dies(nursery: Nursery, tmp_path: Path) -> None:
    files = {"picture": str(tmp_path / "picture.png"), "mask": str(tmp_path / "mask.png")}
    job, params, images = packed_job(tmp_path, **files)
    worker = Worker(job, nursery)
    try:
        worker.load()
        run = worker.run()
        assert run["seconds"] > 0
        logits = np.asarray(jax.jit(infer)(params, images))
        with Image.open(tmp_path / "mask.png") as mask:
            np.testing.assert_array_equal(np.asarray(mask), logits[0, ..., 0] > 0)
        os.kill(worker.pid, 9)
        with pytest.raises(InputError, match=r"row a row .* SIGKILL, .* memory.*--rows"):
            worker.run()
    finally:
        worker.close()


def test_what_a_process_cannot_load_is_one_line(nursery: Nursery, tmp_path: Path) -> None:
    job, _, _ = packed_job(tmp_path, model=str(tmp_path / "none.safetensors"))
    worker = Worker(job, nursery)
    try:
        with pytest.raises(InputError, match=r"row a row .*none\.safetensors.*\n?") as e:
            worker.load()
        assert "\n" not in str(e.value)
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("seconds", "rounds"), [(100.0, 2), (1.0, 3), (0.1, 8)], ids=["least", "budget", "most"]
)
def test_rows_take_turns_as_often_as_time_allows(seconds: float, rounds: int) -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> dict[str, float]:
            order.append(self.name)
            return {"seconds": seconds}

    timing = TimingOptions(seconds=6.5, min_rounds=2, max_rounds=8)
    fakes: Any = [Fake("a"), Fake("b")]
    samples = measuring.time_in_turn(fakes, timing, "title")
    assert [len(runs) for runs in samples] == [rounds, rounds]
    assert order == ["a", "b"] * rounds


def test_what_does_not_fit_into_memory_together_is_timed_in_shifts() -> None:
    needs = [14e9, 7e9, 0.2e9, 7e9, 0.0]
    for available in (40e9, 20e9, 10e9):
        found = measuring.shifts(needs, available)
        assert sorted(i for shift in found for i in shift) == [0, 1, 2, 3, 4]
        for shift in found:
            assert len(shift) == 1 or sum(needs[i] for i in shift) < available
    assert len(measuring.shifts(needs, 40e9)) == 1
    assert len(measuring.shifts(needs, 20e9)) == 2
    assert measuring.shifts(needs, None) == [[0, 1, 2, 3, 4]]


def test_rows_of_other_shifts_are_compared_by_medians() -> None:
    times = {"a": [1.0, 4.0, 2.0], "b": [2.0, 2.0, 2.0], "c": [8.0, 2.0, 4.0]}
    found: dict[str, Any] = {
        name: {"seconds": seconds, "median": statistics.median(seconds), "shift": int(name == "c")}
        for name, seconds in times.items()
    }
    measuring.compare(found, ["a", "absent"])
    assert found["b"]["speedup"] == {"a": 1.0}  # of 0.5, 2 and 1
    assert found["c"]["speedup"] == {"a": 0.5}
    found["c"]["shift"] = 0
    measuring.compare(found, ["a"])
    assert found["c"]["speedup"] == {"a": 0.5}  # of 1/8, 2 and 0.5


def test_bfloat16_that_is_not_there_is_told_and_timed_once() -> None:
    def row(precision: str, used: str) -> dict[str, Any]:
        return {"runtime": {"precision": precision, "inference_precision_hint": used}}

    group = {"rows": {"x": row("bf16", "f32"), "y": row("bf16", "bf16"), "z": row("int8", "f32")}}
    assert measuring.without_own_precision(group) == {"x": "f32"}
    chosen = [rows.Row.parse("xla-fp32"), rows.Row.parse("openvino-bf16")]
    (first, *_) = plan(SMOKE, chosen)
    assert [entry.name for entry in first.without({"openvino-bf16"}).entries] == ["xla-fp32"]


def test_a_group_that_none_is_left_of_is_not_timed(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a processor without bfloat16 where openvino-bf16 is the only row."""
    monkeypatch.setattr(
        program, "without_own_precision", lambda group: dict.fromkeys(group["rows"], "f32")
    )
    row = "binary:xla" if library.absent() else "binary:bitsliced"
    config = dataclasses.replace(SMOKE, rows=(row,), size=32, sizes=(48,), end_to_end=False)
    report = benchmark(config, nursery)
    assert [group["size"] for group in report["groups"]] == [32]
    assert row in tables(report)
    draw(report, tmp_path / "chart.png")
    report["scores"] = {"size": [32, 32], "rows": {}}
    assert "No row was scored" in tables(report)


def test_bits_that_differ_are_counted_and_a_wrong_export_stops_it() -> None:
    wanted = np.array([[[1.0], [-1.0]], [[2.0], [0.0]]], np.float32)
    packed = Material({}, {}, {"reference": "the model"}, wanted)
    changed = wanted.copy()
    changed[1, 1, 0] = -0.0  # other bits, the same class
    changed[0, 1, 0] = 1.0
    found = measuring.agreement("bitsliced", packed, changed)
    assert found == {"logits": 4, "different_logits": 2, "pixels": 4, "different_pixels": 1}
    other = Material({}, {}, {}, wanted)
    assert measuring.agreement("int8", other, changed)["largest_difference"] == 2
    with pytest.raises(RuntimeError, match="differs from the model"):
        measuring.agreement("fp32", other, changed)
    changed[0, 1, 0] = np.nan  # JSON has no word for it
    assert measuring.agreement("bf16", other, changed)["largest_difference"] is None


def test_work_is_counted_weight_by_weight() -> None:
    params = random_packed(UNetConfig(width=4), density=0.4)
    seconds = dict.fromkeys(params.conv_names, 0.5) | {"network": 20.0}
    found = account(params, 32, [seconds], {"adders": 3e9, "l1": 2e9, "l2": 1e9})
    for name, side in (("stem.conv2", 32), ("down_c2.conv1", 8), ("up_ct1.conv", 2)):
        conv = params.convs[name]
        planes = np.asarray(conv.positive) | np.asarray(conv.negative)
        nonzeros = np.unpackbits(planes.view(np.uint8)).sum()
        assert found[name]["nonzero_macs"] == nonzeros * side**2
        assert found[name]["nonzero_macs_per_second"] == nonzeros * side**2 / 0.5
        assert found[name]["floor_seconds"] == nonzeros * side**2 / 2e9
    assert found["stem, pools, head"]["median"] == 20.0 - 21 * 0.5
