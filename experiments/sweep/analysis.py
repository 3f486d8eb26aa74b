"""From the scores of all networks to Shapley values, shares of zeros and the best trade-offs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.sweep.costs import dense_cost, nonzero_cost_of, zero_shares
from experiments.sweep.options import Sweep
from experiments.sweep.plan import COST_ORDER, LAYERS, Mask, Series, number_of
from experiments.sweep.shapley import Interval, exact, gains, noise_interval, sampled
from mbu_jax.architecture import LAYER_NAMES

IMAGE_SIZE = 512, 512
"""Height and width of the image that operations are counted on, those of the paper's Figure 4."""

FEW = 4
"""The paper's Figure 3(c) leaves out networks of five masked layers and more."""


def network_row(
    series: str, seed: int, mask: Mask, member: Mapping[str, Any], width: int
) -> dict[str, Any]:
    """State a network's scores and costs.

    Args:
      series: that it belongs to.
      seed: of its training.
      mask: its masked layers.
      member: what training has left of it.
      width: c.

    Returns:
      A flat line of ``results.csv``: ``masked`` is a digit a layer, ``operations`` and
      ``nonzero_macs`` are of one image of `IMAGE_SIZE`, ``zeros/<layer>`` shares.
    """
    zeros = zero_shares(member["zeros"], width)
    return {
        "series": series,
        "seed": seed,
        "masked": "".join("1" if m else "0" for m in mask),
        "masked_layers": sum(mask),
        **member["scores"],
        **{f"training_{name}": value for name, value in member["last_epoch"].items()},
        "operations": dense_cost(mask, width, IMAGE_SIZE),
        "nonzero_macs": round(nonzero_cost_of(mask, member["zeros"], width, IMAGE_SIZE)),
        **{f"zeros/{layer}": share for layer, share in zeros.items()},
    }


def shapley_values(
    sweep: Sweep, rows: Sequence[Mapping[str, Any]], score: str = "dice"
) -> dict[str, Any] | None:
    """Value the masking of every layer.

    Args:
      sweep: what was trained.
      rows: of `network_row`, all of them.
      score: what a network is worth.

    Returns:
      ``method``, ``samples``, and by layer ``value`` and 95 % ``half_width`` over all networks,
      ``few_value`` and ``few_half_width`` over those of at most `FEW` masked layers; half widths
      are None where nothing is known of the spread. None for a subset, which values no layer.
    """
    orders = [series for series in sweep.series if series.order and series.name != COST_ORDER]
    if orders:
        method = "random orders of masking, each with a seed of its own; Student's t over orders"
        samples = len(orders)
        whole, few = _from_orders(orders, rows, score)
    elif sweep.exhaustive:
        samples = len(sweep.series)
        tables = [_table(series, rows, score) for series in sweep.series]
        method = "all configurations; Student's t over seeds"
        whole, few = (
            sampled([exact(table, largest) for table in tables]) for largest in (LAYERS, FEW)
        )
        if samples == 1:
            method = "all configurations; noise estimated from what an additive game leaves"
            whole, few = (noise_interval(tables[0], largest) for largest in (LAYERS, FEW))
    else:
        return None
    columns = {
        "value": whole.value,
        "half_width": whole.half_width,
        "few_value": few.value,
        "few_half_width": few.half_width,
    }
    layers = {
        name: {column: _number(values[layer]) for column, values in columns.items()}
        for layer, name in enumerate(LAYER_NAMES)
    }
    return {"method": method, "samples": samples, "score": score, "layers": layers}


def _from_orders(
    orders: Sequence[Series], rows: Sequence[Mapping[str, Any]], score: str
) -> tuple[Interval, Interval]:
    whole, few = [], []
    for series in orders:
        assert series.order is not None, "only orders are given"
        path = sorted(_of(series, rows), key=lambda row: row["masked_layers"])
        added = gains(series.order, [row[score] for row in path])
        early = np.isin(np.arange(LAYERS), series.order[:FEW])
        whole.append(added)
        few.append(np.where(early, added, np.nan))
    return sampled(whole), sampled(few)


def _table(series: Series, rows: Sequence[Mapping[str, Any]], score: str) -> NDArray[np.float64]:
    table = np.full(2**LAYERS, np.nan)
    for row in _of(series, rows):
        table[number_of(tuple(digit == "1" for digit in row["masked"]))] = row[score]
    assert not np.isnan(table).any(), "a series holds all configurations"
    return table


def _of(series: Series, rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["series"] == series.name)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def cost_ordered(sweep: Sweep, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Find the networks that mask the cheapest layers first, by the paper's scores.

    Args:
      sweep: what was trained.
      rows: of `network_row`.

    Returns:
      Thirteen rows, from binary to all masked.
    """
    first = sweep.series[0]  # begins with them, whatever the sweep
    own = {row["masked"]: row for row in _of(first, rows)}
    masks = ("".join("1" if m else "0" for m in mask) for mask in first.masks[: LAYERS + 1])
    return [own[mask] for mask in masks]


def trade_offs(
    rows: Sequence[Mapping[str, Any]], cost: str, score: str = "dice"
) -> list[Mapping[str, Any]]:
    """Find the networks that no other beats in both cost and score.

    Args:
      rows: of `network_row`.
      cost: name of the cost.
      score: name of the score.

    Returns:
      Rows by rising cost and score.

    Example:
      >>> rows = [{"ops": 2, "dice": 0.5}, {"ops": 1, "dice": 0.6}, {"ops": 3, "dice": 0.7}]
      >>> [row["ops"] for row in trade_offs(rows, "ops")]
      [1, 3]
    """
    kept: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row[score])):
        if not kept or row[score] > kept[-1][score]:
            kept.append(row)
    return kept


def zeros_of_masked_layers(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Collect how many weights are zero where a layer is masked.

    Args:
      rows: of `network_row`.

    Returns:
      By layer, the share in every network that masks it; some networks mask each.
    """
    found = {}
    for layer, name in enumerate(LAYER_NAMES):
        shares = [row[f"zeros/{name}"] for row in rows if row["masked"][layer] == "1"]
        found[name] = np.array(shares)
    return found
