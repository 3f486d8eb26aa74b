"""What was measured on a GPU, as a picture: times, energy, and layers beside their floors."""

import os
import statistics
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.benchmark.charts import OTHERS, OURS, finish_bars, short
from experiments.benchmark.gpu.tables import NOT_MEASURED, floor_of
from experiments.png import save_png

_ENGINES = ("#0b7a75", "#d1495b", "#3d5a99", "#b07d12")


def draw(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draw a report.

    Args:
      report: of run.py.
      path: PNG file.
    """
    figure = Figure(figsize=(15, 13), layout="constrained")
    FigureCanvasAgg(figure)
    ((first, second), (energy, layers)) = figure.subplots(2, 2)
    groups = [*report["groups"][:2], None, None]
    for axes, group in ((first, groups[0]), (second, groups[1])):
        _draw_rows(axes, group, report["rows"], "milliseconds", lambda row: 1000 * row["median"])
    _draw_rows(energy, groups[0], report["rows"], "millijoules of one image", _millijoules)
    _draw_layers(layers, report)
    machine = report["machine"]
    idle = machine.get("idle_watts")
    figure.suptitle(
        f"{machine.get('name', 'CPU')}, JAX {machine['versions'].get('jax', '?')}, idle "
        + (NOT_MEASURED if idle is None else f"{idle:.0f} W")
    )
    save_png(figure, path, dpi=100)


def _millijoules(row: dict[str, Any]) -> float | None:
    joules = row.get("energy", {}).get("joules_per_image")
    return None if joules is None else 1000 * joules


def _draw_rows(
    axes: Axes, group: dict[str, Any] | None, rows: dict[str, Any], label: str, value: Any
) -> None:
    found = {} if group is None else {n: value(row) for n, row in group["rows"].items()}
    found = {name: number for name, number in found.items() if number is not None}
    if group is None or not found:
        axes.text(0.5, 0.5, f"{label}: {NOT_MEASURED}", ha="center")
        axes.set_axis_off()
        return
    names = sorted(found, key=found.__getitem__)
    bars = axes.barh(
        np.arange(len(names)),
        [found[name] for name in names],
        0.7,
        color=[OURS if rows[name]["ours"] else OTHERS for name in names],
    )
    axes.bar_label(bars, [short(found[name]) for name in names], padding=4, fontsize=8)
    height, width = group["size"]
    axes.set_title(f"{height}x{width}, batch {group['batch']}: {label}")
    finish_bars(axes, names, label)


def _draw_layers(axes: Axes, report: dict[str, Any]) -> None:
    lines = report["layers"]
    if not lines:
        axes.text(0.5, 0.5, f"layers: {NOT_MEASURED}", ha="center")
        axes.set_axis_off()
        return
    network, batch = lines[0]["network"], lines[0]["batch"]
    lines = [line for line in lines if (line["network"], line["batch"]) == (network, batch)]
    names = list(dict.fromkeys(line["layer"] for line in lines))
    engines = list(dict.fromkeys(line["engine"] for line in lines))
    height = 0.8 / len(engines)
    for index, engine in enumerate(engines):
        chosen = [line for line in lines if line["engine"] == engine]
        y = np.array([names.index(line["layer"]) for line in chosen])
        y = y - 0.4 + height * (index + 0.5)
        micro = [1e6 * statistics.median(line["samples"]) for line in chosen]
        axes.barh(y, micro, height, color=_ENGINES[index % len(_ENGINES)], label=engine)
        floors = [floor_of(line["work"], report["ceilings"]) for line in chosen]
        known = [(at, 1e6 * floor) for at, floor in zip(y, floors, strict=True) if floor]
        if known:
            places, ends = zip(*known, strict=True)
            axes.plot(ends, places, "|", color="black", markersize=5)
    rows, columns = lines[0]["size"]
    axes.set_title(f"layers of {network}, {rows}x{columns}, batch {batch}; |: floor")
    finish_bars(axes, names, "microseconds")
    axes.legend(loc="lower right", fontsize=9)
