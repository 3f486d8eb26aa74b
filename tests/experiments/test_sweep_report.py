"""What the sweep writes and draws, from stand-in chunks whose scores are known."""

import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from experiments.sweep.options import SweepOptions, chosen_sweep
from experiments.sweep.plan import chunks
from experiments.sweep.report import write_report
from mbu_jax.errors import InputError
from tests.experiments import stored_sweep
from tests.experiments.stored_sweep import dice, store


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures instead of their files."""
    made: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: made.append(figure))
    return made


def report(folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    chosen = SweepOptions(scale="smoke", out=folder, **options)
    sweep = chosen_sweep(chosen)
    planned = chunks(sweep.series, 4096)
    for chunk in planned:
        store(folder / "runs", sweep, chunk)
    return write_report(sweep, chosen, planned, folder / "runs"), (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"content": "b"}, "different images"), ({"start": "b"}, "different weights to start from")],
)
def test_chunks_of_another_origin_are_not_pooled(
    tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    chosen = SweepOptions(scale="smoke", out=tmp_path, permutations=2)
    sweep = chosen_sweep(chosen)
    planned = chunks(sweep.series, 4)
    assert len(planned) > 1
    for chunk in planned:
        origin = {"content": "a", "start": "a"} | (changed if chunk is planned[-1] else {})
        store(tmp_path / "runs", sweep, chunk, **origin)
    with pytest.raises(InputError, match=said):
        write_report(sweep, chosen, planned, tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def cells(text: str, heading: str) -> list[list[str]]:
    """The table below a heading, without its head."""
    lines = text.partition(f"## {heading}")[2].partition("\n## ")[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows[1:]]


def bars(axes: Axes) -> list[tuple[float, float]]:
    """Place and length of every bar."""
    found = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        for segment in container.lines[2][0].get_segments():
            found.append((float(segment[0, 0]), float(segment[1, 1] - segment[0, 1])))
    return found


def hollow(axes: Axes) -> list[float]:
    """Places of the hollow points."""
    lines = (line for line in axes.lines if same_color(line.get_markerfacecolor(), "white"))
    points = [np.asarray(line.get_xydata(), float) for line in lines]
    return [float(x) for x, y in np.concatenate(points) if not np.isnan(y)]


def test_values_of_few_orders_have_no_bar(tmp_path: Path, drawn: list[Figure]) -> None:
    results, text = report(tmp_path, permutations=8)
    layers = results["shapley"]["layers"]
    rows = cells(text, "What masking a layer is worth")
    for row, layer in zip(rows, layers.values(), strict=True):
        assert row[3].endswith("(8)")
        assert row[4].endswith(f"({layer['few_samples']})")
        assert ("±" in row[4]) == (layer["few_samples"] >= 3)
    assert "In brackets: how many orders" in text
    axes = drawn[0].axes[1]
    few = [layer["few_samples"] for layer in layers.values()]
    expected = [place + 1.15 for place, count in enumerate(few) if 0 < count < 3]
    assert expected
    assert hollow(axes) == pytest.approx(expected)
    assert len(bars(axes)) == 12 + sum(count >= 3 for count in few)
    assert all(length > 0 for _, length in bars(axes))
    assert any("hollow" in str(label) for label in axes.get_legend_handles_labels()[1])


def test_one_order_is_drawn_without_a_bar(tmp_path: Path, drawn: list[Figure]) -> None:
    _, text = report(tmp_path, permutations=1)
    axes = drawn[0].axes[1]
    assert bars(axes) == []
    assert len(hollow(axes)) == 12 + 4
    rows = cells(text, "What masking a layer is worth")
    assert all("±" not in cell for row in rows for cell in row)
    assert sum(row[4] == "- (0)" for row in rows) == 8


@pytest.mark.parametrize(("seeds", "spread"), [(1, "within one seed"), (2, "over seeds")])
def test_intervals_say_what_they_hold(
    tmp_path: Path, drawn: list[Figure], seeds: int, spread: str
) -> None:
    _, text = report(tmp_path, members=4096, seeds=seeds)
    axes = drawn[0].axes[1]
    assert axes.get_ylabel() == f"Dice (bars: 95 % confidence {spread})"
    assert spread in text
    assert len(bars(axes)) == 24
    assert not any("hollow" in str(label) for label in axes.get_legend_handles_labels()[1])


def test_networks_are_means_over_trainings(tmp_path: Path, drawn: list[Figure]) -> None:
    _, text = report(tmp_path, members=20, seeds=3)
    ordered = cells(text, "Layers masked in order of cost")
    assert len(ordered) == 13
    assert {row[5] for row in ordered} == {"3"}
    scores = [dice((False,) * 12, seed) for seed in range(3)]
    expected = f"{np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"
    assert ordered[0][1] == expected
    assert cells(text, "Networks that none beats in Dice at as few operations")[0][1] == expected
    for axes in drawn[0].axes[2:4]:
        assert np.shape(axes.collections[0].get_offsets()) == (20, 2)
        lengths = [length for _, length in bars(axes)[:13]]
        assert lengths[0] == pytest.approx(max(scores) - min(scores))


@pytest.mark.parametrize("score", [0.177587, 0.952402])
def test_equal_scores_have_bars_of_no_length(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    """Their mean over three, rounded, is no longer among them; Matplotlib refuses bars below 0."""
    assert statistics.fmean([score] * 3) != score
    monkeypatch.setattr(stored_sweep, "dice", lambda mask, seed: score)
    report(tmp_path, members=13, seeds=3)
    for axes in drawn[0].axes[2:4]:
        assert max(length for _, length in bars(axes)) == pytest.approx(0, abs=1e-12)


def test_seeds_do_not_decide_between_orders(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = [0, 0.1, 0.2]  # of a seed, far more than a layer is worth

    def shifted(mask: tuple[bool, ...], seed: int) -> float:
        return 0.4 + shifts[seed] + 0.001 * sum(mask)

    monkeypatch.setattr(stored_sweep, "dice", shifted)
    _, text = report(tmp_path, permutations=2)
    ordered = cells(text, "Layers masked in order of cost")
    assert [row[1] for row in ordered] == [f"{0.4 + 0.001 * count:.3f}" for count in range(13)]
    assert {row[5] for row in ordered} == {"1"}
    for cost in ("operations", "MACs"):
        best = cells(text, f"Networks that none beats in Dice at as few {cost}")
        assert (best[-1][0], best[-1][1]) == ("12", "+0.006 (+0.006 to +0.006)")
        for row in best:  # a layer more is worth the same whatever the seed
            assert row[1].split()[0] == f"{0.001 * (int(row[0]) - 6):+.3f}"
    assert "a seed of its own, which shifts all of its scores" in text
    for axes in drawn[0].axes[2:4]:
        assert "less the mean of its series' ends" in axes.get_ylabel()
        points = np.array(axes.collections[0].get_offsets())
        assert np.abs(points[:, 1]).max() == pytest.approx(0.006)
        line = np.array(axes.lines[0].get_xydata())
        assert line[:, 1] == pytest.approx([0.001 * (count - 6) for count in range(13)])
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert float(rows[-1]["dice"]) == pytest.approx(0.612)  # raw


@pytest.mark.parametrize("seeds", [1, 2])
def test_scores_of_a_subset_are_compared_as_they_are(
    tmp_path: Path, drawn: list[Figure], seeds: int
) -> None:
    _, text = report(tmp_path, members=20, seeds=seeds)
    assert "ends" not in text
    for axes in drawn[0].axes[2:4]:
        assert axes.get_ylabel().startswith("Dice\n")
