"""What a study's command leaves where an earlier one has been; nothing is trained or timed."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments import command, levels, recipe
from experiments.lock import locked
from experiments.study import content, execution, program
from experiments.study import latency as timing
from experiments.study.options import StudyOptions
from experiments.study.report import finished_runs
from experiments.study.runs import Run, plan
from experiments.study.scales import chosen_scale
from tests.experiments.study.stored import MACHINE, Data, latency, store


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was trained, by the row's name and seed."""
    done: list[str] = []

    def carry_out(runs: Sequence[Run]) -> dict[str, str]:
        for run in runs:
            if not run.finished:
                done.append(f"{run.row.name}-{run.config.seed}")
                store(run)
        return {}

    monkeypatch.setattr(content, "open_images", lambda *_: (Data(), None))
    monkeypatch.setattr(execution, "carry_out", carry_out)
    monkeypatch.setattr(timing, "measured", lambda runs, *_: latency(list(runs.values())))
    return done


def run_command(
    monkeypatch: pytest.MonkeyPatch, study: Any, *arguments: str
) -> tuple[int | str | None, Path]:
    monkeypatch.setattr(sys, "argv", [study.STUDY.name, *arguments])
    folder = Path("results", study.STUDY.name, "small")
    try:
        command.run(study.main)
    except SystemExit as stop:
        return stop.code, folder
    return 0, folder


def seeds_of(folder: Path, name: str) -> list[int]:
    results = json.loads((folder / program.RESULTS).read_text())
    return [run["seed"] for run in finished_runs(results["rows"][name])]


def test_fewer_seeds_lose_no_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, folder = run_command(monkeypatch, recipe, "--rows", "start_1bit")
    assert code == 0
    assert trained == [f"{row}-{s}" for s in range(3) for row in ("full_precision", "start_1bit")]
    trained.clear()
    for gone in (False, True):
        if gone:
            shutil.rmtree("results/runs")
        run_command(monkeypatch, recipe, "--rows", "sparse_1bit", "--seeds", "1")
        assert seeds_of(folder, "start_1bit") == [0, 1, 2]
        assert seeds_of(folder, "sparse_1bit") == [0]
    assert trained == ["sparse_1bit-0", "full_precision-0", "sparse_1bit-0"]


def test_scores_stay_where_a_run_cannot_be_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command_line = (levels, "--rows", "binary", "--seeds", "2")
    _, folder = run_command(monkeypatch, *command_line)
    before = json.loads((folder / program.RESULTS).read_text())
    shutil.rmtree("results/runs")
    monkeypatch.setattr(
        execution,
        "carry_out",
        lambda runs: {run.directory.path.name: "another process is at it" for run in runs},
    )
    code, _ = run_command(monkeypatch, *command_line)
    assert code == 0
    after = json.loads((folder / program.RESULTS).read_text())
    for name in ("full_precision", "binary"):
        assert after["rows"][name] == before["rows"][name]
    assert "another process" not in (folder / program.TABLE).read_text()


def test_a_report_has_what_another_process_added_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    carry_out = execution.carry_out

    def slowly(runs: Sequence[Run]) -> dict[str, str]:
        monkeypatch.setattr(execution, "carry_out", carry_out)
        assert run_command(monkeypatch, levels, "--rows", "all_masked", "--seeds", "3")[0] == 0
        shutil.rmtree("results/runs")  # or its scores would be found there
        return carry_out(runs)

    monkeypatch.setattr(execution, "carry_out", slowly)
    code, folder = run_command(monkeypatch, levels, "--rows", "binary", "--seeds", "1")
    assert code == 0
    assert seeds_of(folder, "all_masked") == [0, 1, 2]
    assert seeds_of(folder, "binary") == [0]


def test_a_report_is_written_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def measured(runs: dict[str, Run], *_: Any) -> dict[str, Any]:
        with locked(Path("results/levels/small", program.RESULTS)) as free:
            assert not free
        return latency(list(runs.values()))

    monkeypatch.setattr(timing, "measured", measured)
    assert run_command(monkeypatch, levels, "--rows", "binary", "--seeds", "1")[0] == 0


def test_the_report_says_how_every_row_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(monkeypatch, levels, "--seeds", "1")
    run_command(monkeypatch, levels, "--seeds", "3", "--rows", "binary")
    _, folder = run_command(
        monkeypatch, levels, "--seeds", "1", "--first-seed", "5", "--rows", "binary"
    )
    made = set(trained)
    start = "python -m experiments.levels --scale small"
    results = json.loads((folder / program.RESULTS).read_text())
    assert results["commands"] == [
        f"{start} --seeds 1",
        f"{start} --seeds 2 --first-seed 1 --rows full_precision binary",
        f"{start} --seeds 1 --first-seed 5 --rows full_precision binary",
    ]
    # Seeds that nobody asked for are no runs that are missing.
    assert [run["seed"] for run in results["rows"]["all_masked"]["runs"]] == [0, 1, 2, 5]
    trained.clear()
    shutil.rmtree("results")
    for line in results["commands"]:
        run_command(monkeypatch, levels, *line.split()[3:])
    assert set(trained) == made
    assert len(trained) == len(made)  # none by two commands


def test_machines_share_the_seeds_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(monkeypatch, levels, "--seeds", "2", "--rows", "binary")
    shutil.rmtree("results/runs")  # they stay on the first machine
    trained.clear()
    arguments = ("--first-seed", "2", "--seeds", "2", "--rows", "binary")
    code, folder = run_command(monkeypatch, levels, *arguments)
    assert code == 0
    assert seeds_of(folder, "binary") == [0, 1, 2, 3]
    assert trained == [f"{row}-{s}" for s in (2, 3) for row in ("full_precision", "binary")]


def test_files_that_are_no_report_are_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine", program.TABLE).write_text("mine")
    code, _ = run_command(monkeypatch, levels, "--out", "mine")
    assert (code, trained) == (2, [])
    assert "mine holds table.md but no results.json" in capsys.readouterr().err
    assert [(p.name, p.read_text()) for p in Path("mine").iterdir()] == [("table.md", "mine")]


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command says that is refused, which trains nothing and leaves the report as it is."""

    def said(*arguments: str) -> str:
        report = Path("results", "levels", "small", program.RESULTS)
        before = report.read_bytes()
        trained.clear()
        capsys.readouterr()
        code, _ = run_command(monkeypatch, levels, *arguments)
        assert (code, trained) == (2, [])
        assert report.read_bytes() == before
        return capsys.readouterr().err

    return said


def test_results_of_another_dataset_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, folder = run_command(monkeypatch, levels, "--rows", "binary", "--seeds", "1")
    assert refused("--rows", "binary", "--dataset", "synthetic") == (
        f"error: {folder} holds results of levels small nuclei, not of levels small synthetic; "
        "choose another --out\n"
    )


def test_scores_of_other_options_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    """As those are that an earlier version trained, whose recipe was another."""
    monkeypatch.chdir(tmp_path)
    _, folder = run_command(monkeypatch, levels, "--rows", "binary", "--seeds", "1")
    results = json.loads((folder / program.RESULTS).read_text())
    (run,) = results["rows"]["binary"]["runs"]
    run["run"] = "binary-seed0-0123456789"
    (folder / program.RESULTS).write_text(json.dumps(results))
    assert refused("--rows", "all_masked", "--seeds", "1") == (
        f"error: {folder} holds scores of binary-seed0-0123456789, which was trained with other "
        "options than experiments.levels has now; choose another --out, or move it away\n"
    )


@pytest.mark.parametrize("rows", [[], {"binary": {}}, {"binary": {"runs": [{"scores": {}}]}}])
def test_what_is_no_report_of_a_study_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], rows: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("results", "levels", "small")
    folder.mkdir(parents=True)
    held = {"rows": rows, "latency": None, "definitions": {}, "validation_images": 1}
    (folder / program.RESULTS).write_text(json.dumps(held))
    said = refused("--rows", "binary", "--seeds", "1")
    assert "results.json holds no results of a study (" in said


def test_networks_of_other_images_are_not_compared(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither with what an earlier report holds nor with what is trained from now on."""
    monkeypatch.chdir(tmp_path)

    def refusal(*rows: str) -> str:
        capsys.readouterr()
        code, _ = run_command(monkeypatch, levels, "--rows", *rows, "--seeds", "1")
        assert code == 2
        assert trained == []
        error = capsys.readouterr().err
        assert error.endswith(
            " are of other images or another split, and do not compare; choose another --runs and "
            "another --out, or move the old ones away\n"
        )
        return error

    options = StudyOptions(seeds=1)
    scale = chosen_scale(options)
    floating, binary, *_ = plan(levels.STUDY.rows(scale), scale, options)
    store(floating, images="these")
    store(binary, images="those")
    assert str(floating.directory.path) in (error := refusal("binary"))
    assert str(binary.directory.path) in error
    shutil.rmtree(binary.directory.path)
    monkeypatch.setattr(content, "open_images", lambda *_: (Data("those"), None))
    assert "the data at hand and" in refusal("binary")

    monkeypatch.setattr(content, "open_images", lambda *_: (Data("these"), None))
    code, folder = run_command(monkeypatch, levels, "--rows", "full_precision", "--seeds", "1")
    assert code == 0
    results = (folder / program.RESULTS).read_bytes()
    store(floating, images="those")
    assert f"earlier results of {floating.directory.path.name}" in refusal("full_precision")
    assert (folder / program.RESULTS).read_bytes() == results


def test_times_of_runs_that_are_gone_are_kept_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = StudyOptions(runs=tmp_path, seeds=1, rounds=3)
    scale = chosen_scale(options)
    runs = {run.row.name: run for run in plan(levels.STUDY.rows(scale), scale, options)}
    earlier = latency([runs["binary"], runs["all_masked"]])
    monkeypatch.setattr(timing, "machine", lambda: MACHINE)
    monkeypatch.setattr(timing.library, "absent", lambda: None)
    monkeypatch.setattr(timing.library, "instructions", lambda: "SSE9")

    def measured(*names: str) -> dict[str, Any]:
        for run in runs.values():
            shutil.rmtree(run.directory.path, ignore_errors=True)
        for name in names:
            runs[name].directory.path.mkdir(parents=True)
            runs[name].directory.model.touch()
        return timing.measured({name: runs[name] for name in names}, scale, earlier)

    assert measured("binary", "all_masked") == earlier
    assert measured("binary") == earlier
    assert measured() == earlier
    assert capsys.readouterr().out == ""

    monkeypatch.setattr(timing, "load_packed", lambda _: None)
    monkeypatch.setattr(timing, "summary", lambda *_, **__: Layers())
    monkeypatch.setattr(timing, "_call", lambda *_: lambda: None)
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (2.5, 1.0, 0.5))
    assert measured("binary", "pow2") == earlier
    assert "stay as they are: those of all_masked cannot be taken again" in capsys.readouterr().out

    again = measured("binary", "all_masked", "pow2")
    assert set(again["rows"]) == {"binary", "all_masked", "pow2"}
    assert again["load_before"] == 2.5
    assert capsys.readouterr().out == ""

    # Another load is no reason to time anew.
    earlier = again
    monkeypatch.setattr(timing.os, "getloadavg", lambda: (0.5, 1.0, 0.5))
    assert measured("binary", "all_masked", "pow2") == again


def test_times_tell_how_busy_they_kept_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = StudyOptions(runs=tmp_path, seeds=1, rounds=3)
    scale = chosen_scale(options)
    run = next(r for r in plan(levels.STUDY.rows(scale), scale, options) if r.row.name == "binary")
    run.directory.path.mkdir(parents=True)
    run.directory.model.touch()
    monkeypatch.setattr(timing, "load_packed", lambda _: None)
    monkeypatch.setattr(timing, "summary", lambda *_, **__: Layers())
    monkeypatch.setattr(timing, "_call", lambda *_: lambda: time.sleep(0.05))
    assert 0 <= timing.measured({"binary": run}, scale, None)["busy_threads"] < 0.5


class Layers:
    """Stands in for the summary of a network."""

    layers = ()

    def total(self, _: str) -> int:
        return 0
