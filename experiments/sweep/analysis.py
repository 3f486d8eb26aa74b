"""From the scores of all networks to Shapley values, shares of zeros and the best trade-offs."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.study.figures import frontier
from experiments.sweep.costs import dense_cost, nonzero_cost_of, zero_shares
from experiments.sweep.options import Sweep
from experiments.sweep.plan import COST_ORDER, LAYERS, Mask, Series, cost_path, digits, number_of
from experiments.sweep.shapley import Interval, exact, gains, noise_interval, sampled
from mbu_jax.architecture import LAYER_NAMES

IMAGE_SIZE = 512, 512
"""Height and width of the image that operations are counted on, those of the paper's Figure 4."""

FEW = 4
"""The paper's Figure 3(c) leaves out networks of five masked layers and more."""

_SCORES = "dice", "iou"
_MEANS = (*_SCORES, "operations", "bitsliced_macs")
_FEWEST = 3  # orders: the interval of two, 12.7 standard errors either way, tells nothing


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
      ``bitsliced_macs`` are of one image of `IMAGE_SIZE`, ``zeros/<layer>`` shares.
    """
    zeros = zero_shares(member["zeros"], width)
    return {
        "series": series,
        "seed": seed,
        "masked": digits(mask),
        "masked_layers": sum(mask),
        **member["scores"],
        **{f"training_{name}": value for name, value in member["last_epoch"].items()},
        "operations": dense_cost(mask, width, IMAGE_SIZE),
        "bitsliced_macs": round(nonzero_cost_of(mask, member["zeros"], width, IMAGE_SIZE)),
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
      ``method``, ``unit`` (orders or seeds) and how many ``samples`` of it there are; by layer
      ``value``, 95 % ``half_width`` and the ``samples`` that they rest on, over all networks, and
      as ``few_value`` and so on over those of at most `FEW` masked layers. Half widths are None
      where too little is known of the spread. None for a subset, which values no layer.
    """
    orders = [series for series in sweep.series if series.order and series.name != COST_ORDER]
    if orders:
        unit = "orders"
        method = (
            "random orders of masking, each with a seed of its own; Student's t over orders, no "
            f"interval from fewer than {_FEWEST}"
        )
        samples = _gains_of(orders, rows, score)
        whole, few = (_of_orders(table) for table in samples)
    elif sweep.exhaustive:
        unit = "seeds"
        tables = [_table(series, rows, score) for series in sweep.series]
        samples = [
            np.array([exact(table, largest) for table in tables]) for largest in (LAYERS, FEW)
        ]
        if len(tables) > 1:
            method = "all configurations; Student's t over seeds"
            whole, few = (sampled(values) for values in samples)
        else:
            method = (
                "all configurations within one seed; noise estimated from what an additive game "
                "leaves, which does not hold what another seed would change"
            )
            whole, few = (noise_interval(tables[0], largest) for largest in (LAYERS, FEW))
    else:
        return None
    columns: dict[str, NDArray[Any]] = {}
    for prefix, interval, table in zip(("", "few_"), (whole, few), samples, strict=True):
        columns[f"{prefix}value"] = interval.value
        columns[f"{prefix}half_width"] = interval.half_width
        columns[f"{prefix}samples"] = np.sum(~np.isnan(table), axis=0)
    layers = {
        name: {column: _number(values[layer]) for column, values in columns.items()}
        for layer, name in enumerate(LAYER_NAMES)
    }
    if sweep.recipe.initial is not None:
        method += "; all from the same weights, whose choice it leaves out"
    return {
        "method": method,
        "unit": unit,
        "samples": len(samples[0]),
        "score": score,
        "layers": layers,
    }


def _gains_of(
    orders: Sequence[Series], rows: Sequence[Mapping[str, Any]], score: str
) -> list[NDArray[np.float64]]:
    """What layers add by order, [orders, layers]: all of them, and the first `FEW` of each."""
    whole, few = [], []
    for series in orders:
        assert series.order is not None, "only orders are given"
        path = sorted(_of(series, rows), key=lambda row: row["masked_layers"])
        added = gains(series.order, [row[score] for row in path])
        early = np.isin(np.arange(LAYERS), series.order[:FEW])
        whole.append(added)
        few.append(np.where(early, added, np.nan))
    return [np.array(whole), np.array(few)]


def _of_orders(samples: NDArray[np.float64]) -> Interval:
    value, half_width = sampled(samples)
    enough = np.sum(~np.isnan(samples), axis=0) >= _FEWEST
    return Interval(value, np.where(enough, half_width, np.nan))


def _table(series: Series, rows: Sequence[Mapping[str, Any]], score: str) -> NDArray[np.float64]:
    table = np.full(2**LAYERS, np.nan)
    for row in _of(series, rows):
        table[number_of(tuple(digit == "1" for digit in row["masked"]))] = row[score]
    assert not np.isnan(table).any(), "a series holds all configurations"
    return table


def _of(series: Series, rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["series"] == series.name)


def _number(value: np.generic) -> float | int | None:
    return None if math.isnan(value) else value.item()


def has_orders(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a sweep is one of orders, each of which has a seed of its own.

    Args:
      rows: of `network_row`, all of them.

    Returns:
      False for a subset, whose seeds have the same networks.
    """
    return any(row["series"] == COST_ORDER for row in rows)


def comparable(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """State scores so that networks of all series can be compared.

    A seed shifts all scores of its series. Orders hold different networks, so their scores are
    taken as differences to the two networks that each of them has: none and all masked.

    Args:
      rows: of `network_row`, all of them.

    Returns:
      The rows of a subset; those of orders with Dice and IoU less the mean of their series' ends.
    """
    if not has_orders(rows):
        return rows
    ends: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["masked_layers"] in (0, LAYERS):
            ends.setdefault(row["series"], []).append(row)
    levels = {
        series: {score: statistics.fmean(row[score] for row in pair) for score in _SCORES}
        for series, pair in ends.items()
    }
    return [
        {**row, **{score: row[score] - levels[row["series"]][score] for score in _SCORES}}
        for row in rows
    ]


def configurations(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bring together the networks that mask the same layers.

    Otherwise the best of many trainings of one configuration would be compared with the only one of
    another.

    Args:
      rows: of `network_row` or `comparable`.

    Returns:
      For each choice of layers ``masked`` and ``masked_layers``, how often it was ``trained``,
      means of scores and costs over its trainings, and its ``lowest`` and ``highest`` Dice.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["masked"], []).append(row)
    return [
        {
            "masked": masked,
            "masked_layers": masked.count("1"),
            "trained": len(group),
            **{name: statistics.fmean(row[name] for row in group) for name in _MEANS},
            "lowest": min(row["dice"] for row in group),
            "highest": max(row["dice"] for row in group),
        }
        for masked, group in groups.items()
    ]


def cost_ordered(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Find the networks that mask the cheapest layers first, by the paper's scores.

    Args:
      rows: of `network_row` or `comparable`, all of them.

    Returns:
      Thirteen of `configurations`, from binary to all masked; of orders those of the order of cost
      alone, since another order's networks have another seed.
    """
    own = [row for row in rows if row["series"] == COST_ORDER] if has_orders(rows) else rows
    named = {network["masked"]: network for network in configurations(own)}
    return [named[digits(mask)] for mask in cost_path(seed=0).masks]


def trade_offs(networks: Sequence[Mapping[str, Any]], cost: str) -> list[Mapping[str, Any]]:
    """Find the networks that no other beats in both cost and Dice.

    Args:
      networks: of `configurations`.
      cost: name of the cost.

    Returns:
      Networks by rising cost and Dice.

    Example:
      >>> networks = [{"ops": 2, "dice": 0.5}, {"ops": 1, "dice": 0.6}, {"ops": 3, "dice": 0.7}]
      >>> [network["ops"] for network in trade_offs(networks, "ops")]
      [1, 3]
    """
    placed = {(network[cost], network["dice"]): network for network in networks}
    return [placed[point] for point in frontier(list(placed))]


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
