"""The report as a picture: times and memory of all rows, and how ours grow."""

import os
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.png import save_png

OURS, OTHERS = "#0b7a75", "#9aa5b1"
"""Colours of our rows and of others."""

_PALE = 0.5  # opacity of bars with fewer threads
# As many as there are kinds of packed networks.
_LINES = ("#0b7a75", "#d1495b", "#3d5a99", "#b07d12", "#7b4b94", "#5c8a3a", "#c2703d", "#4a4a4a")


def draw(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw a report.

    Args:
      report: of the benchmark.
      path: PNG file.
    """
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    ((times, memory), (pixels, densities)) = figure.subplots(2, 2)
    _draw_times(times, _latency(report))
    _draw_memory(memory, _latency(report)[-1])
    _draw_pixels(pixels, report)
    _draw_densities(densities, report)
    machine = report["machine"]
    figure.suptitle(
        f"{machine['cpu']}, {machine['cores']} cores, bitsliced with {machine['instructions']}"
    )
    save_png(figure, path)


def _latency(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Groups of one image of the main size, fewest threads first."""
    size = report["config"]["size"]
    groups = [
        group
        for group in report["groups"]
        if (group["section"], group["size"], group["batch"]) == ("latency", size, 1)
    ]
    return sorted(groups, key=lambda group: group["threads"])


def _draw_times(axes: Axes, groups: list[dict[str, Any]]) -> None:
    names = [name for name in groups[-1]["rows"] if all(name in group["rows"] for group in groups)]
    height = 0.8 / len(groups)
    for index, group in enumerate(reversed(groups)):
        rows = [group["rows"][name] for name in names]
        middle = np.array([1000 * row["median"] for row in rows])
        low, high = (1000 * np.array([row["quartiles"][i] for row in rows]) for i in (0, 1))
        y = np.arange(len(names)) - 0.4 + height * (index + 0.5)
        bars = axes.barh(
            y,
            middle,
            height,
            xerr=[middle - low, high - middle],
            color=_colours(names),
            alpha=1 if index == 0 else _PALE,
            error_kw={"elinewidth": 1, "ecolor": "black"},
        )
        axes.bar_label(bars, [short(ms) for ms in middle], padding=5, fontsize=8)
    size = groups[-1]["size"]
    axes.set_title(f"one image of {size}x{size}: median and quartiles")
    shades = [
        Patch(color=OTHERS, alpha=1 if index == 0 else _PALE, label=_threads(group))
        for index, group in enumerate(reversed(groups))
    ]
    axes.legend(handles=shades, loc="lower right", fontsize=9)
    finish_bars(axes, names, "milliseconds")


def _draw_memory(axes: Axes, group: dict[str, Any]) -> None:
    rows = {
        name: row for name, row in group["rows"].items() if (row["running_memory_bytes"] or 0) > 0
    }
    if not rows:
        axes.set_axis_off()
        return
    names = list(rows)
    megabytes = [row["running_memory_bytes"] / 1e6 for row in rows.values()]
    bars = axes.barh(np.arange(len(names)), megabytes, 0.6, color=_colours(names))
    axes.bar_label(bars, [short(value) for value in megabytes], padding=5, fontsize=8)
    axes.set_title(f"memory that running adds, {group['size']}x{group['size']}")
    finish_bars(axes, names, "megabytes")


def _draw_pixels(axes: Axes, report: dict[str, Any]) -> None:
    most = max(report["config"]["threads"])
    points: dict[str, list[tuple[float, float]]] = {}
    for group in report["groups"]:
        if (group["section"], group["threads"], group["batch"]) != ("latency", most, 1):
            continue
        for name, row in group["rows"].items():
            if name.endswith(":bitsliced"):
                points.setdefault(name, []).append((group["size"] ** 2 / 1e6, 1000 * row["median"]))
    axes.set_title("time by the number of pixels")
    _draw_lines(axes, _ours(report), points, "million pixels")


def _draw_densities(axes: Axes, report: dict[str, Any]) -> None:
    points: dict[str, list[tuple[float, float]]] = {}
    for group in report["groups"]:
        if group["section"] == "density":
            for name, row in group["rows"].items():
                point = (100 * row["density"], 1000 * row["median"])
                points.setdefault(name.partition("@")[0], []).append(point)
    size = report["config"]["size"]
    axes.set_title(f"time by the share of non-zero weights, {size}x{size}")
    _draw_lines(axes, _ours(report), points, "non-zero weights in per cent")


def _draw_lines(
    axes: Axes, names: list[str], points: dict[str, list[tuple[float, float]]], label: str
) -> None:
    if not points:
        axes.set_axis_off()
        return
    for name, pairs in points.items():
        colour = _LINES[names.index(name) % len(_LINES)]
        x, y = np.array(sorted(pairs)).T
        text = name
        if len(x) > 2:
            slope, start = np.polyfit(x, y, 1)
            ends = np.array([0, x[-1]])
            axes.plot(ends, start + slope * ends, color=colour, linewidth=1)
            text = f"{name}: {start:.3g} + {slope:.3g} x"
        axes.plot(x, y, "o", color=colour, label=text)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlabel(label)
    axes.set_ylabel("milliseconds")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)


def finish_bars(axes: Axes, names: list[str], label: str) -> None:
    """Name the bars of a chart and give its axis room for the numbers beside them.

    Args:
      axes: with horizontal bars.
      names: of the bars, the first on top.
      label: of the axis of values, which is logarithmic.
    """
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.set_xlim(left / 1.5, right * (right / left) ** 0.1)  # room for the numbers
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def _ours(report: dict[str, Any]) -> list[str]:
    names = dict.fromkeys(name for group in _latency(report) for name in group["rows"])
    return [name for name in names if name.endswith(":bitsliced")]


def _threads(group: dict[str, Any]) -> str:
    return f"{group['threads']} thread{'s' * (group['threads'] > 1)}"


def _colours(names: list[str]) -> list[str]:
    return [OURS if name.endswith(":bitsliced") else OTHERS for name in names]


def short(value: float) -> str:
    """Print a number with three digits.

    Args:
      value: the number.

    Returns:
      It, without an exponent where it is large.
    """
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
