"""The training benchmark: interleaved raw samples, ratios to the first network, bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark_training import BenchmarkConfig, benchmark
from mbu_jax.errors import InputError


def test_report_keeps_raw_samples_and_states_ratios_of_them(tmp_path):
    out = tmp_path / "training.json"
    arguments = "--networks full_precision binary:2 --width 4 --size 16 --batch-size 2 --rounds 3"
    run = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark_training", *arguments.split(), "--out", out],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(out.read_text())
    first, second = (report["networks"][name] for name in ("full_precision", "binary:2"))
    assert len(first["seconds"]) == len(second["seconds"]) == 3
    assert min(first["seconds"] + second["seconds"]) > 0
    assert first["ratio"] == 1
    ratios = np.divide(second["seconds"], first["seconds"])
    assert second["ratio"] == np.median(ratios)
    assert report["config"]["rounds"] == 3
    assert set(report["versions"]) == {"jax", "jaxlib", "flax", "optax"}
    assert "binary:2" in run.stdout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BenchmarkConfig(rounds=0), "rounds"),
        (BenchmarkConfig(size=-3), "size is -3 -3"),
        (BenchmarkConfig(size=0), "size is 0 0"),
        (BenchmarkConfig(networks=("binary:3",)), "binary:3"),
        (BenchmarkConfig(networks=("nonsense",)), "nonsense"),
        (BenchmarkConfig(networks=()), "nothing to time"),
        (BenchmarkConfig(batch_size=3), "multiple of the 2 devices"),
        (BenchmarkConfig(out=Path(__file__, "in.json")), "cannot be made"),
        (BenchmarkConfig(out=Path(__file__).parent), "is a folder"),
        (BenchmarkConfig(out=Path(__file__)), "exists; choose another --out, or allow --overwrite"),
    ],
)
def test_bad_options_are_named(config, message):
    with pytest.raises(InputError, match=message):
        benchmark(config)
