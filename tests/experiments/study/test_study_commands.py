"""The commands at their smallest scale, on synthetic images; they share a run that is trained.

A run takes longest to compile, so only two are carried out: a binary network is trained, and pruned
without further training.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import bits, command, density, levels, pareto
from experiments.study.report import finished_runs
from mbu_jax.inference import pack
from mbu_jax.saving import load_packed
from mbu_jax.train.checkpoints import load_run
from tests.experiments.processes import finish, start


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which ``table1`` left its runs and its report, and ``printed``."""
    folder = tmp_path_factory.mktemp("study")
    options = ("--scale", "smoke", "--rows", "pruned", "--out", folder / "report")
    printed = finish(start("table1", *options, "--runs", folder / "runs"))
    (folder / "printed").write_text(printed)
    return folder


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def test_a_study_trains_prunes_packs_times_and_reports(trained: Path) -> None:
    results = report(trained / "report")
    rows = {name: row["runs"] for name, row in results["rows"].items() if finished_runs(row)}
    assert set(rows) == {"binary", "pruned"}
    runs = {name: trained / "runs/synthetic-smoke" / row[0]["run"] for name, row in rows.items()}
    for name, run in runs.items():
        (entry,) = rows[name]
        scored = json.loads((run / "eval.json").read_text())
        assert entry["scores"]["dice"] == scored["dice"]
        assert entry["best_update"] == scored["step"] == {"binary": 2, "pruned": 0}[name]
        assert entry["packed_bytes"] == (run / "model.safetensors").stat().st_size
        packed = load_packed(run / "model.safetensors")
        for layer, share in entry["densities"].items():
            assert share == pytest.approx(packed.convs[layer].density, abs=1e-6)
        # The packed network is the best checkpoint's.
        network, params, stats, _ = load_run(run)
        again = pack(network.model(params, stats))
        for layer, conv in again.convs.items():
            np.testing.assert_array_equal(conv.positive, packed.convs[layer].positive)
            np.testing.assert_array_equal(conv.theta, packed.convs[layer].theta)
    assert rows["pruned"][0]["density"] == pytest.approx(0.1, abs=0.02)
    assert rows["binary"][0]["densities"]["down_c1.conv1"] == 1
    assert rows["binary"][0]["minutes"] > 0

    times = results["latency"]["rows"]
    assert set(times) == {"binary", "pruned"}
    for row in times.values():
        assert len(row["seconds"]) == results["latency"]["rounds"] == 3
        assert row["median"] == np.median(row["seconds"]) > 0
    text = (trained / "report/table.md").read_text()
    assert text in (trained / "printed").read_text()
    assert (trained / "report/figure.png").stat().st_size > 10_000


def test_the_pruned_network_keeps_the_largest_weights_of_the_binary_one(trained: Path) -> None:
    """Its positive and negative weights are some of the binary network's, none is new."""
    rows = report(trained / "report")["rows"]
    binary, pruned = (
        load_run(trained / "runs/synthetic-smoke" / rows[name]["runs"][0]["run"])
        for name in ("binary", "pruned")
    )
    for layer, weight in binary[0].quantized_layers(binary[1]).items():
        latent = np.asarray(weight.weight[...])
        kept = np.asarray(pruned[0].quantized_layers(pruned[1])[layer].quantized_weight())
        largest = np.sort(np.abs(latent), axis=None)[-max(1, round(0.1 * latent.size))]
        np.testing.assert_array_equal(kept, np.sign(latent) * (np.abs(latent) >= largest))


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
        "table.md",
        "figure.png",
    }

    # Times are taken again only where something changed.
    monkeypatch.setattr(sys, "argv", [study.STUDY.name, *arguments])
    command.run(study.main)
    assert report(tmp_path / "report")["latency"] == results["latency"]
