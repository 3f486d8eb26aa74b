"""The paper's Table 1 and the baselines that it lacks: python -m experiments.table1.

Beside its networks stand ternary weights by TWN and TTQ, and a binary network whose smallest
weights are set to zero, before and after further training.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments import command
from experiments.study import figures
from experiments.study.options import StudyOptions
from experiments.study.program import run_study
from experiments.study.rows import (
    ALL_MASKED,
    BINARY,
    KEPT,
    STATISTICS_REMARK,
    TWN,
    Row,
    Study,
    best_row,
    full_precision_row,
    further_row,
    masked_row,
    network,
)
from experiments.study.scales import Scale


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train the networks of the paper's Table 1 and other ternary and sparse ones; compare them."""


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Those of the paper's table in its order, other ternary and sparse ones, the best ones.
    """
    return [
        full_precision_row(scale),
        further_row(scale),
        Row("int8", "INT8 weights", network("int8"), paper="INT8"),
        Row("int4", "INT4 weights", network("int4"), paper="INT4"),
        masked_row(6),
        BINARY,
        ALL_MASKED,
        KEPT,
        TWN,
        Row("ttq", "TTQ", network("ttq", ternarizer="max")),
        Row(
            "pruned",
            "Binary, pruned to 10 %",
            # The statistics of the binary network are not those of a tenth of its weights.
            {**KEPT.changes, "epochs": 0, "recalibrate": scale.config.recalibrate or 20},
            BINARY.name,
        ),
        Row(
            "pruned_tuned",
            "Binary, pruned to 10 %, trained further",
            {**KEPT.changes, "epochs": scale.tuning_epochs},
            BINARY.name,
        ),
        best_row(scale, 1),
        best_row(scale, 2),
    ]


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the scores of every network, each seed a dot, the paper's a diamond.

    Args:
      results: of the study.
      path: PNG file.
    """
    shown = {name: row for group in figures.series(results).values() for name, row in group.items()}
    made, panels = figures.figure(len(figures.TITLES), height=1.6 + 0.33 * len(shown), width=4.4)
    for axes, (score, title) in zip(panels, figures.TITLES.items(), strict=True):
        for place, row in enumerate(shown.values()):
            values = figures.scores(row, score)
            axes.plot(values, [place] * len(values), "o", color=figures.COLOURS[0], alpha=0.6)
            axes.plot(np.mean(values), place, "|", color="black", markersize=14)
            if row["paper"]:
                axes.plot(row["paper"][score], place, "D", color=figures.COLOURS[1], mfc="none")
        axes.set_yticks(range(len(shown)), [row["label"] for row in shown.values()])
        axes.tick_params(axis="y", labelleft=axes is panels[0])
        axes.invert_yaxis()
        axes.set_title(title)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    panels[1].set_xlabel("dots: seeds; line: their mean; diamond: the paper's Table 1")
    figures.save(made, results, path)


STUDY = Study(
    name="table1",
    title="Networks of the paper's Table 1, and other ternary and sparse ones",
    rows=rows,
    draw=draw,
    remarks=(
        "Activations have 1 bit but in full precision and where a row names 2. The best ones start "
        "from full precision, and so does its second row, which is trained for as many epochs.",
        f"{STATISTICS_REMARK} The best of 1-bit activations has the latter.",
        "MBU-Net masks the 6 of 12 layers with the lowest cost scores; the paper does not say how "
        "many its row masks.",
        "TTQ (Zhu et al. 2017) learns a scale for positive and one for negative weights of each "
        "layer; its threshold is 0.05 of the largest magnitude. It cannot be packed.",
        "The pruned network is the binary one of the same seed with the 10 % of weights of "
        "largest magnitude in each layer; batch statistics are estimated anew. Trained further, "
        "it may exchange the weights that it keeps.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
