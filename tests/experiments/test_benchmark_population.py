"""The population benchmark: raw samples and ratios of its rows, bad input; nothing is compiled."""

import time

import pytest

from experiments import benchmark_population
from experiments.benchmark_population import BenchmarkConfig, benchmark
from mbu_jax.errors import InputError


def test_report_keeps_raw_samples_and_states_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    naps = {"separate": 0.01, "1": 0.03}
    monkeypatch.setattr(
        benchmark_population, "_update", lambda name, config: lambda: time.sleep(naps[name])
    )
    report = benchmark(BenchmarkConfig(rows=("separate", "1"), rounds=3))
    assert {name: len(row["seconds"]) for name, row in report["rows"].items()} == {
        "separate": 3,
        "1": 3,
    }
    assert report["rows"]["separate"]["ratio"] == 1
    assert 1.2 < report["rows"]["1"]["ratio"] < 10
    assert report["config"]["members"] == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BenchmarkConfig(rounds=0), "rounds"),
        (BenchmarkConfig(size=-3), "size is -3 -3"),
        (BenchmarkConfig(members=3), "multiple of the 2 devices"),
        (BenchmarkConfig(rows=("nonsense",)), "nonsense"),
        (BenchmarkConfig(rows=("0",)), "'0'"),
        (BenchmarkConfig(rows=("4",)), "8 networks at once; members is 4"),
    ],
)
def test_bad_options_are_named(config: BenchmarkConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        benchmark(config)
