"""The sweep's report: raw results, a table, the figure."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.sweep.analysis import (
    FEW,
    IMAGE_SIZE,
    comparable,
    configurations,
    cost_ordered,
    has_orders,
    network_row,
    shapley_values,
    trade_offs,
    zeros_of_masked_layers,
)
from experiments.sweep.figure import draw
from experiments.sweep.options import Sweep, SweepOptions
from experiments.sweep.plan import Chunk, described
from experiments.sweep.training import read_chunk
from experiments.timing import machine_text
from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.files import to_json, write_bytes_atomic, write_json_atomic
from mbu_jax.masking import cost_scores
from mbu_jax.train.config import TrainConfig
from mbu_jax.train.metrics import DEFINITIONS

RESULTS, NETWORKS, TABLE, FIGURE = "results.json", "results.csv", "table.md", "figure.png"

_ASKED = ("dataset", "permutations", "members", "seeds", "seed", "chunk_members", "at_once")
_PLACES = ("data_dir", "prepared_dir", "out", "workdir", "initial")  # of this machine

_LUCK = "Where trainings are few, a network may owe its place to a lucky seed."
_OF_SEEDS = [
    "Here and below, scores and costs are means over all trainings that mask the same layers, with "
    f"their lowest and highest Dice in brackets. {_LUCK}"
]
_OF_ORDERS = [
    "Networks of this order alone, which share a seed. Every other order has a seed of its own, "
    "which shifts all of its scores, so the figure and the tables below compare differences to the "
    "mean of the two ends that each order has, none and all masked. Those are means over all "
    f"trainings that mask the same layers, with the lowest and highest in brackets. {_LUCK}"
]


def write_report(
    sweep: Sweep, options: SweepOptions, chunks: Sequence[Chunk], runs: Path
) -> dict[str, Any]:
    """Bring the chunks together and write what they show.

    Args:
      sweep: what was trained.
      options: the command line.
      chunks: all of them, finished.
      runs: the folder that they lie in.

    Returns:
      The content of ``results.json``.

    Raises:
      InputError: where a chunk's file is damaged, or chunks do not belong together.
    """
    width = sweep.recipe.model.width
    heads, rows = [], []
    for chunk in chunks:
        head, members = read_chunk(runs, chunk)
        heads.append(head)
        for mask, member in zip(chunk.masks, members, strict=True):
            rows.append(network_row(chunk.series, chunk.seed, mask, member, width))
    check_origins(heads, runs)
    seconds = sum(head["training_seconds"] + head["evaluation_seconds"] for head in heads)
    results = {
        "title": "Sweep over masked layers",
        "command": _command(options),
        "scale": options.scale,
        "options": _without_places(options),
        "recipe": _without_places(sweep.recipe),
        "starts_from": sweep.recipe.initial and sweep.recipe.initial.name,
        "layers": LAYER_NAMES,
        "updates": heads[0]["updates"],
        "machines": _distinct([head["machine"] for head in heads]),
        "hours": seconds / 3600,
        "chunks": [{k: v for k, v in head.items() if k != "machine"} for head in heads],
        "series": [described(series) for series in sweep.series],
        "networks": len(rows),
        "image_size": IMAGE_SIZE,
        "shapley": shapley_values(sweep, rows),
        "definitions": {name: DEFINITIONS[name] for name in ("dice", "iou", "all")},
    }
    results = json.loads(to_json(results))
    folder = options.folder
    write_json_atomic(folder / RESULTS, results)  # first: by it the others are known as a report's
    write_bytes_atomic(folder / NETWORKS, _csv(rows).encode())
    write_bytes_atomic(folder / TABLE, table(results, rows).encode())
    draw(results, rows, folder / FIGURE)
    return results


def check_origins(origins: Iterable[Mapping[str, Any]], runs: Path) -> None:
    """Refuse to compare networks that have begun with other images or weights.

    Args:
      origins: ``content`` and ``start`` of each, as `SweepTrainer.origin` has them.
      runs: the folder of chunks, to be named.

    Raises:
      InputError: where two differ.

    Example:
      >>> check_origins([{"content": "a", "start": None}, {"content": "a", "start": None}], Path())
    """
    found = list(origins)
    for name, of in (("content", "images"), ("start", "weights to start from")):
        if len({origin[name] for origin in found}) > 1:
            raise InputError(
                f"the chunks in {runs} were trained with different {of}; choose another --out to "
                "train all with the present ones"
            )


def _command(options: SweepOptions) -> str:
    """How to get these results; where the data lie and who shares the work is another's matter."""
    parts = [f"python -m experiments.sweep --scale {options.scale}"]
    for name in _ASKED:
        if (value := getattr(options, name)) != getattr(SweepOptions, name):
            parts.append(f"--{name.replace('_', '-')} {value}")
    if options.initial is not None:
        parts.append("--initial RUN")
    if options.data_dir is not None:
        parts.append("--data-dir DIR")
    return " ".join(parts)


def _without_places(options: SweepOptions | TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(options).items() if k not in _PLACES}


def _distinct(machines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({to_json(machine): machine for machine in machines}.values())


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay the findings out.

    Args:
      results: content of ``results.json``.
      rows: of every network.

    Returns:
      Markdown.
    """
    height, breadth = results["image_size"]
    recipe = results["recipe"]
    orders = has_orders(rows)
    networks = configurations(comparable(rows))
    lines = [
        f"# {results['title']}",
        "",
        f"`{results['command']}`",
        "",
        f"{results['networks']} networks of width {recipe['model']['width']} on "
        f"{recipe['dataset']}, {results['updates']} updates of {recipe['batch_size']} images each, "
        f"{results['hours']:.1f} hours on {'; '.join(map(machine_text, results['machines']))}.",
        f"All start from {results['starts_from'] or 'random weights'}.",
        f"Operations are those of the one-bit convolutions on one image of {height}x{breadth}: "
        "where zeros are multiplied, two products for a masked layer (the paper's count), and "
        "where they are skipped, multiply-accumulates of the bitsliced engine (of a binary layer, "
        "which has no zeros, about half: it counts the rarer sign).",
        "",
        "## What masking a layer is worth",
        "",
        *_layers(results, rows),
        "",
        "## Layers masked in order of cost",
        "",
        *(_OF_ORDERS if orders else _OF_SEEDS),
        "",
        *_networks(cost_ordered(rows)),
        "",
    ]
    for cost, name in (("operations", "operations"), ("bitsliced_macs", "MACs")):
        title = f"## Networks that none beats in Dice at as few {name}"
        lines += [title, "", *_networks(trade_offs(networks, cost), orders), ""]
    lines += [f"- {name}: {text}" for name, text in results["definitions"].items()]
    return "\n".join(lines) + "\n"


def _layers(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    shapley, zeros = results["shapley"], zeros_of_masked_layers(rows)
    costs = cost_scores(unet_layers(results["recipe"]["model"]["width"]))
    lines = [
        "| layer | cost score | zeros where masked | Shapley value, Dice "
        f"| of at most {FEW} masked |",
        "|---|---|---|---|---|",
    ]
    for name in LAYER_NAMES:
        cells = [name, f"{costs[name]:.3f}", f"{100 * np.mean(zeros[name]):.1f} %"]
        layer = shapley and shapley["layers"][name]
        for prefix in ("", "few_"):
            cells.append(_value(layer, prefix) if layer else "not run")
        lines.append("| " + " | ".join(cells) + " |")
    if shapley:
        lines += ["", f"± is half of a 95 % confidence interval: {shapley['method']}."]
        lines[-1] += f" In brackets: how many {shapley['unit']} a value rests on."
    else:
        lines += ["", "A subset of configurations has no Shapley values."]
    return lines


def _networks(networks: Sequence[Mapping[str, Any]], differences: bool = False) -> list[str]:
    form, titles = "", "Dice | IoU"
    if differences:
        form, titles = "+", "Dice less that of the ends | IoU less that of the ends"
    lines = [
        f"| masked | {titles} | 10^9 operations | 10^9 MACs, zeros skipped | trained | layers |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in networks:
        extremes = f" ({one['lowest']:{form}.3f} to {one['highest']:{form}.3f})"
        several = extremes if one["trained"] > 1 else ""
        masked = [n for n, digit in zip(LAYER_NAMES, one["masked"], strict=True) if digit == "1"]
        lines.append(
            f"| {one['masked_layers']} | {one['dice']:{form}.3f}{several} | {one['iou']:{form}.3f} "
            f"| {one['operations'] / 1e9:.3g} | {one['bitsliced_macs'] / 1e9:.3g} "
            f"| {one['trained']} | {', '.join(masked) or 'none'} |"
        )
    return lines


def _value(layer: Mapping[str, Any], prefix: str) -> str:
    value, half_width, samples = (layer[prefix + key] for key in ("value", "half_width", "samples"))
    if value is None:
        return "- (0)"
    spread = "" if half_width is None else f" ± {half_width:.4f}"
    return f"{value:+.4f}{spread} ({samples})"
