"""Processes that share the folder of a sweep; a stand-in trains."""

import errno
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import png
from experiments.lock import locked
from experiments.sweep import __main__ as sweep_command
from experiments.sweep import report as sweep_report
from experiments.sweep.claim import claim
from experiments.sweep.options import SweepOptions, chosen_sweep
from experiments.sweep.plan import Chunk
from mbu_jax.errors import InputError
from tests.experiments.stored_sweep import store


def smoke(folder: Path, **options: Any) -> SweepOptions:
    given: dict[str, Any] = {"scale": "smoke", "permutations": 1, "out": folder}
    return SweepOptions(**given | options)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the chunks that a stand-in was asked to train."""
    done: list[str] = []

    class Trainer:
        def __init__(self, recipe: Any, runs: Path, at_once: int | None) -> None:
            del recipe, at_once
            self._runs = runs
            self.origin = {"content": None, "start": None}

        def largest_chunk(self) -> int:
            return 13

        def train(self, chunk: Chunk, title: str) -> None:
            del title
            done.append(chunk.name)
            store(self._runs, chosen_sweep(smoke(self._runs)), chunk)

    monkeypatch.setattr(sweep_command, "SweepTrainer", Trainer)
    return done


def test_a_chunk_that_another_process_is_at_is_passed_over(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with locked(runs / "chunk-0000"):
        sweep_command.run(smoke(tmp_path))
    assert trained == ["chunk-0001"]
    assert capsys.readouterr().out.splitlines() == [
        "passed over, since another process was at it: chunk-0000",
        "1 of 2 chunks are finished; the last process writes the report",
    ]
    assert not (tmp_path / "table.md").exists()
    sweep_command.run(smoke(tmp_path))
    assert trained == ["chunk-0001", "chunk-0000"]
    assert "passed over" not in capsys.readouterr().out
    assert (tmp_path / "table.md").exists()


def test_a_chunk_that_another_process_has_just_finished_is_not_trained_again(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_command.run(smoke(tmp_path))
    trained.clear()
    looks = itertools.chain([False], itertools.repeat(True))  # no file at the first look
    monkeypatch.setattr(sweep_command, "finished", lambda runs, chunk: next(looks))
    sweep_command.run(smoke(tmp_path))
    assert trained == []


def test_who_begins_a_sweep_chooses_its_chunks(tmp_path: Path) -> None:
    options = smoke(tmp_path)
    sweep = chosen_sweep(options)

    def most() -> int:
        # Another machine, of less memory, begins the same sweep meanwhile.
        assert claim(tmp_path, sweep, options, lambda: 7) == 7
        return 13

    assert claim(tmp_path, sweep, options, most) == 7


def test_chunks_of_another_sweep_are_not_called_finished(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_command.run(smoke(tmp_path))
    assert len(trained) == 2
    with pytest.raises(InputError, match="another sweep, with other series"):
        sweep_command.run(smoke(tmp_path, seed=1, dry_run=True))
    capsys.readouterr()
    sweep_command.run(smoke(tmp_path, dry_run=True))
    assert "2 of 2 chunks are finished" in capsys.readouterr().out
    sweep_command.run(smoke(tmp_path / "new", seed=1, dry_run=True))
    assert "0 of 2 chunks are finished" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_sweep_goes_on_with_more_orders(tmp_path: Path, trained: list[str]) -> None:
    sweep_command.run(smoke(tmp_path))
    trained.clear()
    sweep_command.run(smoke(tmp_path, permutations=3, dry_run=True))
    assert trained == []
    sweep_command.run(smoke(tmp_path, permutations=3))
    assert trained == ["chunk-0002", "chunk-0003"]
    held = (tmp_path / "results.csv").read_text("utf-8")
    assert len(held.splitlines()) == 1 + 4 * 13
    with pytest.raises(InputError, match="another sweep, with other series"):
        sweep_command.run(smoke(tmp_path))  # would leave out what the report holds
    assert (tmp_path / "results.csv").read_text("utf-8") == held
    sweep_command.run(smoke(tmp_path, permutations=3))
    assert trained == ["chunk-0002", "chunk-0003"]


def test_a_sweep_of_an_earlier_version_goes_on(tmp_path: Path, trained: list[str]) -> None:
    """One whose files lack an option that came later, which has its default."""
    sweep_command.run(smoke(tmp_path))
    claimed, results = tmp_path / "runs" / "sweep.json", tmp_path / "results.json"
    saved = json.loads(claimed.read_text())
    del saved["recalibrate_varied"]
    claimed.write_text(json.dumps(saved))
    saved = json.loads(results.read_text())
    del saved["recipe"]["recalibrate_varied"]
    results.write_text(json.dumps(saved))
    trained.clear()
    sweep_command.run(smoke(tmp_path, permutations=3))
    assert trained == ["chunk-0002", "chunk-0003"]


def test_a_sweep_whose_images_have_changed_trains_nothing(
    tmp_path: Path, trained: list[str]
) -> None:
    sweep_command.run(smoke(tmp_path))
    trained.clear()
    chunk = tmp_path / "runs" / "chunk-0001.jsonl"
    head, *members = chunk.read_text().splitlines(keepends=True)
    chunk.write_text("".join([json.dumps(json.loads(head) | {"content": "b"}) + "\n", *members]))
    with pytest.raises(InputError, match="trained with different images; choose another --out"):
        sweep_command.run(smoke(tmp_path, permutations=3))
    assert trained == []


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"seed": 5}, "series"),
        ({"dataset": "isic", "permutations": 2}, "dataset"),
        ({"permutations": 1}, "series"),
    ],
)
def test_the_report_of_another_sweep_is_kept(
    tmp_path: Path, trained: list[str], options: dict[str, Any], other: str
) -> None:
    """Also where its chunks are gone, as in a clone."""
    sweep_command.run(smoke(tmp_path, permutations=2))
    shutil.rmtree(tmp_path / "runs")
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    trained.clear()
    with pytest.raises(InputError, match=rf"results.json is of .* other {other}; choose another"):
        sweep_command.run(smoke(tmp_path, **options))
    assert trained == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == held
    sweep_command.run(smoke(tmp_path, permutations=3))  # goes on, from what is to be trained again
    assert len(trained) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "is of something else"), ("[]", "is damaged; choose"), ("{", "is damaged .*; choose")],
)
def test_what_is_no_report_of_a_sweep_is_kept(
    tmp_path: Path, trained: list[str], content: str, said: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=f"results.json {said}"):
        sweep_command.run(smoke(tmp_path))
    assert trained == []
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("name", ["results.csv", "figure.png"])
def test_a_report_that_a_full_disk_cut_short_is_written_again(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(write: Any) -> Any:
        def stopped(path: Path, content: Any) -> None:
            if path.name == name:
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, content)

        return stopped

    with monkeypatch.context() as patch:
        for module in (sweep_report, png):
            patch.setattr(module, "write_bytes_atomic", full(module.write_bytes_atomic))
        with pytest.raises(OSError, match="No space left"):
            sweep_command.run(smoke(tmp_path))
    assert not (tmp_path / name).exists()
    sweep_command.run(smoke(tmp_path))
    assert len(trained) == 2
    assert (tmp_path / name).exists()
    assert json.loads((tmp_path / "results.json").read_text())["networks"] == 26
