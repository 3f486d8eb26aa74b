"""Density as a knob, against accuracy and time: python -m experiments.density.

The share of non-zero weights is set by a target, by the threshold, or by a pull on latent weights.
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
from experiments.study.rows import (
    ALL_MASKED,
    BINARY,
    KEPT,
    TWN,
    Row,
    Study,
    full_precision_row,
    network,
)
from experiments.study.scales import Scale


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train masked networks of several densities, held in three ways; compare and time them."""


_TARGETS = (0.02, 0.05, 0.1, 0.2, 0.5)
_STARTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
_PULLS = (0.01, 0.03, 0.1, 0.3)
_SERIES = {
    "target": "target density",
    "threshold": "threshold (density at the start)",
    "twn": "threshold of TWN",
    "l1": "pull on latent weights",
    "binary": "binary",
}


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Full precision, the binary one, and masked ones by what sets their density.
    """
    found = [full_precision_row(scale), dataclasses.replace(BINARY, series="binary", x=100)]
    for share in _TARGETS:
        options = network("all_masked", ternarizer="density", density=share)
        row = Row(f"kept_{100 * share:g}", f"The largest {100 * share:g} % kept", options)
        assert row.changes != KEPT.changes or row.name == KEPT.name
        found.append(dataclasses.replace(row, series="target", x=100 * share))
    for share in _STARTS:
        options = network("all_masked", density=share)
        percent = f"{100 * share:g}"
        label = f"Threshold that {percent} % pass at the start"
        found.append(Row(f"start_{percent}", label, options, series="threshold", x=100 * share))
    found.append(dataclasses.replace(TWN, series="twn"))
    for pull in _PULLS:
        options = {**ALL_MASKED.changes, "optimizer.latent_l1": pull}
        found.append(Row(f"l1_{pull:g}", f"L1 of {pull:g}", options, series="l1", x=pull))
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw Dice over density and over time, and time over density.

    Args:
      results: of the study.
      path: PNG file.
    """
    made, (densities, times, both) = figures.figure(3)
    time_of = figures.relative_time_of(results)
    points = []
    best = figures.best_score(results, "dice")
    groups = figures.series(results)
    groups.pop("", None)  # full precision
    for (name, group), colour in zip(groups.items(), figures.COLOURS, strict=False):
        style: dict[str, Any] = {"colour": colour, "label": _SERIES[name], "best": best}
        figures.scatter(densities, group, figures.density_of, "dice", **style)
        points += figures.scatter(times, group, time_of, "dice", **style)
        pairs = [(_timed_density(results, key), time_of(key, row)) for key, row in group.items()]
        measured = [pair for pair in pairs if None not in pair]
        if measured:
            both.plot(*zip(*measured, strict=True), "o", color=colour, label=_SERIES[name])
    figures.draw_frontier(times, points)
    for axes in (densities, both):
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
    times.set_xlim(left=0)
    both.set_ylim(bottom=0)
    both.set_ylabel(figures.time_label(results))
    figures.finish(densities, "non-zero weights, per cent", "dice")
    figures.finish(times, figures.time_label(results), "dice")
    figures.finish(both, "non-zero weights, per cent")
    for axes in (densities, times):
        figures.draw_full_precision(axes, results, "dice")
    figures.save(made, results, path)


def _timed_density(results: dict[str, Any], name: str) -> float | None:
    """Per cent of non-zero weights of the network that was timed for a row."""
    timed = ((results["latency"] or {}).get("rows") or {}).get(name, {}).get("run")
    runs = [run for run in results["rows"][name]["runs"] if run["run"] == timed]
    # Times outlive a run whose scores do not.
    shares = [run["density"] for run in runs if "density" in run]
    return 100 * shares[0] if shares else None


STUDY = Study(
    name="density",
    title="The share of non-zero weights: accuracy against time",
    rows=rows,
    draw=draw,
    remarks=(
        "Activations have 1 bit; every layer is masked but in the binary network.",
        "A target keeps the same share in every layer, throughout training.",
        "A threshold is 0.5 and lets density develop; what is set is the spread that latent "
        "weights start with, so the threshold in units of that spread.",
        "L1 takes that share of a step from the magnitude of every latent weight in each update.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
