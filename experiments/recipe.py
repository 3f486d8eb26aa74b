"""What closes the gap to full precision, step by step: python -m experiments.recipe.

All layers are masked, activations have one bit or two.
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
    STATISTICS_OF_CROPS,
    STATISTICS_REMARK,
    Row,
    Study,
    best_row,
    full_precision_row,
    further_row,
    network,
    scored_with_crops,
)
from experiments.study.scales import Scale
from mbu_jax.data.augment import NO_AUGMENTATION, AugmentOptions


@dataclasses.dataclass(frozen=True)
class Options(StudyOptions):
    """Train masked networks with one step of the recipe changed at a time; compare them."""


_SERIES = {1: "1-bit activations", 2: "2-bit activations"}
_STEPS: dict[str, tuple[str, dict[str, Any]]] = {
    "start": ("from full precision", {}),
    "sparse": ("10 % non-zero at the start", {"model.density": 0.1}),
    "dense": ("50 % non-zero at the start", {"model.density": 0.5}),
    "slow": ("half the step size", {"optimizer.learning_rate": 2e-3}),
    "fast": ("twice the step size", {"optimizer.learning_rate": 8e-3}),
    "constant": ("steps of constant size", {"optimizer.schedule": "constant"}),
    "common": ("latent weights at the common rate", {"optimizer.latent_rate": 1.0}),
    "approx": ("Bi-Real Net's gradient", {"model.activation_gradient": "approx_sign"}),
    "average": ("moving average of the weights", {"ema_decay": 0.99}),
    "running": ("batch statistics of training", {"recalibrate": 0}),
    "plain": (
        "less variation of scale and colour",
        {"data.augment": AugmentOptions(scale=(1.0, 1.0), jitter=0.2, colour=0.1)},
    ),
}


def rows(scale: Scale) -> list[Row]:
    """List the networks.

    Args:
      scale: of the study.

    Returns:
      Full precision; for one- and two-bit activations random weights, the steps, and the best.
    """
    found = [full_precision_row(scale), further_row(scale)]
    floating = found[0].name
    for bits in _SERIES:
        base = network("all_masked", activation_bits=bits)
        tuned = {**scale.best, "epochs": scale.tuning_epochs, **base}
        series = _SERIES[bits]
        whole = scale.config.epochs + scale.tuning_epochs
        scratch: dict[str, Any] = {**tuned, "epochs": whole}
        if scale.config.eval_every == scale.config.epochs:  # scored once, then as here
            scratch["eval_every"] = whole
        found.append(
            Row(
                f"random_{bits}bit",
                f"{series}: random weights, {whole} epochs",
                scratch,
                random=True,
                series=series,
            )
        )
        for name, (label, changes) in _STEPS.items():
            if name == "plain" and scale.config.data.augment == NO_AUGMENTATION:
                continue  # nothing could be less
            if name == "running" and not tuned.get("recalibrate", scale.config.recalibrate):
                continue  # so are the others'
            options = {**tuned, **changes}
            if name == "approx" and bits == 2:  # defined for a sign
                label += ", stretched"
            if "ema_decay" in changes:  # averaged weights need statistics of their own
                options = {"recalibrate": scale.config.recalibrate or 20, **options}
            step = Row(f"{name}_{bits}bit", f"{series}: {label}", options, floating, series=series)
            found.append(step)
            if name == "start" and scale.config.data.cropped:
                found.append(scored_with_crops(step))
        found.append(
            Row(
                f"taught_{bits}bit",
                f"{series}: full precision is its teacher",
                tuned,
                start=floating,
                teacher=floating,
                series=series,
            )
        )
        best = dataclasses.replace(best_row(scale, bits), series=series)
        found.append(best)
        if scale.config.data.cropped:
            found.append(_whole(best) if bits == 1 else scored_with_crops(best))
    return found


def _whole(best: Row) -> Row:
    """The same with statistics of whole images, as two bits and all steps have them."""
    changes = {key: v for key, v in best.changes.items() if key not in STATISTICS_OF_CROPS}
    label = f"{best.label}, statistics of whole images"
    return dataclasses.replace(best, name=f"{best.name}_whole", label=label, changes=changes)


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw Dice of every row, each seed a dot, with full precision as a line.

    Args:
      results: of the study.
      path: PNG file.
    """
    found = figures.series(results)
    floating = found.pop("", {})
    groups = {series: found.get(series, {}) for series in _SERIES.values()}
    longest = max(len(group) for group in groups.values())
    made, panels = figures.figure(len(groups), height=1.6 + 0.33 * longest, width=5.4)
    panels[1].sharex(panels[0])
    for axes, (series, group) in zip(panels, groups.items(), strict=True):
        for place, row in enumerate(group.values()):
            values = figures.scores(row, "dice")
            axes.plot(values, [place] * len(values), "o", color=figures.COLOURS[0], alpha=0.6)
            axes.plot(np.mean(values), place, "|", color="black", markersize=14)
        for row, style in zip(floating.values(), ("-", "--"), strict=False):
            mean = float(np.mean(figures.scores(row, "dice")))
            axes.axvline(mean, color=figures.COLOURS[1], linestyle=style, label=row["label"])
        labels = [row["label"].partition(": ")[2] for row in group.values()]
        axes.set_yticks(range(len(group)), labels)
        axes.set_ylim(max(1, len(group)) - 0.5, -0.5)
        axes.set_title(series)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_xlabel("Dice; dots: seeds, bar: their mean")
    figures.save(made, results, path)


STUDY = Study(
    name="recipe",
    title="What closes the gap to full precision",
    rows=rows,
    draw=draw,
    remarks=(
        "Every step changes one thing of the row that only starts from full precision; random "
        "weights are trained for as many epochs as that row and full precision together.",
        "Starting means: its ReLUs become the nearest quantizers, its largest weights stay.",
        "The best starts from full precision and is trained for longer; so is the second row of "
        "full precision.",
        f"{STATISTICS_REMARK} The best of 1-bit activations has the latter.",
    ),
)


def main() -> None:
    """Parse the command line and carry the study out."""
    run_study(STUDY, command.parse(Options, {"default": Options()}))


if __name__ == "__main__":
    command.run(main)
