"""The runs of studies: names, what is shared, what is left to do. Nothing is trained."""

import dataclasses
import fcntl
import json
import sys
from pathlib import Path
from typing import get_args

import pytest

from experiments import bits, command
from experiments.study import content, execution, program
from experiments.study.options import StudyOptions
from experiments.study.rows import changed
from experiments.study.runs import Run, chosen, described
from experiments.study.scales import SCALES
from mbu_jax.errors import InputError
from mbu_jax.train.config import TrainConfig
from mbu_jax.train.loop import TrainingDiverged
from tests.experiments.study.planning import COMMANDS, NAMES, planned
from tests.experiments.study.stored import Data, store


def run_command(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        command.run(COMMANDS[name].main)
    except SystemExit as stop:
        return stop.code
    return 0


def test_studies_share_runs_of_equal_options() -> None:
    paths = {
        (name, run.row.name): run.directory.path for name in NAMES for run in planned(name, seeds=1)
    }
    for row in ("binary", "all_masked"):
        sharing = {path for (_, other), path in paths.items() if other == row}
        assert len(sharing) == 1
    assert paths["table1", "kept_10"] == paths["density", "kept_10"]
    assert paths["table1", "mbu6"] == paths["pareto", "mbu6"]
    assert paths["table1", "twn"] == paths["density", "twn"]
    assert paths["levels", "all_masked"] == paths["density", "start_30"]
    assert paths["recipe", "sparse_1bit"] == paths["density", "start_10"]


def test_directories_follow_from_what_changes_the_training() -> None:
    (run, *_) = planned("table1")
    name = run.directory.path.name
    assert run.directory.path.parent == Path("results/runs/nuclei-small")
    assert name.startswith("full_precision-seed0-")
    for same in (
        {"data_dir": Path("elsewhere")},
        {"out": Path("elsewhere")},
        {"runs": Path("elsewhere")},
        {"rounds": 7},
    ):
        assert planned("table1", **same)[0].directory.path.name == name
    assert planned("table1", dataset="isic")[0].directory.path.name != name
    pruned = {str(planned("table1", runs=Path(at))[10].directory.path.name) for at in "ab"}
    assert len(pruned) == 1  # though the path that it starts from is another


def test_described_options_are_what_changes_the_training() -> None:
    names = described(TrainConfig())
    assert {"seed", "epochs", "model.width", "data.crop", "data.augment", "loss.teacher"} <= set(
        names
    )
    assert not {"workdir", "data_dir", "data.workers", "samples", "cluster.process_count"} & set(
        names
    )
    deeper = changed(TrainConfig(), {"data.crop": (8, 8), "epochs": 3})
    assert described(deeper) == names | {"data.crop": [8, 8], "epochs": 3}


def test_rows_bring_what_they_start_from() -> None:
    runs = planned("table1", seeds=2)
    names = [run.row.name for run in chosen(runs, ["ttq", "pruned_tuned"])]
    assert names == ["full_precision", "binary", "ttq", "pruned_tuned"] * 2
    assert chosen(runs, []) == runs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--rows", "resnet"],
            "rows names 'resnet'; choose from full_precision, full_precision_further",
        ),
        (["--seeds", "0"], "seeds is 0; give a number of at least 1"),
        (["--first-seed", "-1"], "first_seed is -1; give a number of at least 0"),
        (["--rounds", "0"], "rounds is 0"),
        (["--scale", "huge"], "huge"),
        (["--dataset", "moon"], "moon"),
        (["--out", "file/there", "--scale", "smoke"], "file/there cannot be made"),
        (
            ["--runs", "file", "--out", "report", "--scale", "smoke"],
            "file/synthetic-smoke cannot be made (Not a directory); choose another --runs",
        ),
        (["--out", "other", "--scale", "smoke"], "other/results.json holds no results of a study"),
    ],
)
def test_bad_options_are_one_line_and_train_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("other").mkdir()
    Path("other/results.json").write_text('{"rows": 3}')
    assert run_command(monkeypatch, "table1", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not Path("results").exists()


def test_a_dry_run_lists_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, "table1", "--dry-run", "--rows", "pruned", "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[:-1]] == [
        [name, "seed", seed] for seed in "01" for name in ("full_precision", "binary", "pruned")
    ]
    assert all("to do" in line for line in lines[:-1])
    assert lines[-1] == "0 of 6 runs are finished"
    assert list(tmp_path.iterdir()) == []

    floating, binary, *_ = chosen(planned("table1"), ["binary"])
    store(floating)
    store(binary)
    tuned = chosen(planned("table1"), ["pruned_tuned"])[2]
    tuned.directory.path.mkdir()
    tuned.directory.config.write_text("{}")
    line = {"step": 57, "epoch": 1, "kind": "train", "images_per_second": 3.0}
    tuned.directory.metrics.write_text(json.dumps(line) + "\n")
    arguments = ("--dry-run", "--rows", "pruned_tuned", "--seeds", "2")
    assert run_command(monkeypatch, "table1", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "finished" in lines[0]
    assert "finished" in lines[1]
    assert "1 of 8 epochs done" in lines[2]
    assert lines[-1] == "2 of 6 runs are finished"


class Trainings:
    """Stands in for training: remembers what was carried out, and may be interrupted."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.stop_at: int | None = None
        self.diverging: str | None = None

    def carry_out(self, run: Run) -> None:
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt
        self.done.append(f"{run.row.name}-{run.config.seed}")
        if run.row.name == self.diverging:
            raise TrainingDiverged("the loss of update 3 is not finite")
        store(run)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    stand_in = Trainings()
    monkeypatch.setattr(content, "open_images", lambda *_: (Data(), None))
    monkeypatch.setattr(execution, "_carry_out", stand_in.carry_out)
    return stand_in


def test_a_row_brings_the_run_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: "Trainings"
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.study.latency.measured", lambda *_: None)
    assert run_command(monkeypatch, "levels", "--rows", "binary", "--seeds", "1") == 0
    assert trainings.done == ["full_precision-0", "binary-0"]
    results = json.loads(Path("results/levels/small/results.json").read_text())
    assert "starts from the full-precision one of its seed" in results["remarks"][0]


def test_an_interrupted_study_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trainings: Trainings,
) -> None:
    monkeypatch.chdir(tmp_path)
    trainings.stop_at = 3
    arguments = ("--scale", "smoke", "--rows", "pruned", "--seeds", "2")
    assert run_command(monkeypatch, "table1", *arguments) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    trainings.stop_at = None
    assert run_command(monkeypatch, "table1", *arguments) == 0
    assert trainings.done == ["binary-0", "pruned-0", "binary-1", "pruned-1"]
    assert run_command(monkeypatch, "levels", "--scale", "smoke", "--rows", "binary") == 0
    assert len(trainings.done) == 4  # shared

    results = json.loads(Path("results/table1/smoke/results.json").read_text())
    assert results["commands"] == [
        "python -m experiments.table1 --scale smoke --seeds 2 --rows binary pruned"
    ]
    rows = results["rows"]
    assert [run["scores"]["dice"] for run in rows["binary"]["runs"]]
    assert {run["not_run"] for run in rows["int8"]["runs"]} == {"to do"}
    table = Path("results/table1/smoke/table.md").read_text()
    assert "| INT8 weights | not run | - | - | 0 |" in table

    # The report keeps what is finished, whichever rows are asked for.
    assert run_command(monkeypatch, "table1", *arguments[:2], "--rows", "int8", "--seeds", "2") == 0
    rows = json.loads(Path("results/table1/smoke/results.json").read_text())["rows"]
    assert {name for name, row in rows.items() if "scores" in row["runs"][0]} == {
        "binary",
        "pruned",
        "int8",
    }


def test_a_run_that_diverges_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: Trainings
) -> None:
    monkeypatch.chdir(tmp_path)
    trainings.diverging = "binary"
    arguments = ("--scale", "smoke", "--rows", "pruned", "twn")
    assert run_command(monkeypatch, "table1", *arguments) == 0
    assert trainings.done == ["binary-0", "twn-0"]
    rows = json.loads(Path("results/table1/smoke/results.json").read_text())["rows"]
    assert rows["binary"]["runs"][0]["failed"] == "the loss of update 3 is not finite"
    assert "which it needs, is not finished" in rows["pruned"]["runs"][0]["failed"]
    assert (
        "Binary, seed 0: the loss of update 3" in Path("results/table1/smoke/table.md").read_text()
    )


def test_a_run_that_another_process_is_at_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: Trainings
) -> None:
    monkeypatch.chdir(tmp_path)
    run = planned("levels", scale="smoke")[2]
    lock = run.directory.path.with_name(run.directory.path.name + ".lock")
    lock.parent.mkdir(parents=True)
    arguments = ("--scale", "smoke", "--rows", "binary", "all_masked")
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run_command(monkeypatch, "levels", *arguments) == 0
    assert trainings.done == ["binary-0"]
    rows = json.loads(Path("results/levels/smoke/results.json").read_text())["rows"]
    assert rows["all_masked"]["runs"][0]["failed"] == "another process is at it"
    assert run_command(monkeypatch, "levels", *arguments) == 0
    assert trainings.done == ["binary-0", "all_masked-0"]


def test_every_option_has_a_default_and_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.parse(StudyOptions, {"default": StudyOptions()}, ["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(StudyOptions):
        assert "--" + field.name.replace("_", "-") in text
    assert set(get_args(StudyOptions.__annotations__["scale"])) == set(SCALES)


def test_figures_and_tables_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: Trainings
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("--scale", "smoke", "--rows", "binary", "--out", "there")
    assert run_command(monkeypatch, "bits", *arguments) == 0
    table, figure = Path("there/table.md"), Path("there/figure.png")
    before = table.read_text()
    table.unlink()
    figure.unlink()
    program.redraw(bits.STUDY, Path("there"))
    assert table.read_text() == before
    assert figure.exists()
    with pytest.raises(InputError, match=r"holds no results\.json"):
        program.redraw(bits.STUDY, tmp_path)
