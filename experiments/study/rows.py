"""The rows of a study: networks by name, as changes of the options that all runs share."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from experiments.study.scales import Scale
from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.train.config import TrainConfig

FULL_PRECISION = "full_precision"
TARGET_DENSITY = 0.1
STATISTICS_OF_CROPS = MappingProxyType({"recalibrate": 200, "recalibrate_varied": True})
STATISTICS_REMARK = (
    "BatchNorm's statistics are of all training images, whole; those of crops are of 200 batches, "
    "cropped and varied as in training."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One network, trained with several seeds.

    Attributes:
      name: as ``--rows`` takes it.
      label: as tables and figures show it.
      changes: options by dotted name, and their values.
      start: name of the row whose run of the same seed gives the initial weights; by default full
        precision where the scale starts from it.
      random: start from random weights at every scale.
      teacher: name of the row whose run of the same seed is distilled.
      paper: what the paper calls it, where it is in Table 1.
      series: which points of the figure belong together.
      x: where its point lies in the series, in what the figure shows from left to right.
    """

    name: str
    label: str
    changes: Mapping[str, Any]
    start: str | None = None
    random: bool = False
    teacher: str | None = None
    paper: str | None = None
    series: str = ""
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """What one command compares.

    Attributes:
      name: of the command and of its folder.
      title: of the table and the figure.
      rows: the rows at a scale, full precision first; each comes after the one it starts from.
      draw: draws the report's content, as read from JSON, into a PNG file.
      remarks: what a reader of the table must know.
    """

    name: str
    title: str
    rows: Callable[[Scale], Sequence[Row]]
    draw: Callable[[dict[str, Any], Path], None]
    remarks: tuple[str, ...] = ()


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """Change options of a run.

    Args:
      config: all options.
      changes: new values by dotted name.

    Returns:
      The changed options.

    Example:
      >>> changed(TrainConfig(), {"model.width": 8, "seed": 3}).model.width
      8
    """
    for name, value in changes.items():
        group, dot, option = name.partition(".")
        if dot:
            value = dataclasses.replace(getattr(config, group), **{option: value})
        config = dataclasses.replace(config, **{group: value})
    return config


def network(name: str, **options: Any) -> Mapping[str, Any]:
    """Name a network and options of its own as changes.

    Args:
      name: as ``--network`` takes it.
      **options: other fields of `ModelOptions`.

    Returns:
      The changes.

    Example:
      >>> dict(network("binary", activation_bits=2))
      {'model.network': 'binary', 'model.activation_bits': 2}
    """
    changes = {"network": name} | options
    return MappingProxyType({f"model.{option}": value for option, value in changes.items()})


def masked_row(count: int, cost: str = "paper") -> Row:
    """Mask the first layers of a priority list, as the paper's MBU-Net does.

    Args:
      count: how many.
      cost: whose list, as ``--masking-cost`` takes it.

    Returns:
      The row; with none or all layers it is the same for every list.
    """
    if count == 0:
        return BINARY
    if count == len(LAYER_NAMES):
        return ALL_MASKED
    changes = network("mbu", masked_layers=count)
    layers = f"{count} layer{'s' * (count > 1)} masked"
    if cost == "paper":
        paper = "MBU-Net" if count == 6 else None
        return Row(f"mbu{count}", f"MBU-Net, {layers}", changes, paper=paper)
    changes = MappingProxyType({**changes, "model.masking_cost": cost})
    return Row(f"{cost}{count}", f"{layers}, by what the zeros save", changes)


def full_precision_row(scale: Scale) -> Row:
    """The network that others start from, and the yardstick of every study.

    Args:
      scale: of the study.

    Returns:
      The row.
    """
    changes = {**network("full_precision"), **scale.float_options}
    return Row(FULL_PRECISION, "Full precision", changes, random=True, paper="Full Precision")


def further_row(scale: Scale) -> Row:
    """Full precision with the effort of the best.

    Args:
      scale: of the study.

    Returns:
      The row, which starts from full precision and is trained for as many epochs as `best_row`.
    """
    changes = {**scale.best, **full_precision_row(scale).changes}
    label = f"Full precision, {scale.best_epochs} epochs more"
    return Row(f"{FULL_PRECISION}_further", label, changes, start=FULL_PRECISION)


def best_row(scale: Scale, bits: int) -> Row:
    """The network that comes nearest to full precision.

    Args:
      scale: of the study.
      bits: of the activations.

    Returns:
      The row, which starts from full precision.
    """
    changes = {**scale.best, **network("all_masked", activation_bits=bits)}
    if bits == 1 and scale.config.data.cropped:
        changes |= STATISTICS_OF_CROPS
    label = f"{bits}-bit activations: best, {scale.best_epochs} epochs"
    return Row(f"best_{bits}bit", label, changes, start=FULL_PRECISION)


def scored_with_crops(row: Row) -> Row:
    """Score a row's networks with the batch statistics of crops.

    Args:
      row: which is scored with those of whole images.

    Returns:
      A row that starts from the first one's weights, and trains them no further.
    """
    assert not row.random
    name = f"{row.name}_crops"
    label = f"{row.label}, statistics of crops"
    changes = {**row.changes, **STATISTICS_OF_CROPS, "epochs": 0}
    return dataclasses.replace(
        row, name=name, label=label, changes=changes, start=row.name, paper=None
    )


def started(rows: Sequence[Row], scale: Scale) -> list[Row]:
    """Let rows start from what the scale says.

    Args:
      rows: of a study.
      scale: its size.

    Returns:
      The rows; their changes include those that the start brings.
    """
    if scale.start is None:
        return list(rows)
    return [
        row
        if row.random
        else dataclasses.replace(
            row, start=row.start or FULL_PRECISION, changes={**scale.start, **row.changes}
        )
        for row in rows
    ]


BINARY = Row("binary", "Binary", network("binary"), paper="Binary")
ALL_MASKED = Row("all_masked", "All masked", network("all_masked"))
KEPT = Row(
    "kept_10",
    "All masked, the largest 10 % kept",
    network("all_masked", ternarizer="density", density=TARGET_DENSITY),
)
TWN = Row("twn", "All masked, threshold of TWN", network("all_masked", ternarizer="twn"))
