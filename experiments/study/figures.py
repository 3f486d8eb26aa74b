"""What the figures of the studies have in common."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.png import save_png
from experiments.study.report import (
    compared_row,
    finished_runs,
    named_seeds,
    relative_time,
    timed_seeds,
)
from experiments.study.rows import FULL_PRECISION

TITLES = {"dice": "Dice", "iou": "IoU", "f1": "F1"}
# The palette of Okabe and Ito, told apart under every common colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"


def figure(
    columns: int, height: float = 4.8, width: float = 4.8, *, one_scale: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels side by side.

    Args:
      columns: how many panels.
      height: in inches.
      width: of a panel, in inches.
      one_scale: whether panels share what lies upwards.

    Returns:
      The figure, and its panels from left to right.
    """
    made = Figure(figsize=(width * columns, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, list(made.subplots(1, columns, squeeze=False, sharey=one_scale)[0])


def save(made: Figure, results: Mapping[str, Any], path: Path) -> None:
    """Write a figure under a title that says what it is of, over a legend of all panels.

    Args:
      made: the figure.
      results: of the study.
      path: PNG file.
    """
    counts = {len(finished_runs(row)) for row in results["rows"].values()} - {0} or {0}
    seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    made.suptitle(
        f"{results['title']}\n{results['dataset']}, scale {results['scale']}, "
        f"{seeds} seed{'s' * (max(counts) != 1)}",
        fontsize=11,
    )
    legend: dict[str, Any] = {}
    for axes in made.axes:
        handles, labels = axes.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    for columns in range(2 * len(made.axes) if legend else 0, 0, -1):
        box = made.legend(
            legend.values(), legend, loc="outside lower center", ncols=columns, fontsize=8
        )
        if box.get_window_extent().width <= made.bbox.width or columns == 1:
            break
        box.remove()
    save_png(made, path)


def scores(row: Mapping[str, Any], score: str, seeds: Collection[int] = ()) -> list[float]:
    """List a score of every finished run.

    Args:
      row: of the results.
      score: its name.
      seeds: to leave out all others, or none for every seed.

    Returns:
      One number a seed.
    """
    runs = finished_runs(row)
    return [run["scores"][score] for run in runs if not seeds or run["seed"] in seeds]


def best_score(results: Mapping[str, Any], score: str) -> float:
    """Find what rows have to reach 3/4 of not to count as collapsed.

    Args:
      results: of the study.
      score: its name.

    Returns:
      The best mean of all rows but full precision, which is no point in these figures; 0 where
      nothing is finished.
    """
    rows = results["rows"].items()
    found = [scores(row, score) for name, row in rows if name != FULL_PRECISION]
    return max((float(np.mean(values)) for values in found if values), default=0.0)


def relative_time_of(results: Mapping[str, Any]) -> Callable[[str, Mapping[str, Any]], Any]:
    """Place rows by the time that their packed networks take.

    Args:
      results: of the study.

    Returns:
      Function of a row's name and the row, giving the ratio to the time of the row that all are
      compared with, which depends less on what else the machine did than milliseconds; or None.
    """
    return lambda name, _: relative_time(results, name)


def time_label(results: Mapping[str, Any], quantity: str = "time for") -> str:
    """Say what lies where `relative_time_of` places rows.

    Args:
      results: of the study.
      quantity: what stands before the image, where it is not the time itself.

    Returns:
      For the axis.
    """
    latency = results["latency"]
    if not latency or not latency["rows"]:
        return f"{quantity} an image, packed"
    label = results["rows"][compared_row(results)]["label"]
    size = latency["size"]
    return f"{quantity} an image of {size}x{size}, packed, {timed_seeds(results)}\n({label}: 1)"


def density_of(_: str, row: Mapping[str, Any]) -> float | None:
    """Place a row by its share of non-zero weights.

    Args:
      _: its name.
      row: of the results.

    Returns:
      Per cent, the mean over seeds, or None where nothing is quantized.
    """
    shares = [run["density"] for run in finished_runs(row) if "density" in run]
    return 100 * float(np.mean(shares)) if shares else None


def series(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Group the rows that have scores by their series.

    Args:
      results: of the study.

    Returns:
      By series, in the table's order, rows by name.
    """
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, row in results["rows"].items():
        if finished_runs(row):
            groups.setdefault(row["series"], {})[name] = row
    return groups


def scatter(
    axes: Axes,
    rows: Mapping[str, Mapping[str, Any]],
    place: Callable[[str, Mapping[str, Any]], float | None],
    score: str,
    *,
    colour: str,
    label: str,
    best: float,
    marker: str = "o",
    line: Collection[int] = (),
    names: Callable[[Mapping[str, Any]], str] | None = None,
) -> list[tuple[float, float]]:
    """Draw rows as points: a score's mean over seeds, a bar from the lowest seed to the highest.

    A row of one seed has no bar. A row that has collapsed, to less than 3/4 of the best, is an
    arrow on the lower edge with its score, since drawn to scale it would flatten all others.

    Args:
      axes: the panel.
      rows: by name.
      place: where a row lies from left to right, or None to leave it out.
      score: name of the score.
      colour: of points and line.
      label: for the legend, which names the seeds of a line that leaves some out.
      best: score of the figure's best row, from `best_score`.
      marker: as Matplotlib has them.
      line: seeds that all points of a line have, from `shared_seeds`: the points are connected in
        the rows' order, and of these seeds alone, since a slope between different seeds is partly
        theirs. With none the points are of all seeds and stand alone.
      names: what to write beside a point, or None.

    Returns:
      The points, but those of rows that have collapsed.
    """
    points: list[tuple[float, float]] = []
    low, high = [], []
    if line and any(len(finished_runs(row)) > len(line) for row in rows.values()):
        label += f", {named_seeds(line)} only"
    for name, row in rows.items():
        x, values = place(name, row), scores(row, score, line)
        if x is None or not values:
            continue
        mean = float(np.mean(values))
        if mean < 0.75 * best:
            edge = axes.get_xaxis_transform()
            axes.plot(x, 0.02, "v", color=colour, markersize=5.5, transform=edge)
            style = {"xytext": (5, -2), "textcoords": "offset points", "fontsize": 7}
            axes.annotate(f"{mean:.2f}", (x, 0.02), xycoords=edge, **style)
            continue
        points.append((x, mean))
        alone = len(values) == 1
        # Of equal scores the mean may be off by a rounding, and Matplotlib refuses negative bars.
        low.append(np.nan if alone else max(0.0, mean - min(values)))
        high.append(np.nan if alone else max(0.0, max(values) - mean))
        if names is not None:
            axes.annotate(
                names(row), points[-1], xytext=(5, 4), textcoords="offset points", fontsize=7
            )
    if points:
        x, y = np.array(points).T
        style = {"linestyle": "-" if line else "none", "marker": marker, "markersize": 5.5}
        error = {"elinewidth": 1, "capsize": 2}
        axes.errorbar(x, y, yerr=[low, high], color=colour, label=label, **style, **error)
    return points


def draw_full_precision(axes: Axes, results: Mapping[str, Any], score: str) -> None:
    """Draw the yardstick as a line, where it was trained.

    Args:
      axes: the panel.
      results: of the study.
      score: name of what lies upwards.
    """
    row = results["rows"][FULL_PRECISION]
    if values := scores(row, score):
        axes.axhline(float(np.mean(values)), color=GREY, linestyle="--", label=row["label"])


def draw_frontier(
    axes: Axes, points: Sequence[tuple[float, float]], *, to_the_right: bool = False
) -> None:
    """Draw the steps of what no other point beats both sideways and upwards.

    Args:
      axes: the panel.
      points: (cost, score) of everything in it, or (speed, score).
      to_the_right: whether what lies to the right is better, as speed is.
    """
    sign = -1 if to_the_right else 1
    kept = list(frontier([(sign * x, y) for x, y in points]))
    if len(kept) > 1:
        x, y = np.array(kept).T
        style = {"color": GREY, "linewidth": 1, "linestyle": ":", "zorder": 0}
        axes.step(sign * x, y, where="post", label="frontier", **style)


def frontier(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Find the points that no other beats in both cost and score.

    Args:
      points: (cost, score).

    Yields:
      Those on the frontier, by rising cost.

    Example:
      >>> list(frontier([(2, 0.5), (1, 0.6), (3, 0.7), (3, 0.4)]))
      [(1, 0.6), (3, 0.7)]
    """
    best = -np.inf
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > best:
            yield cost, score
            best = score


def finish(axes: Axes, label: str, score: str | None = None) -> None:
    """Label a panel.

    Args:
      axes: the panel.
      label: of what lies from left to right.
      score: name of the score that lies upwards, or None.
    """
    axes.set_xlabel(label)
    if score is not None:
        axes.set_ylabel(f"{TITLES[score]} (mean; bar: lowest to highest seed)")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if not axes.get_legend_handles_labels()[0]:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
