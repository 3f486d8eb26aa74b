"""Layers masked in order of cost, the paper's Figures 7, A.4 and A.5: python -m experiments.pareto.

Two priority lists: the paper's cost scores, and what masking saves where zeros are skipped.
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
from experiments.study.rows import Row, Study, full_precision_row, masked_row
from experiments.study.scales import Scale


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train networks with more and more masked layers by two priority lists; compare, time them."""


_SERIES = {"paper": "the paper's cost scores", "nonzeros": "what skipping zeros saves"}
_ENDS = "none or all masked"


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Full precision, every number of masked layers by either list; none and all of them once.
    """
    floating = full_precision_row(scale)
    found = {floating.name: floating}
    for cost in _SERIES:
        for count in scale.masked_counts:
            row = masked_row(count, cost)
            end = count in (0, 12)
            series = _ENDS if end else cost
            found.setdefault(row.name, dataclasses.replace(row, series=series, x=count))
    return list(found.values())


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw each score over the relative speed, the number of masked layers beside the points.

    Args:
      results: of the study.
      path: PNG file.
    """
    groups = figures.series(results)
    ends = groups.pop(_ENDS, {})
    # Of both lines together, since the frontier compares their points.
    seeds = shared_seeds(
        [*ends.values(), *(row for name in _SERIES for row in groups.get(name, {}).values())]
    )

    time_of = figures.relative_time_of(results)

    def speed(name: str, row: Any) -> float | None:
        time = time_of(name, row)
        return None if time is None else 1 / time

    made, panels = figures.figure(len(figures.TITLES))
    for axes, score in zip(panels, figures.TITLES, strict=True):
        points = []
        best = figures.best_score(results, score)
        for (name, label), colour in zip(_SERIES.items(), figures.COLOURS, strict=False):
            if groups and name not in groups:
                continue  # the ends alone would look like a line of it
            shown = ends | groups.get(name, {})
            ordered = dict(sorted(shown.items(), key=lambda item: item[1]["x"]))
            points += figures.scatter(
                axes,
                ordered,
                speed,
                score,
                colour=colour,
                label=label,
                best=best,
                line=seeds,
                names=lambda row: f"{row['x']:g}",
            )
        figures.draw_frontier(axes, points, to_the_right=True)
        figures.finish(axes, figures.time_label(results, "speed on"), score)
        figures.draw_full_precision(axes, results, score)
    figures.save(made, results, path)


STUDY = Study(
    name="pareto",
    title="Layers masked in order of cost: accuracy against speed",
    rows=rows,
    draw=draw,
    remarks=(
        "Activations have 1 bit; layers that are not masked are binary.",
        "The paper's list masks layers of the lowest cost score first, the other those whose "
        "masking saves most multiply-accumulates on an engine that skips zeros, at the density "
        "that weights start with.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
