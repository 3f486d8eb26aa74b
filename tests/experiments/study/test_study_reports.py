"""Tables and figures from stored results, whose numbers are known."""

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from experiments.study import figures, paper
from experiments.study.options import StudyOptions
from experiments.study.report import collect, finished_runs, milliseconds, named_seeds, spread
from experiments.study.rows import changed
from experiments.study.runs import plan
from experiments.study.scales import chosen_scale
from experiments.study.tables import table
from mbu_jax.errors import InputError
from tests.experiments.study.stored import MACHINE, dice, latency, store

NAMES = ["table1", "recipe", "bits", "levels", "density", "pareto"]


def results_of(name: str, runs: Path, timed: bool = True, **changes: Any) -> dict[str, Any]:
    options = StudyOptions(runs=runs, **changes)
    scale = chosen_scale(options)
    study = importlib.import_module(f"experiments.{name}").STUDY
    planned = plan(study.rows(scale), scale, options)
    for run in planned:
        store(run)
    times = latency(planned) if timed else None
    # As it is read back.
    return json.loads(json.dumps(collect(study, scale, options, planned, {}, times)))


def lines(text: str) -> list[list[str]]:
    """Cells of a Markdown table."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_table_has_means_spreads_and_the_papers_numbers(tmp_path: Path) -> None:
    results = results_of("table1", tmp_path)
    text = table(results)
    head, *rows = lines(text)
    assert head == [
        *("network", "Dice", "IoU", "F1", "seeds", "difference", "non-zero weights"),
        *("ms", "ratio", "minutes"),
        *("paper's Dice", "paper's IoU", "paper's F1"),
    ]
    by_label = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert len(by_label) == len(results["rows"]) == 14
    scores = [run["scores"]["dice"] for run in results["rows"]["binary"]["runs"]]
    assert len(scores) == 3
    binary = by_label["Binary"]
    expected = f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    assert (binary["Dice"], binary["seeds"]) == (expected, "3")
    assert [binary[f"paper's {score}"] for score in ("Dice", "IoU", "F1")] == [
        *("0.434", "0.302", "0.464")
    ]
    assert binary["ms"] == "30.0"
    assert binary["non-zero weights"] == "99.0 %"
    assert by_label["TTQ"]["ms"] == "-"
    assert by_label["TTQ"]["paper's Dice"] == "-"
    assert by_label["Full precision"]["non-zero weights"] == "-"
    assert (binary["ratio"], by_label["TTQ"]["ratio"]) == ("1.00", "-")
    assert float(by_label["All masked"]["ratio"]) == pytest.approx(22 / 30, abs=0.005)
    (only,) = results["commands"]
    assert only in text
    for said in (
        MACHINE["cpu"],
        "jax 1.2",
        "512x512",
        "with SSE9",
        "144 validation images",
        "not say how many",
    ):
        assert said in text


def drawn_figure(
    monkeypatch: pytest.MonkeyPatch, name: str, results: dict[str, Any], folder: Path
) -> Figure:
    """What a study draws, which also lies in the folder as figure.png."""
    made = []
    save = figures.save
    with monkeypatch.context() as patch:
        patch.setattr(figures, "save", lambda *all: (made.append(all[0]), save(*all)))
        importlib.import_module(f"experiments.{name}").STUDY.draw(results, folder / "figure.png")
    (figure,) = made
    return figure


def test_the_table_tells_the_load_that_times_were_taken_under(tmp_path: Path) -> None:
    results = results_of("levels", tmp_path, seeds=1)
    assert "Load average" not in table(results)  # as earlier reports are
    results["latency"] |= {"load_before": 0.14, "busy_threads": 1.875}
    assert "Load average 0.1 before, 1.88 threads busy while timing." in table(results)


def test_reports_tell_which_seeds_were_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of("levels", tmp_path / "runs", seeds=2)
    assert "Packed networks of seed 0 timed on" in table(results)
    assert (
        "packed, seed 0\n"
        in drawn_figure(monkeypatch, "levels", results, tmp_path).axes[0].get_xlabel()
    )
    # Those of the first seed lie elsewhere.
    rows = results["latency"]["rows"]
    rows["binary"]["run"] = results["rows"]["binary"]["runs"][1]["run"]
    assert "Packed networks of seeds 0, 1 timed on" in table(results)
    for name, row in rows.items():
        row["run"] = results["rows"][name]["runs"][1]["run"]
    assert "Packed networks of seed 1 timed on" in table(results)
    assert (
        "packed, seed 1\n"
        in drawn_figure(monkeypatch, "levels", results, tmp_path).axes[0].get_xlabel()
    )


def test_figures_show_times_as_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of("levels", tmp_path / "runs", seeds=1)
    times, _ = drawn_figure(monkeypatch, "levels", results, tmp_path).axes
    assert times.get_xlabel().endswith("(Binary, 1-bit activations: 1)")
    assert first_points(times)[0, 0] == 1
    results = results_of("pareto", tmp_path / "runs", seeds=1)
    speeds, *_ = drawn_figure(monkeypatch, "pareto", results, tmp_path).axes
    assert speeds.get_xlabel().startswith("speed on an image of 512x512")
    binary, *_, masked = first_points(speeds)
    rows = results["latency"]["rows"]
    assert binary[0] == 1
    assert masked[0] == pytest.approx(rows["binary"]["median"] / rows["all_masked"]["median"])


def first_points(axes: Axes) -> np.ndarray:
    """The points (x, y) that were drawn first, from left to right."""
    bars = axes.containers[0]
    assert isinstance(bars, ErrorbarContainer)
    return np.asarray(bars.lines[0].get_xydata(), float)


def give_scores(row: dict[str, Any], *dice: float) -> None:
    """Replace what seeds from 0 have reached, and drop the other seeds."""
    del row["runs"][len(dice) :]
    for run, score in zip(row["runs"], dice, strict=True):
        run["scores"]["dice"] = score


def test_rows_are_compared_over_the_seeds_that_they_share(tmp_path: Path) -> None:
    results = results_of("levels", tmp_path)
    rows = results["rows"]
    give_scores(rows["binary"], 0.85, 0.87)
    give_scores(rows["all_masked"], 0.853)  # below the other's mean
    give_scores(rows["pow2"], 0.84, 0.87, 0.9)
    text = table(results)
    head, *cells = lines(text)
    found = {line[0]: line[head.index("difference")] for line in cells}
    assert found[rows["binary"]["label"]] == "reference"
    assert found[rows["all_masked"]["label"]] == "+0.003"
    assert found[rows["pow2"]["label"]] == "-0.005 ± 0.007 (2 seeds)"
    assert "minus its reference's (Binary, 1-bit activations), seed by seed" in text

    give_scores(rows["binary"])
    text = table(results)
    assert "difference" not in lines(text)[0]
    assert "Difference" not in text


def test_steps_of_the_recipe_are_compared_with_the_row_that_they_change(tmp_path: Path) -> None:
    results = results_of("recipe", tmp_path, seeds=1)
    rows = results["rows"]
    for name, score in (
        *(("start_1bit", 0.85), ("fast_1bit", 0.84)),
        *(("start_2bit", 0.9), ("fast_2bit", 0.92)),
    ):
        give_scores(rows[name], score)
    text = table(results)
    head, *cells = lines(text)
    found = {line[0]: line[head.index("difference")] for line in cells}
    wanted = {"start_1bit": "reference", "fast_1bit": "-0.010", "start_2bit": "reference"}
    for name, cell in (wanted | {"fast_2bit": "+0.020", "full_precision": "-"}).items():
        assert found[rows[name]["label"]] == cell
    assert (
        "(1-bit activations: from full precision; 2-bit activations: from full precision)" in text
    )


def test_one_seed_has_no_spread_and_other_datasets_other_numbers(tmp_path: Path) -> None:
    results = results_of("table1", tmp_path, timed=False, seeds=1, dataset="isic")
    head, *rows = lines(table(results))
    assert "ms" not in head
    int8 = next(row for row in rows if row[0].startswith("INT8"))
    assert "±" not in int8[1]
    assert int8[-3:] == ["0.763", "0.633", "0.776"]
    synthetic = results_of("table1", tmp_path, seeds=1, dataset="synthetic")
    assert not any("paper's" in cell for cell in lines(table(synthetic))[0])


def test_results_keep_everything_raw(tmp_path: Path) -> None:
    results = results_of("density", tmp_path, seeds=2, data_dir=Path("here"))
    (only,) = results["commands"]
    assert only.endswith("--seeds 2 --data-dir DIR")
    assert "here" not in json.dumps(results)
    assert str(tmp_path) not in json.dumps(results)
    assert results["options"]["model.width"] == 32
    run = results["rows"]["l1_0.1"]["runs"][1]
    start = run["options"].pop("initial")
    assert start.startswith("full_precision-seed1-")
    assert run["options"] == {
        "epochs": 8,
        "model.density": 0.3,
        "model.network": "all_masked",
        "optimizer.latent_l1": 0.1,
        "optimizer.latent_rate": 3.0,
        "optimizer.learning_rate": 0.004,
        "seed": 1,
    }
    assert set(run["scores"]) == {"dice", "iou", "f1", "precision", "recall", "pooled_iou"}
    assert (run["densities"], run["minutes"], run["updates"]) == ({"stem.conv2": 0.3}, 1.5, 9)
    assert run["machine"] == MACHINE
    assert len(results["latency"]["rows"]["binary"]["seconds"]) == 3
    assert milliseconds(results, "binary") == pytest.approx(30)
    assert milliseconds(results, "nobody") is None


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    options = StudyOptions(runs=tmp_path, seeds=1)
    scale = chosen_scale(options)
    study = importlib.import_module("experiments.bits").STUDY
    planned = plan(study.rows(scale), scale, options)
    store(planned[0])
    planned[0].facts.write_text("{")
    with pytest.raises(InputError, match=r"facts.json cannot be read .* remove that run"):
        collect(study, scale, options, planned, {}, None)


def test_a_report_keeps_the_scores_of_runs_that_are_gone(tmp_path: Path) -> None:
    options = StudyOptions(runs=tmp_path, seeds=2)
    scale = chosen_scale(options)
    study = importlib.import_module("experiments.levels").STUDY
    planned = plan(study.rows(scale), scale, options)
    gone, there, again, never = planned[:4]
    for run in (gone, there, again):
        store(run)
    first = collect(study, scale, options, planned, {}, None)
    for run in (gone, there, again):
        shutil.rmtree(run.directory.path)
    store(again, updates=10)
    second = collect(study, scale, options, planned, {}, None, json.loads(json.dumps(first)))
    for run, updates in ((gone, 9), (there, 9), (again, 10)):
        name, seed = run.row.name, run.config.seed
        entry, before = (results["rows"][name]["runs"][seed] for results in (second, first))
        assert entry == before | {"updates": updates}
    assert "not_run" in second["rows"][never.row.name]["runs"][0]
    assert "not run" in table(second)
    for kept in ("definitions", "validation_images"):
        assert second[kept] == first[kept]
    # Other options are other runs.
    wider = dataclasses.replace(scale, config=changed(scale.config, {"model.width": 8}))
    others = plan(study.rows(wider), wider, options)
    third = collect(study, wider, options, others, {}, None, first)
    assert not any(finished_runs(row) for row in third["rows"].values())


def test_spread_and_frontier() -> None:
    assert spread([0.25]) == (0.25, None)
    mean, deviation = spread([0.1, 0.2, 0.6])
    assert (mean, deviation) == (pytest.approx(0.3), pytest.approx(np.std([1, 2, 6], ddof=1) / 10))
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.5), (2.5, 0.7), (1.0, 0.4), (4.0, 0.8)]
    kept = list(figures.frontier(points))
    beaten = [any(p != q and p[0] <= q[0] and p[1] >= q[1] for p in points) for q in points]
    assert kept == sorted(q for q, lost in zip(points, beaten, strict=True) if not lost)


def test_the_papers_table() -> None:
    """Its text: the average drops of MBU-Net are 0.029, 0.037 and 0.024."""
    drops = [
        [full - mbu for full, mbu in zip(t["Full Precision"], t["MBU-Net"], strict=True)]
        for t in paper.TABLE_1.values()
    ]
    np.testing.assert_allclose(np.mean(drops, axis=0), [0.029, 0.037, 0.024], atol=6e-4)
    assert paper.scores("nuclei", None) is None
    assert paper.scores("synthetic", "Binary") is None


def test_a_row_that_has_collapsed_flattens_no_other() -> None:
    _, (axes,) = figures.figure(1)
    reached = (0.86, 0.01, 0.64, 0.65, 0.85)
    rows = {str(dice): {"runs": [{"scores": {"dice": dice}}]} for dice in reached}
    style: dict[str, Any] = {"colour": "red", "label": "rows", "best": 0.86}
    points = figures.scatter(axes, rows, lambda name, _: 100 * float(name), "dice", **style)
    assert points == [(86, 0.86), (65, 0.65), (85, 0.85)]
    assert axes.get_ylim()[0] > 0.6
    assert axes.get_xlim()[0] <= 1
    assert [text.get_text() for text in axes.texts] == ["0.01", "0.64"]


@pytest.mark.parametrize(("name", "panels"), [("levels", 2), ("density", 2), ("bits", 4)])
def test_a_collapsed_row_is_known_where_it_is_drawn_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, panels: int
) -> None:
    results = results_of(name, tmp_path / "runs", seeds=1)
    give_scores(results["rows"]["binary"], 0.01)
    made = drawn_figure(monkeypatch, name, results, tmp_path)
    for axes in made.axes[:panels]:
        assert axes.get_ylim()[0] > 0.5
        assert "0.01" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("seeds", "named"),
    [
        ({4}, "seed 4"),
        ({3, 0}, "seeds 0, 3"),
        ({2, 1, 3}, "seeds 1 to 3"),
        ({0, 1, 3}, "seeds 0, 1, 3"),
    ],
)
def test_seeds_are_named_in_a_few_words(seeds: set[int], named: str) -> None:
    assert named_seeds(seeds) == named


def test_a_legend_of_long_labels_stays_inside_its_figure(tmp_path: Path) -> None:
    results = results_of("levels", tmp_path, seeds=1)
    made = Figure(figsize=(6, 5), layout="constrained")
    for number, axes in enumerate(made.subplots(1, 2)):
        axes.plot([0, 1], label=f"a network of a long name, statistics of crops {number}")
    figures.save(made, results, tmp_path / "figure.png")
    (legend,) = made.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= made.bbox.width


def test_lines_connect_points_of_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of("bits", tmp_path / "runs", seeds=3)
    give_scores(results["rows"]["encoder_int4"], 0.75)
    encoder, bottleneck, *_ = drawn_figure(monkeypatch, "bits", results, tmp_path).axes

    def reached(name: str) -> list[float]:
        return [run["scores"]["dice"] for run in results["rows"][name]["runs"]]

    shown = ("binary", "encoder_masked", "encoder_int4", "encoder_int8")
    assert first_points(encoder)[:, 1].tolist() == [reached(name)[0] for name in shown]
    assert first_points(bottleneck)[0, 1] == pytest.approx(np.mean(reached("binary")))
    labels = [axes.get_legend_handles_labels()[1][-1] for axes in (encoder, bottleneck)]
    assert labels == ["encoder, seed 0 only", "bottleneck"]


@pytest.mark.parametrize("name", NAMES)
def test_figures_show_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    results = results_of(name, tmp_path / "runs", seeds=2)
    figure = drawn_figure(monkeypatch, name, results, tmp_path)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
        assert image.width > 600
    drawn = {
        round(float(x if name in ("table1", "recipe") else y), 6)
        for axes in figure.axes
        for line in axes.get_lines()
        for x, y in np.asarray(line.get_xydata(), float)
    }
    for row in results["rows"].values():
        scores = [run["scores"]["dice"] for run in finished_runs(row)]
        assert round(float(np.mean(scores)), 6) in drawn

    # A run that was timed may lose its scores.
    *_, last = (results["rows"][timed] for timed in results["latency"]["rows"])
    last["runs"][0] = {"seed": 0, "run": last["runs"][0]["run"], "options": {}, "failed": "lost"}
    drawn_figure(monkeypatch, name, results, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_the_figure_of_a_study_that_has_begun(tmp_path: Path, name: str) -> None:
    results = results_of(name, tmp_path / "runs", timed=False, seeds=1)
    first, *others = results["rows"].values()
    for row in others:
        row["runs"] = [{"seed": 0, "run": "a", "options": {}, "not_run": "to do"}]
    if name in ("bits", "pareto"):
        first["runs"].clear()
    importlib.import_module(f"experiments.{name}").STUDY.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
    assert "| not run | - |" in table(results)


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_the_stand_in_differ(tmp_path: Path, name: str) -> None:
    """Or the tests above could mistake one row for another."""
    options = StudyOptions(runs=tmp_path, seeds=1)
    scale = chosen_scale(options)
    runs = plan(importlib.import_module(f"experiments.{name}").STUDY.rows(scale), scale, options)
    assert len({dice(run) for run in runs}) == len(runs)


def test_a_row_of_one_seed_has_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of("density", tmp_path / "runs", seeds=2)
    results["rows"]["kept_10"]["runs"].pop()
    made = drawn_figure(monkeypatch, "density", results, tmp_path)
    assert "1 to 2 seeds" in made.get_suptitle()
    _, bars, *_ = made.axes[0].containers
    assert isinstance(bars, ErrorbarContainer)
    # Matplotlib leaves out a segment whose ends are no numbers.
    heights = [np.ptp(s[:, 1]) if len(s) else None for s in bars.lines[2][0].get_segments()]
    assert [height is None for height in heights] == [False, False, True, False, False]
    assert all(height > 0 for height in heights if height is not None)


def test_equal_scores_are_drawn(tmp_path: Path) -> None:
    results = results_of("bits", tmp_path / "runs", seeds=3)
    score = next(s for s in np.arange(0.7, 0.9, 0.001) if np.mean([s] * 3) != s)
    for run in results["rows"]["encoder_int4"]["runs"]:
        run["scores"]["dice"] = float(score)
    importlib.import_module("experiments.bits").STUDY.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()


def test_a_row_whose_runs_could_not_be_finished_says_so(tmp_path: Path) -> None:
    results = results_of("levels", tmp_path, seeds=1)
    results["rows"]["pow2"]["runs"] = [{"seed": 0, "run": "a", "options": {}, "failed": "lost"}]
    text = table(results)
    assert "| Powers of two, 1-bit activations | not finished | - |" in text
    assert "144 validation images of nuclei: one seed." in text
