"""The training command: the same on any number of devices, after any interruption, or refused."""

import json
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from PIL import Image

from tests.experiments.processes import TIMEOUT, TINY, finish, start


def log_of(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def contents(run: Path, step: int) -> dict[str, bytes]:
    """Every array of a checkpoint, as Orbax itself reads it."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.training.Checkpointer(str(run / "checkpoints")) as checkpointer:
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here),
            checkpointer.metadata(step).metadata,
        )
        arrays = jax.tree_util.tree_leaves_with_path(checkpointer.load(step, wanted))
    return {jax.tree_util.keystr(path): np.asarray(x).tobytes() for path, x in arrays}


def test_a_run_leaves_everything(finished_run: Path) -> None:
    names = {path.name for path in finished_run.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "checkpoints", "eval.json", "samples", "curves.png"),
        "model.safetensors",
    }
    kinds = [(line["step"], line["epoch"], line["kind"]) for line in log_of(finished_run)]
    assert kinds == [(3 * e, e, kind) for e in (1, 2) for kind in ("train", "layers", "validation")]
    assert json.loads((finished_run / "config.json").read_text())["train_images"] == 12

    pictures = sorted((finished_run / "samples").iterdir())
    assert len(pictures) == 3
    for picture in (*pictures, finished_run / "curves.png"):
        with Image.open(picture) as image:
            assert image.format == "PNG"
            assert image.width > 100
    # The last two, and the best where it is another one.
    steps = sorted(int(path.name) for path in (finished_run / "checkpoints").iterdir())
    assert steps[-2:] == [5, 6]
    assert set(steps[:-2]) <= {3}


def test_the_scores_are_those_of_the_best_checkpoint(finished_run: Path) -> None:
    report = json.loads((finished_run / "eval.json").read_text())
    validations = [line for line in log_of(finished_run) if line["kind"] == "validation"]
    best = max(validations, key=lambda line: line["dice"])
    assert {name: report[name] for name in best if name not in ("epoch", "kind")} == {
        name: value for name, value in best.items() if name not in ("epoch", "kind")
    }
    assert report["images"] == 64
    assert "averaged over images" in report["definitions"]["dice"]

    printed = (finished_run.parent / "printed").read_text()
    assert f"Dice {best['dice']:.4f}" in printed
    assert f"run directory: {finished_run}" in printed
    assert "its masks are the model's on every pixel of 64 images" in printed
    assert report["definitions"]["f1"] in printed


def test_no_bars_where_nobody_looks(finished_run: Path) -> None:
    """A finished run that is started again trains no more, and says little."""
    before = contents(finished_run, 6), log_of(finished_run)
    process = start("train", *TINY, "--workdir", finished_run)
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    assert "resuming" in out
    assert "\nepoch" not in out
    assert (contents(finished_run, 6), log_of(finished_run)) == before


class Kill:
    """Waits for a moment in a run's life, then kills the process."""

    def __init__(self, run: Path, moment: Callable[[], bool], delay: float = 0.0) -> None:
        self.run, self.moment, self.delay = run, moment, delay

    def __call__(self, *processes: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not self.moment():
            for process in processes:
                assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(self.delay)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.communicate(timeout=TIMEOUT)
            assert process.returncode == -signal.SIGKILL


def lines(run: Path) -> int:
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def unfinished(run: Path, step: int) -> bool:
    return any((run / "checkpoints").glob(f"{step}.*tmp*"))


def complete(run: Path, step: int) -> bool:
    return (run / "checkpoints" / str(step)).is_dir()


@pytest.fixture(scope="module")
def other_runs(finished_run: Path, tmp_path_factory: Any) -> Iterator[dict[str, Any]]:
    """The command of `finished_run` on two devices and on two processes, at work meanwhile."""
    folder = tmp_path_factory.mktemp("others")
    pair = start_pair(*TINY, "--workdir", folder / "processes")
    alone = start("train", *TINY, "--workdir", folder / "devices", devices=2)
    yield {"devices": [alone], "processes": pair, "folder": folder}
    for process in (alone, *pair):
        process.kill()  # where a test did not wait for it
        process.communicate(timeout=TIMEOUT)


def start_pair(*options: str | Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    cluster = ["--coordinator", f"localhost:{port}", "--process-count", "2"]
    return [start("train", *options, *cluster, "--process-index", str(i)) for i in (0, 1)]


def test_a_killed_run_ends_bit_identical(
    finished_run: Path, other_runs: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown if the test fails
    delay = random.Random(seed).uniform(0.0, 0.5)
    kills = [
        Kill(run, lambda: unfinished(run, 2)),
        Kill(run, lambda: lines(run) >= 3),  # the epoch is logged, its checkpoint not yet there
        Kill(run, lambda: complete(run, 4), delay),
    ]
    for kill in kills:
        kill(start("train", *TINY, "--workdir", run))
    assert "resuming" in finish(start("train", *TINY, "--workdir", run))

    assert contents(run, 6) == contents(finished_run, 6)
    assert len(contents(run, 6)) > 300  # parameters, both moments, their average, statistics
    assert log_of(run) == log_of(finished_run)
    files = ("eval.json", "model.safetensors")
    for name in (*files, *(f"samples/{p.name}" for p in (run / "samples").iterdir())):
        assert (run / name).read_bytes() == (finished_run / name).read_bytes()
    left = [sorted(p.name for p in (r / "checkpoints").iterdir()) for r in (run, finished_run)]
    assert left[0] == left[1]


@pytest.mark.parametrize("kind", ["devices", "processes"])
def test_losses_do_not_depend_on_how_the_batch_is_spread(
    kind: str, finished_run: Path, other_runs: dict[str, Any]
) -> None:
    printed = [finish(process) for process in other_runs[kind]]
    compared = "every pixel of 64 images" if kind == "devices" else "evaluate --packed compares it"
    assert compared in printed[0]
    assert printed[0].count("run directory") == 1
    said = [line for line in "".join(printed[1:]).splitlines() if not line.startswith("[Gloo]")]
    assert said == []
    run = other_runs["folder"] / kind
    ours, theirs = log_of(run), log_of(finished_run)
    assert len(ours) == len(theirs) == 6
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.keys() == reference.keys()
        for name in mine:
            if name != "kind":
                assert mine[name] == pytest.approx(reference[name], rel=1e-6, abs=1e-5), name
    a, b = (json.loads((r / "eval.json").read_text()) for r in (run, finished_run))
    assert [row["id"] for row in a["per_image"]] == [row["id"] for row in b["per_image"]]
    assert a["dice"] == pytest.approx(b["dice"], abs=1e-5)
