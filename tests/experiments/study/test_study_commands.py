"""The commands at their smallest scale, on synthetic images; they share a run that is trained.

Compiling a training takes longest, so one network is trained; another starts from its weights, and
what would score it is replaced.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bits, command, density, levels, pareto, table1
from experiments.study.report import finished_runs
from mbu_jax.inference import pack
from mbu_jax.saving import load_packed
from mbu_jax.train import loop
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.metrics import SegmentationScores
from tests.experiments.processes import finish, start


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which ``table1`` left its runs and its report, and ``printed``."""
    folder = tmp_path_factory.mktemp("study")
    options = ("--scale", "smoke", "--rows", "binary", "--out", folder / "report")
    printed = finish(start("table1", *options, "--runs", folder / "runs"))
    (folder / "printed").write_text(printed)
    return folder


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def run_of(folder: Path, results: dict[str, Any], name: str) -> tuple[Path, dict[str, Any]]:
    """Directory of a row's run, and what the report says of it."""
    (entry,) = finished_runs(results["rows"][name])
    return folder / "runs/synthetic-smoke" / entry["run"], entry


def test_a_study_trains_packs_times_and_reports(trained: Path) -> None:
    results = report(trained / "report")
    finished = {name for name, row in results["rows"].items() if finished_runs(row)}
    assert finished == set(results["latency"]["rows"]) == {"binary"}
    run, entry = run_of(trained, results, "binary")
    scored = json.loads((run / "eval.json").read_text())
    assert entry["scores"]["dice"] == scored["dice"]
    assert entry["best_update"] == scored["step"] == entry["updates"] == 2
    assert entry["minutes"] > 0
    assert entry["densities"]["down_c1.conv1"] == 1
    assert entry["packed_bytes"] == (run / "model.safetensors").stat().st_size
    packed = load_packed(run / "model.safetensors")
    for layer, share in entry["densities"].items():
        assert share == pytest.approx(packed.convs[layer].density, abs=1e-6)
    # The packed network is the best checkpoint's.
    network, params, stats, _ = load_run(run)
    for layer, conv in pack(network.model(params, stats)).convs.items():
        np.testing.assert_array_equal(conv.positive, packed.convs[layer].positive)
        np.testing.assert_array_equal(conv.theta, packed.convs[layer].theta)

    row = results["latency"]["rows"]["binary"]
    assert len(row["seconds"]) == results["latency"]["rounds"] == 3
    assert row["median"] == np.median(row["seconds"]) > 0
    text = (trained / "report/table.md").read_text()
    assert text in (trained / "printed").read_text()
    assert (trained / "report/figure.png").stat().st_size > 10_000


class Scorer:
    """Scores every image alike, so that no evaluation is compiled."""

    def __init__(self, network: Any, _: Any) -> None:
        self.stats = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), network.initial_stats)

    def recalibrated_stats(self, _: Any, batches: Iterable[dict[str, Any]]) -> Any:
        assert list(batches)
        return self.stats

    def scores(self, _: Any, __: Any, batches: Iterable[dict[str, Any]]) -> SegmentationScores:
        scores = SegmentationScores()
        for batch in batches:
            counts = np.tile([3, 1, 1], (len(batch["id"]), 1, 1))
            scores.add(counts, batch["weight"], batch["id"])
        return scores


def test_the_pruned_network_keeps_the_largest_weights_of_the_binary_one(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Evaluator", Scorer)
    arguments = ["--scale", "smoke", "--rows", "pruned", "--out", str(tmp_path)]
    arguments += ["--runs", str(trained / "runs")]
    monkeypatch.setattr(sys, "argv", ["table1", *arguments])
    command.run(table1.main)
    results = report(tmp_path)
    assert set(results["latency"]["rows"]) == {"binary", "pruned"}
    (first, _), (second, entry) = (run_of(trained, results, n) for n in ("binary", "pruned"))
    assert (entry["best_update"], entry["updates"], entry["minutes"]) == (0, 0, 0)
    assert entry["scores"]["dice"] == 0.75
    assert entry["options"]["initial"] == first.name
    network, params, _, _ = load_run(first)
    packed = load_packed(second / "model.safetensors")
    for layer, module in network.quantized_layers(params).items():
        latent = np.asarray(module.weight[...])
        wanted = max(1, round(0.1 * latent.size))
        assert packed.convs[layer].density == pytest.approx(wanted / latent.size)
        assert entry["densities"][layer] == pytest.approx(wanted / latent.size)
    pruned, weights, _, _ = load_run(second)
    for layer, module in pruned.quantized_layers(weights).items():
        latent = np.asarray(module.weight[...])
        kept = np.asarray(module.quantized_weight())
        assert set(np.unique(kept)) <= {-1, 0, 1}
        assert np.abs(latent[kept != 0]).min() > np.abs(latent[kept == 0]).max(), layer


@pytest.mark.parametrize("study", [bits, levels, density, pareto])
def test_the_other_studies_take_the_run_that_is_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Any
) -> None:
    arguments = ["--scale", "smoke", "--rows", "binary", "--out", str(tmp_path / "report")]
    arguments += ["--runs", str(trained / "runs")]
    monkeypatch.setattr(sys, "argv", [study.STUDY.name, *arguments])
    before = set((trained / "runs").rglob("*"))
    command.run(study.main)
    assert set((trained / "runs").rglob("*")) == before
    results = report(tmp_path / "report")
    ours = report(trained / "report")["rows"]["binary"]["runs"]
    assert results["rows"]["binary"]["runs"] == ours
    assert set(results["latency"]["rows"]) == {"binary"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "results.json",
        "results.json.lock",
        "table.md",
        "figure.png",
    }

    # Times are taken again only where something changed.
    monkeypatch.setattr(sys, "argv", [study.STUDY.name, *arguments])
    command.run(study.main)
    assert report(tmp_path / "report")["latency"] == results["latency"]
