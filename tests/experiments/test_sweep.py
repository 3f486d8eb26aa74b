"""The sweep's command: its networks are those trained separately, whatever interrupts it."""

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import chex
import jax
import pytest
from PIL import Image

from experiments.sweep.__main__ import run
from experiments.sweep.costs import quantized_convolutions
from experiments.sweep.options import SweepOptions, chosen_sweep
from experiments.sweep.training import SweepTrainer
from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.config import PRESETS
from mbu_jax.unet import UNetConfig
from tests.experiments.processes import TIMEOUT, finish, start


def smoke(folder: Path, **options: Any) -> SweepOptions:
    given: dict[str, Any] = {"scale": "smoke", "permutations": 1, "out": folder}
    return SweepOptions(**given | options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep by two processes, the first one killed in its chunk and started again."""
    folder = tmp_path_factory.mktemp("sweep") / "smoke"
    command = ("sweep", "--scale", "smoke", "--permutations", "1", "--out", str(folder))
    first = (*command, "--process-count", "2", "--process-index", "0")
    killed = start(*first, devices=2)
    deadline = time.monotonic() + TIMEOUT
    while not (folder / "runs" / "chunk-0000" / "3").is_dir():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert "1 of 2 chunks are finished" in finish(start(*first, devices=2))
    second = (*command, "--process-count", "2", "--process-index", "1")
    assert "What masking a layer is worth" in finish(start(*second, devices=2))
    return folder


def test_a_member_is_what_is_trained_separately(swept: Path, finished_run: Path) -> None:
    """`finished_run` masks six layers in order of cost, by the smoke recipe and its first seed."""
    lines = (swept / "runs" / "chunk-0000.jsonl").read_text().splitlines()
    (member,) = (m for m in map(json.loads, lines[1:]) if len(m["masked"]) == 6)
    log = {}  # the last line of every kind
    for line in map(json.loads, (finished_run / "metrics.jsonl").read_text().splitlines()):
        log[line["kind"]] = line
    saved = json.loads((finished_run / "config.json").read_text())
    assert saved["unet"]["precisions"].count("masked") == 6
    for name, value in member["last_epoch"].items():
        assert value == pytest.approx(log["train"][name], rel=1e-5), name
    for name, value in member["scores"].items():
        assert value == pytest.approx(log["validation"][name], abs=1e-5), name
    # The log tells of the last update's weights, the sweep of their average, which it scores.
    for name, (_, conv) in quantized_convolutions(4).items():
        zeros = 1 - log["layers"][f"density/{name}"]
        assert member["zeros"][name] / conv.weights == pytest.approx(zeros, abs=0.05), name
        assert (member["zeros"][name] == 0) == (zeros == 0), name


def test_the_report_has_every_network_once(swept: Path) -> None:
    assert {path.name for path in swept.iterdir()} == {
        *("results.json", "results.csv", "table.md", "figure.png", "runs")
    }
    rows = list(csv.DictReader((swept / "results.csv").read_text().splitlines()))
    assert [row["series"] for row in rows] == [
        name for name in ("cost order", "permutation 1") for _ in range(13)
    ]
    assert all(row["masked"].count("1") == int(row["masked_layers"]) for row in rows)
    for row in rows:
        assert (float(row["zeros/up_c4"]) > 0) == (row["masked"][-1] == "1")
    results = json.loads((swept / "results.json").read_text())
    shapley = results["shapley"]["layers"]
    # Over an order, what layers add is what all of them are worth together.
    gained = float(rows[25]["dice"]) - float(rows[13]["dice"])
    assert sum(v["value"] for v in shapley.values()) == pytest.approx(gained)
    assert results["networks"] == 26
    assert results["machines"][0]["devices"] == 2
    with Image.open(swept / "figure.png") as image:
        assert image.format == "PNG"
        assert image.width > 800
    # Nothing but results is left of a finished chunk.
    assert sorted(path.name for path in (swept / "runs").iterdir()) == [
        *(f"chunk-{i:04d}.{kind}" for i in range(2) for kind in ("jsonl", "lock")),
        *("sweep.json", "sweep.json.lock"),
    ]


def test_a_finished_sweep_only_writes_its_report(swept: Path, capsys: Any) -> None:
    before = {p.name: p.read_bytes() for p in (swept / "runs").iterdir()}
    table = (swept / "table.md").read_text()
    run(smoke(swept))
    assert {p.name: p.read_bytes() for p in (swept / "runs").iterdir()} == before
    assert (swept / "table.md").read_text() == table
    assert "`python -m experiments.sweep --scale smoke --permutations 1`" in table
    capsys.readouterr()
    run(smoke(swept, dry_run=True))
    assert "2 of 2 chunks are finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "other series"),
        ({"chunk_members": 4}, "other chunk_members"),
        ({"dataset": "nuclei"}, "other dataset"),
        ({"initial": "the finished run"}, "other .*initial"),
        ({"scale": "small"}, "other dataset, "),
    ],
)
def test_another_sweep_is_refused(
    options: dict[str, Any], message: str, swept: Path, finished_run: Path
) -> None:
    if "initial" in options:
        options = {"initial": finished_run}
    with pytest.raises(InputError, match=message):
        run(smoke(swept, **options))


@pytest.mark.parametrize("damage", ["{", "", '{"chunk": 0}\n{}\n'])
def test_a_damaged_chunk_is_named(damage: str, swept: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(swept, tmp_path / "copy")
    (copy / "runs" / "chunk-0001.jsonl").write_text(damage)
    with pytest.raises(InputError, match=r"chunk-0001.jsonl is damaged .* train it again"):
        run(smoke(copy))


def test_a_chunk_of_another_sweep_is_refused(swept: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(swept, tmp_path / "copy")
    shutil.copy(copy / "runs" / "chunk-0000.jsonl", copy / "runs" / "chunk-0001.jsonl")
    with pytest.raises(InputError, match=r"chunk-0001.jsonl is of another sweep"):
        run(smoke(copy))


def test_what_cannot_be_used_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with pytest.raises(InputError, match="data_dir"):
        run(smoke(folder, data_dir=tmp_path))
    assert not folder.exists()


def test_networks_can_start_from_a_run(finished_run: Path, tmp_path: Path) -> None:
    sweep = chosen_sweep(smoke(tmp_path, initial=finished_run))
    recipe = sweep.recipe
    assert (recipe.initial, recipe.model.width, recipe.epochs) == (finished_run, 4, 1)
    trainer = SweepTrainer(recipe, tmp_path)
    _, expected, _, _ = load_run(finished_run)
    state = trainer._population.create(2, seed=3, start=trainer._start)
    groups: Any = state.params
    for found in groups:
        for member in range(len(found["head"]["bias"])):
            chex.assert_trees_all_equal(jax.tree.map(lambda x, m=member: x[m], found), expected)
    with pytest.raises(InputError, match="moon"):
        run(smoke(tmp_path / "sweep", initial=tmp_path / "moon"))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_from_full_precision_is_shorter_and_as_wide(tmp_path: Path) -> None:
    config = {"unet": UNetConfig(width=24).to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = chosen_sweep(SweepOptions(scale="small", initial=tmp_path)).recipe
    assert (recipe.model.width, recipe.model.density, recipe.epochs) == (24, 0.3, 2)
    assert recipe.optimizer == PRESETS["best"].optimizer

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="has no entry 'unet'"):
        chosen_sweep(SweepOptions(scale="small", initial=tmp_path))
