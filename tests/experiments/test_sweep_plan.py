"""Which networks a sweep trains, what they cost, and what their scores amount to; no training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments.sweep.analysis import (
    configurations,
    cost_ordered,
    network_row,
    shapley_values,
    trade_offs,
)
from experiments.sweep.costs import quantized_convolutions
from experiments.sweep.options import Sweep, SweepOptions, chosen_sweep, members_in_memory
from experiments.sweep.plan import (
    Mask,
    chunks,
    cost_path,
    digits,
    mask_of,
    number_of,
    permutation_series,
    subset_series,
)
from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.masking import mask_cheapest, nonzero_macs
from tests.experiments.stored_sweep import WORTH


def scored_rows(sweep: Sweep, value: Callable[[Mask, int], float]) -> list[dict[str, Any]]:
    """Rows of networks whose Dice is a function of the mask and the series' seed."""
    return [
        {
            "series": series.name,
            "masked": digits(mask),
            "masked_layers": sum(mask),
            "dice": value(mask, series.seed),
            "iou": value(mask, series.seed) / 2,
            "operations": 100 + sum(mask),
            "bitsliced_macs": 100 - sum(mask) + series.seed,
        }
        for series in sweep.series
        for mask in series.masks
    ]


def values_of(sweep: Sweep, rows: list[dict[str, Any]]) -> dict[str, Any]:
    values = shapley_values(sweep, rows)
    assert values is not None
    return values


def test_orders_mask_one_layer_more_each_time():
    series = permutation_series(3, seed=5)
    assert [one.seed for one in series] == [5, 6, 7, 8]
    assert len({one.order for one in series}) == 4
    for one in series:
        assert one.order is not None
        assert sorted(one.order) == list(range(12))
        for count, mask in enumerate(one.masks):
            assert {i for i, masked in enumerate(mask) if masked} == set(one.order[:count])
    assert permutation_series(3, seed=5) == series
    assert permutation_series(3, seed=6)[1].order != series[1].order


def test_the_first_series_masks_the_cheapest_layers():
    masks = cost_path(seed=0).masks
    for count, mask in enumerate(masks):
        masked = {name for name, m in zip(LAYER_NAMES, mask, strict=True) if m}
        assert masked == set(mask_cheapest(unet_layers(), count))


@pytest.mark.parametrize("members", [13, 14, 200, 4096])
def test_a_subset_holds_the_cheapest_and_no_network_twice(members):
    first, second = subset_series(members, seed=3, seeds=2)
    assert (first.seed, second.seed) == (3, 4)
    assert first.masks == second.masks
    assert len(set(first.masks)) == len(first.masks) == members
    assert first.masks[:13] == cost_path(seed=0).masks
    assert all(mask_of(number_of(mask)) == mask for mask in first.masks)


def test_chunks_have_one_seed_and_hold_every_network_once():
    series = permutation_series(2, seed=0)
    for size in (1, 6, 13, 100):
        found = chunks(series, size)
        assert [chunk.index for chunk in found] == list(range(len(found)))
        assert max(len(chunk.masks) for chunk in found) <= size
        for one in series:
            own = [chunk for chunk in found if chunk.series == one.name]
            assert sum((chunk.masks for chunk in own), ()) == one.masks
            assert {chunk.seed for chunk in own} == {one.seed}
            sizes = [len(chunk.masks) for chunk in own]
            assert max(sizes) - min(sizes) <= 1


def test_values_from_orders_are_those_of_an_additive_game():
    sweep = chosen_sweep(SweepOptions(scale="smoke", permutations=3))
    rows = scored_rows(sweep, lambda mask, seed: 0.1 * seed + WORTH[list(mask)].sum())
    found = values_of(sweep, rows)
    assert found["samples"] == 3
    for name, worth in zip(LAYER_NAMES, WORTH, strict=True):
        layer = found["layers"][name]
        assert layer["value"] == pytest.approx(worth)
        assert layer["half_width"] == pytest.approx(0, abs=1e-12)
        assert layer["samples"] == 3


def test_values_of_few_masked_layers_tell_what_they_rest_on():
    """An order tells of the four layers that it masks first, and two of no spread."""
    sweep = chosen_sweep(SweepOptions(scale="smoke", permutations=8))
    rows = scored_rows(sweep, lambda mask, seed: 0.1 * seed + WORTH[list(mask)].sum())
    orders = [series.order for series in sweep.series[1:]]
    seen = set()
    for layer, (name, worth) in enumerate(zip(LAYER_NAMES, WORTH, strict=True)):
        found = values_of(sweep, rows)["layers"][name]
        known = sum(layer in order[:4] for order in orders if order)
        seen.add(known)
        assert found["few_samples"] == known
        assert found["few_value"] == (pytest.approx(worth) if known else None)
        assert found["few_half_width"] == (pytest.approx(0, abs=1e-12) if known >= 3 else None)
    assert seen >= {1, 2, 3}


@pytest.mark.parametrize("permutations", [1, 2])
def test_few_orders_give_no_interval(permutations):
    sweep = chosen_sweep(SweepOptions(scale="smoke", permutations=permutations))
    found = values_of(sweep, scored_rows(sweep, lambda mask, _: sum(mask) / 24))
    for layer in found["layers"].values():
        assert layer["samples"] == permutations
        assert layer["value"] is not None
        assert layer["half_width"] is layer["few_half_width"] is None
    early = {layer for series in sweep.series[1:] for layer in (series.order or ())[:4]}
    told = [layer["few_value"] is not None for layer in found["layers"].values()]
    assert told == [layer in early for layer in range(12)]


@pytest.mark.parametrize("seeds", [1, 2])
def test_values_from_all_networks_are_exact_and_carry_the_noise(seeds):
    sweep = chosen_sweep(SweepOptions(scale="smoke", members=4096, seeds=seeds))
    noise = np.random.default_rng(0).normal(0, 0.01, (seeds, 4096))
    rows = scored_rows(
        sweep, lambda mask, seed: WORTH[list(mask)].sum() + noise[seed, number_of(mask)]
    )
    values = values_of(sweep, rows)
    assert ("within one seed" in values["method"]) == (seeds == 1)
    assert (values["unit"], values["samples"]) == ("seeds", seeds)
    found = values["layers"]
    assert all(layer["samples"] == layer["few_samples"] == seeds for layer in found.values())
    errors = [found[name]["value"] - worth for name, worth in zip(LAYER_NAMES, WORTH, strict=True)]
    widths = [layer["half_width"] for layer in found.values()]
    assert (np.abs(errors) > 0).all()
    assert (np.abs(errors) < 2 * np.array(widths)).all()
    assert np.mean(widths) < 0.03


def test_a_part_of_all_networks_has_no_values():
    sweep = chosen_sweep(SweepOptions(scale="smoke", members=20))
    rows = scored_rows(sweep, lambda mask, _: sum(mask) / 24)
    assert shapley_values(sweep, rows) is None
    ordered = cost_ordered(rows)
    assert [row["masked_layers"] for row in ordered] == list(range(13))
    assert ordered[2]["masked"] == "000000001010"  # up_ct3 and up_ct4


def test_costs_are_those_of_the_layers():
    """At 512x512: dense products by hand from Table A.4's shapes, non-zeros as `summary` plans."""
    convs = quantized_convolutions(4)
    assert len(convs) == 21
    half = {name: conv.weights // 2 for name, (_, conv) in convs.items()}
    member = {"scores": {}, "last_epoch": {}, "zeros": half}
    none, everything = (
        network_row("s", 0, mask, member, width=4) for mask in (mask_of(0), mask_of(4095))
    )
    stem = 2 * 2 * 9 * 4 * 4 * 512**2
    assert everything["operations"] - stem == 2 * (none["operations"] - stem)
    only = network_row("s", 0, mask_of(1 << LAYER_NAMES.index("up_ct4")), member, width=4)
    assert only["operations"] - none["operations"] == 512**2 * 4 * 4
    assert everything["zeros/up_c4"] == 0.5

    layers = unet_layers(4)
    for row, precision in ((none, "binary"), (everything, "masked")):
        planned = nonzero_macs(layers, dict.fromkeys(LAYER_NAMES, precision), density=0.5)
        assert row["bitsliced_macs"] == pytest.approx(sum(planned.values()))


def test_networks_of_the_same_layers_are_brought_together():
    sweep = chosen_sweep(SweepOptions(scale="smoke", members=20, seeds=3))
    found = configurations(scored_rows(sweep, lambda mask, seed: (sum(mask) + seed) / 24))
    assert {one["masked"] for one in found} == {digits(mask) for mask in sweep.series[0].masks}
    assert len(found) == 20
    for one in found:
        count = one["masked_layers"]
        assert one["masked"].count("1") == count
        assert one["trained"] == 3
        assert one["dice"] == pytest.approx((count + 1) / 24)
        assert one["iou"] == pytest.approx((count + 1) / 48)
        assert (one["lowest"], one["highest"]) == (count / 24, (count + 2) / 24)
        assert (one["operations"], one["bitsliced_macs"]) == (100 + count, 101 - count)


def test_a_lucky_seed_is_no_trade_off():
    """Every order trains both ends; one lucky training of the binary network beats nothing."""
    sweep = chosen_sweep(SweepOptions(scale="smoke", permutations=8))
    rows = scored_rows(
        sweep, lambda mask, seed: 0.5 + sum(mask) / 100 + 0.3 * (seed == 5) * (not any(mask))
    )
    networks = configurations(rows)
    assert max(rows, key=lambda row: row["dice"])["masked_layers"] == 0
    ends = {one["masked_layers"]: one for one in networks if one["masked_layers"] in (0, 12)}
    assert ends[0]["trained"] == ends[12]["trained"] == 9
    assert ends[0]["dice"] == pytest.approx(0.5 + 0.3 / 9)
    # It stays, being the cheapest, and nothing of fewer masked layers than four is better.
    best = trade_offs(networks, "operations")
    assert [one["masked_layers"] for one in best] == [0, *range(4, 13)]


def test_the_trade_offs_are_beaten_by_none():
    rng = np.random.default_rng(0)
    networks = [{"cost": int(c), "dice": float(d)} for c, d in rng.integers(0, 12, (60, 2))]
    points = {(one["cost"], one["dice"]) for one in networks}
    best = {
        (cost, dice)
        for cost, dice in points
        if not any(c <= cost and d >= dice and (c, d) != (cost, dice) for c, d in points)
    }
    found = trade_offs(networks, "cost")
    assert [(one["cost"], one["dice"]) for one in found] == sorted(best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"permutations": 2, "members": 20}, "choose one"),
        ({"permutations": 0}, "permutations is 0"),
        ({"members": 12}, "13 to 4096"),
        ({"members": 4097}, "13 to 4096"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"process_index": 2, "process_count": 2}, "process 2 of 2"),
        ({"process_count": 0}, "process_count is 0"),
        ({"chunk_members": 0}, "chunk_members is 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        SweepOptions(**options)


@pytest.mark.parametrize("options", [{"scale": "small"}, {"scale": "paper", "permutations": 3}])
def test_seeds_of_orders_are_refused(options):
    with pytest.raises(InputError, match="seeds goes with members"):
        chosen_sweep(SweepOptions(seeds=2, **options))


def test_memory_sets_the_size_of_chunks():
    assert members_in_memory(3 * 2**30, free_bytes=80 * 2**30, devices=4) == 4 * 21
    with pytest.raises(InputError, match="smaller scale"):
        members_in_memory(80 * 2**30, free_bytes=80 * 2**30, devices=1)
