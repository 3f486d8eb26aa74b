"""The sweep as a picture, after the paper's Figure 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.png import save_png
from experiments.study.figures import COLOURS, GREY
from experiments.sweep.analysis import (
    FEW,
    comparable,
    configurations,
    cost_ordered,
    has_orders,
    trade_offs,
    zeros_of_masked_layers,
)
from experiments.sweep.plan import LAYERS
from mbu_jax.architecture import LAYER_NAMES

_BLUE, _VERMILION, _GREEN = COLOURS[:3]
_PLACES = np.arange(LAYERS) + 1  # of layers, as box plots have them
_BY_COUNT = "viridis"
_MANY = 500  # networks, whose points would hide each other


def draw(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw zeros by layer, Dice over either cost, and Shapley values.

    Args:
      results: content of ``results.json``.
      rows: of every network.
      path: PNG file.
    """
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    ((zeros, shapley), (dense, nonzero)) = figure.subplots(2, 2)
    _draw_zeros(zeros, rows)
    _draw_shapley(shapley, results["shapley"])
    height, breadth = results["image_size"]
    _draw_costs(dense, rows, "operations")
    dense.set_title("Dice over operations, zeros multiplied")
    dense.set_xlabel(f"10^9 one-bit operations, one image of {height}x{breadth}")
    _draw_costs(nonzero, rows, "bitsliced_macs")
    nonzero.set_title("Dice over operations, zeros skipped")
    nonzero.set_xlabel(f"10^9 multiply-accumulates, one image of {height}x{breadth}")
    scale = ScalarMappable(Normalize(0, LAYERS), _BY_COUNT)
    figure.colorbar(scale, ax=[dense, nonzero], label="masked layers", location="right")
    recipe = results["recipe"]
    figure.suptitle(
        f"{results['title']}: {results['networks']} networks of width {recipe['model']['width']}, "
        f"{recipe['dataset']}, {results['updates']} updates each, scale {results['scale']}"
    )
    save_png(figure, path)


def _draw_zeros(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    shares = [100 * values for values in zeros_of_masked_layers(rows).values()]
    boxes = axes.boxplot(shares, whis=(0, 100), patch_artist=True, medianprops={"color": "black"})
    for box in boxes["boxes"]:
        box.set_facecolor(_BLUE)
        box.set_alpha(0.5)
    style = {"color": GREY, "linestyle": "--", "linewidth": 1}
    axes.axhline(80, label="the paper's average: more than 80 %", **style)
    axes.legend(fontsize=8, loc="lower left")
    axes.set_ylim(0, 100)
    axes.set_ylabel("per cent of weights")
    axes.set_title("Zeros of masked layers: quartiles, lowest and highest")
    _finish_layers(axes)


def _draw_shapley(axes: Axes, shapley: Mapping[str, Any] | None) -> None:
    axes.set_title("Shapley values of masking a layer")
    if shapley is None:
        axes.text(0.5, 0.5, "a subset has none", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    hollow = False
    kinds = (("", "all numbers of masked layers", _BLUE, -0.15),)
    kinds += (("few_", f"at most {FEW} masked layers, as in the paper", _VERMILION, 0.15),)
    for prefix, label, colour, shift in kinds:
        layers = shapley["layers"].values()
        values, widths = (
            np.array([np.nan if v is None else v for v in (one[prefix + key] for one in layers)])
            for key in ("value", "half_width")
        )
        sure = ~np.isnan(widths)
        where, style = _PLACES + shift, {"marker": "o", "linestyle": "none", "color": colour}
        bars = {"yerr": widths[sure], "capsize": 3, "label": label}
        axes.errorbar(where[sure], values[sure], **style, **bars)
        axes.plot(where[~sure], values[~sure], **style, markerfacecolor="white")
        hollow |= not sure.all()
    if hollow:
        style = {"marker": "o", "linestyle": "none", "color": GREY, "markerfacecolor": "white"}
        axes.plot([], [], **style, label="hollow, or no point: too few orders for an interval")
    axes.axhline(0, color="black", linewidth=0.8)
    one_seed = (shapley["unit"], shapley["samples"]) == ("seeds", 1)
    spread = "within one seed" if one_seed else f"over {shapley['unit']}"
    axes.set_ylabel(f"Dice (bars: 95 % confidence {spread})")
    _legend_above(axes)
    _finish_layers(axes)


def _draw_costs(axes: Axes, rows: Sequence[Mapping[str, Any]], cost: str) -> None:
    rows = comparable(rows)
    networks = configurations(rows)
    x, y, masked = (
        np.array([one[name] for one in networks]) for name in (cost, "dice", "masked_layers")
    )
    colours = {"c": masked, "cmap": _BY_COUNT, "vmin": 0, "vmax": LAYERS}
    axes.scatter(x / 1e9, y, s=18 if len(networks) < _MANY else 4, alpha=0.8, **colours)
    ordered = cost_ordered(rows)
    _draw_line(axes, ordered, cost, color=_VERMILION, marker="o", label="in order of cost")
    for one in ordered:
        axes.annotate(
            str(one["masked_layers"]),
            (one[cost] / 1e9, one["dice"]),
            xytext=(4, -8),
            textcoords="offset points",
            fontsize=8,
            color=_VERMILION,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )
    steps = {"linestyle": ":", "drawstyle": "steps-post", "markerfacecolor": "none"}
    best = trade_offs(networks, cost)
    _draw_line(axes, best, cost, color=_GREEN, marker="s", label="Pareto front", **steps)
    score = "Dice less the mean of its series' ends" if has_orders(rows) else "Dice"
    axes.set_ylabel(f"{score}\n(mean over trainings; bar: lowest to highest)")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    _legend_above(axes)


def _draw_line(axes: Axes, networks: Sequence[Mapping[str, Any]], cost: str, **style: Any) -> None:
    """Bars are drawn where a network was trained several times."""
    keys = (cost, "dice", "lowest", "highest")
    x, y, low, high = np.array([[one[key] for key in keys] for one in networks]).T
    bars = np.maximum([y - low, high - y], 0)  # the mean of equal scores may round past them
    axes.errorbar(x / 1e9, y, yerr=bars, markersize=5, linewidth=1.2, elinewidth=1, **style)


def _finish_layers(axes: Axes) -> None:
    axes.set_xticks(_PLACES, LAYER_NAMES, rotation=45, ha="right", rotation_mode="anchor")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _legend_above(axes: Axes) -> None:
    """A legend with room of its own, since points may lie anywhere."""
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.25 * (top - bottom))
    axes.legend(fontsize=8, loc="upper right")
