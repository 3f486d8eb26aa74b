"""The inference benchmark: raw samples, ratios of time and memory, bad input."""

import json

import numpy as np
import pytest

from experiments.benchmark_inference import BenchmarkConfig, benchmark
from mbu_jax.errors import InputError
from tests.experiments.processes import finish, start


def test_report_keeps_raw_samples_and_states_ratios_of_them(tmp_path):
    out = tmp_path / "inference.json"
    options = (
        "--networks full_precision all_masked:xla --width 4 --size 32 --batch-size 2 --rounds 3"
    )
    printed = finish(start("benchmark_inference", *options.split(), "--out", out))
    report = json.loads(out.read_text())
    first, second = (report["networks"][name] for name in ("full_precision", "all_masked:xla"))
    assert len(first["seconds"]) == len(second["seconds"]) == 3
    assert min(first["seconds"] + second["seconds"]) > 0
    assert second["ratio"] == np.median(np.divide(second["seconds"], first["seconds"]))
    assert first["temporary_ratio"] == 1
    assert second["temporary_ratio"] == second["temporary_bytes"] / first["temporary_bytes"] > 0
    assert "all_masked:xla" in printed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BenchmarkConfig(rounds=0), "rounds"),
        (BenchmarkConfig(networks=("nonsense",)), "nonsense"),
        (BenchmarkConfig(networks=("binary:magic",), width=4, size=16), "magic"),
    ],
)
def test_bad_options_are_named(config, message):
    with pytest.raises(InputError, match=message):
        benchmark(config)
