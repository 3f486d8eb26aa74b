"""Bits of weights by group of layers, the paper's Figure A.3: python -m experiments.bits.

One group of layers gets more bits, all others stay binary. Masked weights are the two-bit ones:
both are round(clip(w, -1, 1)).
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
from experiments.study.rows import BINARY, Row, Study, full_precision_row, network
from experiments.study.scales import Scale
from mbu_jax.architecture import LAYER_NAMES


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train binary networks with more bits for the weights of one group of layers; compare them."""


GROUPS = {
    "encoder": tuple(name for name in LAYER_NAMES if name in ("down_c1", "down_c2", "down_c3")),
    "bottleneck": ("down_c4",),
    "decoder": tuple(name for name in LAYER_NAMES if name.startswith("up_c") and "ct" not in name),
    "transposed": tuple(name for name in LAYER_NAMES if name.startswith("up_ct")),
}
PRECISIONS = {"masked": 2, "int4": 4, "int8": 8}


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Full precision, the binary one, and every group of layers with every precision.
    """
    found = [full_precision_row(scale), dataclasses.replace(BINARY, series="binary", x=1)]
    for group, layers in GROUPS.items():
        for precision, bits in PRECISIONS.items():
            exceptions = tuple(f"{layer}={precision}" for layer in layers)
            name = "masked" if precision == "masked" else f"{bits}-bit"
            found.append(
                Row(
                    f"{group}_{precision}",
                    f"{group} {name}",
                    network("binary", layer_precision=exceptions),
                    series=group,
                    x=bits,
                )
            )
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw Dice over the bits of each group's weights, a panel a group.

    Args:
      results: of the study.
      path: PNG file.
    """
    groups = figures.series(results)
    binary = groups.get("binary", {})
    best = figures.best_score(results, "dice")
    made, panels = figures.figure(len(GROUPS), height=3.8, width=3.4, one_scale=True)
    for axes, group, colour in zip(panels, GROUPS, figures.COLOURS, strict=False):
        shown = binary | groups.get(group, {})
        figures.scatter(
            axes,
            shown,
            lambda _, row: row["x"],
            "dice",
            colour=colour,
            label=group,
            best=best,
            line=shared_seeds(shown.values()),
        )
        axes.set_xscale("log", base=2)
        axes.set_xlim(0.8, 10)
        axes.set_xticks([1, *PRECISIONS.values()], ["1", "masked", "4", "8"])
        axes.set_title(group)
        figures.finish(axes, "bits of the weights", "dice" if axes is panels[0] else None)
        figures.draw_full_precision(axes, results, "dice")
    figures.save(made, results, path)


STUDY = Study(
    name="bits",
    title="Bits of the weights of one group of layers, the others binary",
    rows=rows,
    draw=draw,
    remarks=(
        "Activations have 1 bit. Layers of a group change together; the stem's second "
        "convolution is masked throughout, where the paper's Figure A.3 has full precision.",
        "Two-bit weights are the masked ones: both are round(clip(w, -1, 1)).",
        "4- and 8-bit weights cannot be packed, so their time is not measured.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
