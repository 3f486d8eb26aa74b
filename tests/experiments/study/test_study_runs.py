"""The runs of studies: options, names, what is shared, what is left to do. Nothing is trained."""

import dataclasses
import fcntl
import importlib
import json
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from experiments import bits, command, density, levels, pareto, recipe, table1
from experiments.study import execution, program
from experiments.study.options import StudyOptions
from experiments.study.rows import Study, changed
from experiments.study.runs import Run, chosen, described, plan
from experiments.study.scales import SCALES, chosen_scale
from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.masking import mask_cheapest, nonzero_cost
from mbu_jax.train.config import PRESETS, TrainConfig
from mbu_jax.train.loop import TrainingDiverged
from tests.experiments.study.stored import store

COMMANDS = {
    "table1": table1,
    "recipe": recipe,
    "bits": bits,
    "levels": levels,
    "density": density,
    "pareto": pareto,
}
NAMES = list(COMMANDS)


def study_of(name: str) -> Study:
    return importlib.import_module(f"experiments.{name}").STUDY


def planned(name: str, **options: Any) -> list[Run]:
    chosen_options = StudyOptions(**options)
    scale = chosen_scale(chosen_options)
    return plan(study_of(name).rows(scale), scale, chosen_options)


def masked_layers(run: Run) -> set[str]:
    precisions = run.config.model.build().precisions
    return {n for n, p in zip(LAYER_NAMES, precisions, strict=True) if p == "masked"}


def run_command(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        command.run(COMMANDS[name].main)
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_one_change_of_the_recipe(name: str, scale: Any) -> None:
    assert study_of(name).name == name  # which the report's command states
    runs = planned(name, scale=scale)
    base = SCALES[scale].config
    seeds = {run.config.seed for run in runs}
    assert seeds == set(range(SCALES[scale].seeds))
    assert len(runs) == len(seeds) * len({run.row.name for run in runs})
    # One directory for each set of options; smoke's best ones are no better than others.
    shared = 0 if (name, scale) != ("recipe", "smoke") else 4
    assert len({run.directory.path for run in runs}) == len(runs) - shared
    allowed = {"seed", "model.network", "model.activation_bits", "model.masked_layers",
               "model.masking_cost", "model.layer_precision", "model.ternarizer",
               "model.density", "optimizer.optimizer", "optimizer.latent_l1",
               "initial", "epochs"}  # fmt: skip
    steps = {"model.activation_gradient", "data.augment", "ema_decay", "recalibrate", "eval_every"}
    brought = {"optimizer.learning_rate", "optimizer.latent_rate", "optimizer.schedule",
               "optimizer.weight_decay", "optimizer.warmup_steps", "loss.teacher",
               "batch_size", "recalibrate"}  # fmt: skip
    there = described(base)
    for run in runs:
        here = described(run.config)
        options = {option for option in here if here[option] != there[option]}
        options -= brought if run.needs or run.row.name.startswith("random") else set()
        if run.row.name == "full_precision":
            options -= set(SCALES[scale].float_options)
        assert options <= (allowed | steps if name == "recipe" else allowed)
        assert run.config.keep_checkpoints == 1
        assert run.row.label


def test_scales_are_the_presets() -> None:
    small, paper = SCALES["small"].config, SCALES["paper"].config
    once = dataclasses.replace(PRESETS["small"], eval_every=28)  # scored at the end alone
    assert described(small) == described(once)
    assert described(paper) == described(PRESETS["paper"])
    assert SCALES["smoke"].config.dataset == "synthetic"
    sizes = {
        name: chosen_scale(StudyOptions(scale="paper", dataset=name)).config.data.image_size
        for name in ("nuclei", "carvana", "isic")
    }
    assert sizes == {"nuclei": (512, 512), "carvana": (640, 959), "isic": (480, 640)}


def test_rows_of_table_1() -> None:
    runs = {run.row.name: run for run in planned("table1", seeds=1, runs=Path("there"))}
    precisions = {name: set(run.config.model.build().precisions) for name, run in runs.items()}
    assert precisions == {
        **{name: {"float32"} for name in ("full_precision", "full_precision_further")},
        **{name: {name} for name in ("int8", "int4", "binary", "ttq")},
        "mbu6": {"masked", "binary"},
        **{n: {"masked"} for n in ("all_masked", "kept_10", "twn", "pruned", "pruned_tuned",
                                   "best_1bit", "best_2bit")},
    }  # fmt: skip
    assert masked_layers(runs["mbu6"]) == set(mask_cheapest(unet_layers(), 6))
    ternarizers = {name: run.config.model.ternarizer for name, run in runs.items()}
    assert (ternarizers["twn"], ternarizers["ttq"]) == ("twn", "max")
    for name, epochs in (("pruned", 0), ("pruned_tuned", 8)):
        run, kept = runs[name], runs["kept_10"]
        assert run.needs == (runs["binary"],)
        assert run.config.initial == runs["binary"].directory.path
        assert run.config.epochs == epochs
        assert run.config.model == kept.config.model
        assert (kept.config.model.ternarizer, kept.config.model.density) == ("density", 0.1)
    paper = {run.row.paper for run in runs.values()} - {None}
    assert paper == {"Full Precision", "INT8", "INT4", "MBU-Net", "Binary"}
    rules = {
        run.row.name: run.config.optimizer.optimizer
        for run in planned("table1", scale="paper", seeds=1)
    }
    assert rules.pop("full_precision") == rules.pop("full_precision_further") == "rmsprop"
    assert set(rules.values()) == {"adam"}


def test_networks_start_from_full_precision_where_the_scale_says_so() -> None:
    runs = planned("levels", seeds=2)
    assert len(runs) == 2 * (6 + 1)
    for seed in range(2):
        first, *others = runs[7 * seed : 7 * seed + 7]
        assert first.row.name == "full_precision"
        assert (first.needs, first.config.initial, first.config.epochs) == ((), None, 28)
        for run in others:
            assert run.needs == (first,)
            assert run.config.initial == first.directory.path
            assert (run.config.epochs, run.config.seed) == (8, seed)
            assert run.config.optimizer == PRESETS["best"].optimizer
            assert run.config.model.density == 0.3
    for scale in ("smoke", "paper"):
        runs = planned("levels", scale=scale, seeds=1)
        assert len(runs) == 7
        assert {(run.needs, run.config.initial) for run in runs} == {((), None)}


@pytest.mark.parametrize("scale", SCALES)
def test_the_best_start_from_full_precision(scale: Any) -> None:
    runs = {run.row.name: run for run in planned("table1", scale=scale, seeds=1)}
    floating, further = runs["full_precision"], runs["full_precision_further"]
    for bits_of_activations in (1, 2):
        best = runs[f"best_{bits_of_activations}bit"]
        assert best.needs == (floating,)
        assert best.config.initial == floating.directory.path
        assert best.config.loss.teacher is None
        assert best.config.model.activation_bits == bits_of_activations
        assert best.config.epochs == further.config.epochs
    assert further.needs == (floating,)
    if scale == "small":
        best = runs["best_2bit"].config
        preset = dataclasses.replace(
            PRESETS["best"], initial=best.initial, loss=best.loss, eval_every=28
        )
        assert described(best) == described(preset)
        assert described(planned("table1", seeds=1)[0].config) == described(
            changed(
                PRESETS["small"],
                {
                    "model.network": "full_precision",
                    "optimizer.learning_rate": 2e-3,
                    "eval_every": 28,
                },
            )
        )


def test_steps_of_the_recipe_change_one_thing() -> None:
    runs = {run.row.name: run for run in planned("recipe", seeds=1)}
    for bits_of_activations in ("1bit", "2bit"):
        start = described(runs[f"start_{bits_of_activations}"].config)
        for name in (*recipe._STEPS, "taught"):
            step = described(runs[f"{name}_{bits_of_activations}"].config)
            different = {option for option in step if step[option] != start[option]}
            assert len(different) == (name != "start"), name
        random = runs[f"random_{bits_of_activations}"]
        assert random.needs == ()
        # As long as both trainings of the others, and scored once as they are.
        assert described(random.config) == start | {
            "initial": None,
            "epochs": 28 + 8,
            "eval_every": 28 + 8,
        }
    paper = {run.row.name: run for run in planned("recipe", scale="paper", seeds=1)}
    assert "plain_1bit" not in paper  # nothing could vary less than not at all


def test_every_study_begins_with_full_precision() -> None:
    (path,) = {planned(name, seeds=1)[0].directory.path for name in NAMES}
    assert path.name.startswith("full_precision-seed0-")


def test_a_row_brings_the_run_that_it_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainings: "Trainings"
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("experiments.study.latency.measured", lambda *_: None)
    assert run_command(monkeypatch, "levels", "--rows", "binary", "--seeds", "1") == 0
    assert trainings.done == ["full_precision-0", "binary-0"]
    results = json.loads(Path("results/levels/small/results.json").read_text())
    assert "starts from the full-precision one of its seed" in results["remarks"][0]


def test_scores_that_were_chosen_say_so() -> None:
    assert len(chosen_scale(StudyOptions(scale="small")).remarks) == 1
    assert "after every epoch, on the images that chose it" in SCALES["paper"].remarks[1]


def test_pruned_networks_get_statistics_of_their_own() -> None:
    for scale in SCALES:
        runs = {run.row.name: run for run in planned("table1", scale=scale, seeds=1)}
        assert runs["pruned"].config.recalibrate > 0


def test_full_precision_keeps_its_step_size_when_it_is_trained_further() -> None:
    for scale in ("small", "paper"):
        runs = {run.row.name: run.config for run in planned("table1", scale=scale, seeds=1)}
        first, further = runs["full_precision"].optimizer, runs["full_precision_further"].optimizer
        assert first.learning_rate == further.learning_rate


def test_groups_of_layers_are_all_layers_once() -> None:
    assert sorted(sum(bits.GROUPS.values(), ())) == sorted(LAYER_NAMES)
    assert bits.GROUPS["decoder"] == ("up_c1", "up_c2", "up_c3", "up_c4")
    for run in planned("bits", scale="smoke", seeds=1)[1:]:
        precisions = dict(zip(LAYER_NAMES, run.config.model.build().precisions, strict=True))
        group, _, precision = run.row.name.rpartition("_")
        changed_layers = {name for name, p in precisions.items() if p != "binary"}
        assert changed_layers == set(bits.GROUPS.get(group, ()))
        assert {precisions[name] for name in changed_layers} <= {precision}


def test_levels_are_all_pairs() -> None:
    pairs = [
        (run.config.model.activation_bits, *set(run.config.model.build().precisions))
        for run in planned("levels", scale="smoke", seeds=1)[1:]
    ]
    assert pairs == [(b, weights) for b in (1, 2) for weights in ("binary", "masked", "pow2")]


@pytest.mark.parametrize("scale", SCALES)
def test_densities_are_set_in_three_ways(scale: Any) -> None:
    runs = planned("density", scale=scale, seeds=1)
    by_series: dict[str, list[Run]] = {}
    for run in runs:
        by_series.setdefault(run.row.series, []).append(run)
    targets = [run.config.model for run in by_series["target"]]
    assert {model.ternarizer for model in targets} == {"density"}
    assert [model.density for model in targets] == [0.02, 0.05, 0.1, 0.2, 0.5]
    starts = [run.config.model for run in by_series["threshold"]]
    assert {model.ternarizer for model in starts} == {"fixed"}
    assert [model.density for model in starts] == [0.02, 0.05, 0.1, 0.2, 0.3, 0.5]
    assert [run.row.x for run in by_series["threshold"]] == [2, 5, 10, 20, 30, 50]
    pulls = [run.config.optimizer.latent_l1 for run in by_series["l1"]]
    assert pulls == sorted(set(pulls))
    assert min(pulls) > 0
    assert {len(by_series[name]) for name in ("binary", "twn")} == {1}


@pytest.mark.parametrize("width", [32, 64])
def test_layers_are_masked_along_both_lists(width: int) -> None:
    runs = planned("pareto", scale={32: "small", 64: "paper"}[width], seeds=1)
    layers = unet_layers(width)
    for run in runs:
        if run.row.name == "full_precision":
            continue
        count = int(run.row.x or 0)
        cost = {"cost": nonzero_cost} if run.row.series == "nonzeros" else {}
        assert masked_layers(run) == set(mask_cheapest(layers, count, **cost))
    counts = range(1, 12) if width == 64 else range(2, 12, 2)
    for series in ("paper", "nonzeros"):
        assert [run.row.x for run in runs if run.row.series == series] == list(counts)


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
    monkeypatch.setattr(execution, "_carry_out", stand_in.carry_out)
    return stand_in


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
    assert results["command"] == "python -m experiments.table1 --scale smoke --seeds 2"
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
