"""Levels of activations and weights against time: python -m experiments.levels.

Activations of 1 and 2 bits with binary, masked and power-of-two weights.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from pathlib import Path
from typing import Any

from experiments import command
from experiments.study import figures
from experiments.study.options import StudyOptions
from experiments.study.program import run_study
from experiments.study.report import shared_seeds
from experiments.study.rows import (
    ALL_MASKED,
    BINARY,
    STATISTICS_REMARK,
    Row,
    Study,
    full_precision_row,
    network,
    scored_with_crops,
)
from experiments.study.scales import Scale


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train networks of 1- and 2-bit activations and three kinds of weights; compare, time them."""


WEIGHTS = {"binary": "Binary", "all_masked": "All masked", "pow2": "Powers of two"}
_MARKERS = {1: "o", 2: "s"}


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Full precision, every kind of weights with 1-bit activations, then with 2-bit ones. Where
      they are trained on crops, those of 1-bit activations also with the statistics of crops.
    """
    known = {row.name: row for row in (BINARY, ALL_MASKED)}
    found = [full_precision_row(scale)]
    for bits in (1, 2):
        for name, label in WEIGHTS.items():
            row = known.get(name) if bits == 1 else None
            row = row or Row(
                name if bits == 1 else f"{name}_2bit", label, network(name, activation_bits=bits)
            )
            label = f"{label}, {bits}-bit activations"
            row = dataclasses.replace(row, label=label, series=name, x=bits)
            found.append(row)
            if bits == 1 and scale.config.data.cropped:
                again = scored_with_crops(row)
                found.append(dataclasses.replace(again, series=again.name))
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw Dice over the packed networks' time, and over the activations' bits.

    Args:
      results: of the study.
      path: PNG file.
    """
    made, (times, bits) = figures.figure(2)
    points = []
    best = figures.best_score(results, "dice")
    groups = figures.series(results)
    groups.pop("", None)  # full precision
    colours = dict(zip(WEIGHTS, figures.COLOURS, strict=False))
    for name, group in groups.items():
        weights = name.removesuffix("_crops")
        style: dict[str, Any] = {"colour": colours[weights], "best": best}
        if name == weights:
            seeds = shared_seeds(group.values())
            style["label"] = WEIGHTS[name]
            figures.scatter(bits, group, lambda _, row: row["x"], "dice", line=seeds, **style)
        for key, row in group.items():
            style["label"] = row["label"]
            style["marker"] = _MARKERS[int(row["x"])] if name == weights else "^"
            alone = {key: row}
            points += figures.scatter(
                times, alone, figures.relative_time_of(results), "dice", **style
            )
            if name != weights:
                figures.scatter(bits, alone, lambda _, row: row["x"], "dice", **style)
    figures.draw_frontier(times, points)
    times.set_xlim(left=0)
    figures.finish(times, figures.time_label(results), "dice")
    bits.set_xticks([1, 2])
    bits.set_xlim(0.7, 2.3)
    figures.finish(bits, "bits of the activations", "dice")
    for axes in (times, bits):
        figures.draw_full_precision(axes, results, "dice")
    figures.save(made, results, path)


STUDY = Study(
    name="levels",
    title="Levels of activations and weights: accuracy against time",
    rows=rows,
    draw=draw,
    remarks=(
        "Weights of powers of two are 0, ±1, ±2 and ±4.",
        "A kind of weights keeps its own share of zeros, which the time on the bitsliced engine "
        "follows; experiments.density varies it.",
        f"{STATISTICS_REMARK} Rows of the two are of the same weights.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
