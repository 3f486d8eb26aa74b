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

from experiments.study.figures import COLOURS
from experiments.sweep.analysis import FEW, cost_ordered, trade_offs, zeros_of_masked_layers
from experiments.sweep.options import Sweep
from experiments.sweep.plan import LAYERS
from mbu_jax.architecture import LAYER_NAMES

_BLUE, _VERMILION, _GREEN = COLOURS[:3]
_BY_COUNT = "viridis"


def draw(
    results: Mapping[str, Any], sweep: Sweep, rows: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draw zeros by layer, Dice over either cost, and Shapley values.

    Args:
      results: content of ``results.json``.
      sweep: what was trained.
      rows: of every network.
      path: PNG file.
    """
    figure = Figure(figsize=(13, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    ((zeros, shapley), (dense, nonzero)) = figure.subplots(2, 2)
    _draw_zeros(zeros, rows)
    _draw_shapley(shapley, results["shapley"])
    ordered = cost_ordered(sweep, rows)
    height, breadth = results["image_size"]
    _draw_costs(dense, rows, ordered, "operations")
    dense.set_title("Dice over operations, zeros multiplied")
    dense.set_xlabel(f"10^9 one-bit operations, one image of {height}x{breadth}")
    _draw_costs(nonzero, rows, ordered, "nonzero_macs")
    nonzero.set_title("Dice over operations, zeros skipped")
    nonzero.set_xlabel(f"10^9 non-zero multiply-accumulates, one image of {height}x{breadth}")
    scale = ScalarMappable(Normalize(0, LAYERS), _BY_COUNT)
    figure.colorbar(scale, ax=[dense, nonzero], label="masked layers", location="right")
    recipe = results["recipe"]
    figure.suptitle(
        f"{results['title']}: {results['networks']} networks of width {recipe['model']['width']}, "
        f"{recipe['dataset']}, {results['updates']} updates each, scale {results['scale']}"
    )
    figure.savefig(path, dpi=110)


def _draw_zeros(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    shares = [100 * values for values in zeros_of_masked_layers(rows).values()]
    boxes = axes.boxplot(
        shares,
        tick_labels=LAYER_NAMES,
        whis=(0, 100),
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box in boxes["boxes"]:
        box.set_facecolor(_BLUE)
        box.set_alpha(0.5)
    axes.axhline(80, color="grey", linestyle="--", linewidth=1)
    axes.text(0.6, 80.8, "the paper's average: more than 80 %", fontsize=8, color="grey")
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
    places = np.arange(LAYERS) + 1
    kinds = (("", "all numbers of masked layers", _BLUE, -0.15),)
    kinds += (("few_", f"at most {FEW} masked layers, as in the paper", _VERMILION, 0.15),)
    for prefix, label, colour, shift in kinds:
        layers = shapley["layers"].values()
        values, widths = (
            np.array([np.nan if v is None else v for v in (one[prefix + key] for one in layers)])
            for key in ("value", "half_width")
        )
        axes.errorbar(
            places + shift,
            values,
            yerr=np.nan_to_num(widths),
            fmt="o",
            color=colour,
            capsize=3,
            label=label,
        )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(places, LAYER_NAMES)
    axes.set_ylabel("Dice (bars: 95 % confidence)")
    axes.legend(fontsize=8)
    _finish_layers(axes)


def _draw_costs(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    ordered: Sequence[Mapping[str, Any]],
    cost: str,
) -> None:
    x, y, masked = (
        np.array([row[name] for row in rows]) for name in (cost, "dice", "masked_layers")
    )
    axes.scatter(x / 1e9, y, c=masked, cmap=_BY_COUNT, vmin=0, vmax=LAYERS, s=18, alpha=0.8)
    x, y = np.array([(row[cost] / 1e9, row["dice"]) for row in ordered]).T
    axes.plot(x, y, "-o", color=_VERMILION, markersize=4, linewidth=1.2, label="in order of cost")
    for row, left, low in zip(ordered, x, y, strict=True):
        axes.annotate(
            str(row["masked_layers"]),
            (left, low),
            xytext=(3, 4),
            textcoords="offset points",
            fontsize=7,
            color=_VERMILION,
        )
    best = trade_offs(rows, cost)
    x, y = np.array([(row[cost] / 1e9, row["dice"]) for row in best]).T
    style = {"color": _GREEN, "linestyle": ":", "marker": "s", "markersize": 4}
    axes.step(x, y, where="post", label="Pareto front", **style)
    axes.set_ylabel("Dice")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)


def _finish_layers(axes: Axes) -> None:
    axes.tick_params(axis="x", labelrotation=45)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
