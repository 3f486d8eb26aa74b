"""The cost-aware strategy against the paper's printed table, and its properties."""

import itertools
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbu_jax.architecture import LAYER_NAMES, ConvShape, LayerShape, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.masking import (
    cost_ranking,
    cost_scores,
    mask_cheapest,
    mask_within_budget,
    nonzero_cost,
    nonzero_macs,
    second_product_macs,
)

# Table A.4 as printed, in rank order.
TABLE_A4 = {
    "up_ct4": "0.011",
    "up_ct3": "0.016",
    "up_ct2": "0.037",
    "up_ct1": "0.120",
    "up_c3": "0.228",
    "down_c1": "0.273",
    "up_c2": "0.286",
    "down_c2": "0.406",
    "up_c4": "0.512",
    "up_c1": "0.521",
    "down_c4": "0.583",
    "down_c3": "0.625",
}

LAYERS = unet_layers(width=64)

weights = st.floats(0, 1)
# Zero, or large enough that scaling by a power of two stays exact.
cost = st.just(0.0) | st.floats(1e-6, 1e12)
costs = st.fixed_dictionaries(dict.fromkeys(LAYER_NAMES, cost))


def test_reproduces_table_a4() -> None:
    printed = {name: f"{score:.3f}" for name, score in cost_scores(LAYERS).items()}
    # The table's Down-C2 has exactly 144 c^2 parameters more than any layer of its shape.
    assert printed.pop("down_c2") == "0.344"
    assert printed == {name: score for name, score in TABLE_A4.items() if name != "down_c2"}


def test_down_c2_of_table_a4_counts_144_c2_parameters_too_many() -> None:
    c = 64
    largest = max(layer.weights for layer in LAYERS)
    assert f"{cost_scores(LAYERS)['down_c2'] + 0.5 * 144 * c**2 / largest:.3f}" == "0.406"


def test_reproduces_the_ranking_of_table_a4() -> None:
    assert cost_ranking(LAYERS) == tuple(TABLE_A4)


def test_the_default_weights_and_image_are_those_of_the_table() -> None:
    explicit = cost_scores(LAYERS, w_op=0.5, w_param=0.5, height=512, width=512)
    assert cost_scores(LAYERS) == explicit


def test_one_sided_weights_by_hand() -> None:
    c = 64
    by_operations = cost_scores(LAYERS, w_op=1, w_param=0)
    # Down-C3 at 1/8 size against Up-C4 at full size, two operations a product in both.
    down_c3 = 9 * (4 * 8 + 8 * 8) * c**2 / 64
    up_c4 = 9 * (2 * 1 + 1 * 1) * c**2
    assert by_operations["up_c4"] == 1
    assert by_operations["down_c3"] == pytest.approx(down_c3 / up_c4, rel=1e-12)
    # A transposed convolution counts one operation a product.
    assert by_operations["up_ct4"] == pytest.approx(c**2 / (2 * up_c4), rel=1e-12)
    by_parameters = cost_scores(LAYERS, w_op=0, w_param=1)
    assert by_parameters["up_ct4"] == pytest.approx(4 * c**2 / (9 * (64 + 64) * c**2), rel=1e-12)
    assert by_parameters["down_c4"] == 1


@given(w_op=weights)
def test_scores_lie_between_0_and_1(w_op: float) -> None:
    scores = cost_scores(LAYERS, w_op=w_op, w_param=1 - w_op)
    assert tuple(scores) == LAYER_NAMES
    assert all(0 <= score <= 1 + 1e-12 for score in scores.values())


@given(w_op=weights)
def test_scores_are_linear_in_the_weights(w_op: float) -> None:
    mixed = cost_scores(LAYERS, w_op=w_op, w_param=1 - w_op)
    ops = cost_scores(LAYERS, w_op=1, w_param=0)
    params = cost_scores(LAYERS, w_op=0, w_param=1)
    for name in LAYER_NAMES:
        assert mixed[name] == pytest.approx(w_op * ops[name] + (1 - w_op) * params[name])


@given(
    width=st.integers(1, 200),
    in_channels=st.integers(1, 300),
    classes=st.integers(1, 300),
    height=st.integers(1, 4096),
    image_width=st.integers(1, 4096),
)
def test_scores_do_not_depend_on_any_size(
    width: int, in_channels: int, classes: int, height: int, image_width: int
) -> None:
    scaled = unet_layers(width, in_channels, classes)
    expected = cost_scores(LAYERS)
    scores = cost_scores(scaled, height=height, width=image_width)
    assert scores == pytest.approx(expected, rel=1e-12)
    assert cost_ranking(scaled) == cost_ranking(LAYERS)


@given(costs=costs, factor=st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**30]))
def test_ranking_does_not_depend_on_the_unit_of_cost(
    costs: dict[str, float], factor: float
) -> None:
    scaled = {name: factor * value for name, value in costs.items()}
    assert cost_ranking(LAYERS, cost=lambda _: costs) == cost_ranking(LAYERS, cost=lambda _: scaled)


@given(costs=costs)
def test_ranking_is_a_stable_order_of_all_layers(costs: dict[str, float]) -> None:
    ranking = cost_ranking(LAYERS, cost=lambda _: costs)
    assert sorted(ranking) == sorted(LAYER_NAMES)
    for earlier, later in itertools.pairwise(ranking):
        key = (costs[earlier], LAYER_NAMES.index(earlier))
        assert key < (costs[later], LAYER_NAMES.index(later))


@given(costs=costs, k=st.integers(0, 12))
def test_the_k_cheapest_cost_least_and_start_the_ranking(costs: dict[str, float], k: int) -> None:
    chosen = mask_cheapest(LAYERS, k, cost=lambda _: costs)
    assert chosen == cost_ranking(LAYERS, cost=lambda _: costs)[:k]
    assert sorted(costs[name] for name in chosen) == sorted(costs.values())[:k]


@given(costs=costs, budget=st.floats(0, 2e13))
def test_a_budget_is_kept_and_used(costs: dict[str, float], budget: float) -> None:
    chosen = mask_within_budget(LAYERS, budget, cost=lambda _: costs)
    ranking = cost_ranking(LAYERS, cost=lambda _: costs)
    assert chosen == ranking[: len(chosen)]
    assert math.fsum(costs[name] for name in chosen) <= budget
    if len(chosen) < 12:
        assert math.fsum(costs[name] for name in ranking[: len(chosen) + 1]) > budget


@given(
    costs=st.fixed_dictionaries(dict.fromkeys(LAYER_NAMES, st.integers(-20, 20))),
    budget=st.integers(-250, 250),
)
def test_as_many_layers_as_any_start_of_the_ranking_pays_for(
    costs: dict[str, int], budget: int
) -> None:
    def cost(_: object) -> dict[str, int]:
        return costs

    ranking = cost_ranking(LAYERS, cost=cost)
    starts = [ranking[:k] for k in range(13)]
    kept = [start for start in starts if sum(costs[name] for name in start) <= budget]
    if kept:
        assert mask_within_budget(LAYERS, budget, cost=cost) == max(kept, key=len)
    else:
        least = sum(value for value in costs.values() if value < 0)
        assert least > budget
        with pytest.raises(InputError, match=f"budget is {budget}; .* at least {least}$"):
            mask_within_budget(LAYERS, budget, cost=cost)


@given(costs=costs, budgets=st.tuples(st.floats(0, 2e13), st.floats(0, 2e13)))
def test_a_larger_budget_keeps_every_layer_of_a_smaller_one(
    costs: dict[str, float], budgets: tuple[float, float]
) -> None:
    small, large = (
        mask_within_budget(LAYERS, budget, cost=lambda _: costs) for budget in sorted(budgets)
    )
    assert large[: len(small)] == small


def test_budgets_on_the_edge() -> None:
    scores = cost_scores(LAYERS)
    first_five = math.fsum(scores[name] for name in tuple(TABLE_A4)[:5])
    assert mask_within_budget(LAYERS, first_five) == tuple(TABLE_A4)[:5]
    assert mask_within_budget(LAYERS, math.nextafter(first_five, 0)) == tuple(TABLE_A4)[:4]
    assert mask_within_budget(LAYERS, 0) == ()
    assert mask_within_budget(LAYERS, math.inf) == tuple(TABLE_A4)


def test_a_budget_in_products_that_masking_adds() -> None:
    # Each transposed convolution has c^2 products a pixel of the full image.
    at_256 = partial(second_product_macs, height=256, width=256)
    each = 256 * 256 * 64**2
    assert mask_within_budget(LAYERS, 2 * each, cost=at_256) == ("up_ct1", "up_ct2")
    assert mask_within_budget(LAYERS, 2 * each - 1, cost=at_256) == ("up_ct1",)
    assert sum(at_256(LAYERS).values()) == sum(
        layer.macs(256, 256) for layer in LAYERS if layer.configurable
    )


def test_a_layer_that_masking_makes_faster_is_masked_first() -> None:
    costs = {name: float(i) for i, name in enumerate(LAYER_NAMES)} | {"up_c4": -3.0}
    assert mask_within_budget(LAYERS, 0, cost=lambda _: costs) == (
        "up_c4",
        "down_c1",
        "down_c2",
        "down_c3",
    )


ALL_BINARY = dict.fromkeys(LAYER_NAMES, "binary")
shares = st.floats(0, 1)


def visited_by_hand(conv: ConvShape, precision: str, density: float, size: int) -> float:
    """Planes added for one image of size x size, output after output."""
    side = size // conv.scale
    if conv.transposed:  # four outputs of each channel from every input position
        side, outputs, inputs = side // 2, 4 * conv.out_channels, conv.in_channels
    else:
        outputs, inputs = conv.out_channels, 9 * conv.in_channels
    if precision == "binary":
        return side * side * (outputs * inputs / 2 + inputs)
    return side * side * outputs * inputs * density


@given(
    choice=st.fixed_dictionaries(
        dict.fromkeys(LAYER_NAMES, st.sampled_from(["binary", "masked", "pow2"]))
    ),
    density=st.fixed_dictionaries(dict.fromkeys(("stem", *LAYER_NAMES), shares)),
    bits=st.sampled_from([1, 2]),
    width=st.sampled_from([1, 8, 64]),
    size=st.sampled_from([16, 160]),
)
def test_work_of_the_bitsliced_engine_by_hand(
    choice: dict[str, str], density: dict[str, float], bits: int, width: int, size: int
) -> None:
    layers = unet_layers(width)
    planned = nonzero_macs(
        layers, choice, density=density, activation_bits=bits, height=size, width=size
    )
    assert tuple(planned) == ("stem", *LAYER_NAMES)
    for layer in layers[1:-1]:
        by_hand = sum(
            visited_by_hand(conv, choice[layer.name], density[layer.name], size)
            for conv in layer.convs
        )
        assert planned[layer.name] == pytest.approx(bits * by_hand, rel=1e-12)
    assert planned["stem"] == pytest.approx(bits * density["stem"] * size**2 * 9 * width**2)


@given(masked=st.sets(st.sampled_from(LAYER_NAMES)), density=shares, bits=st.sampled_from([1, 2]))
def test_costs_of_masking_lead_from_the_binary_network_to_any_other(
    masked: set[str], density: float, bits: int
) -> None:
    plan = {"density": density, "activation_bits": bits}
    chosen = {name: "masked" if name in masked else "binary" for name in LAYER_NAMES}
    costs = nonzero_cost(LAYERS, **plan)
    assert tuple(costs) == LAYER_NAMES
    before = sum(nonzero_macs(LAYERS, ALL_BINARY, **plan).values())
    after = sum(nonzero_macs(LAYERS, chosen, **plan).values())
    assert after == pytest.approx(before + sum(costs[name] for name in masked), rel=1e-9)


def test_masking_saves_below_one_half_and_saves_most_where_most_is_done() -> None:
    # With 64 outputs or more the shared sum of a binary layer is 1/64 of its work at most.
    assert all(value < 0 for value in nonzero_cost(LAYERS, density=0.5).values())
    assert all(value > 0 for value in nonzero_cost(LAYERS, density=0.516).values())
    ranking = cost_ranking(LAYERS, cost=nonzero_cost)
    assert ranking[0] == cost_ranking(LAYERS)[8] == "up_c4"
    assert set(ranking[-4:]) == {"up_ct1", "up_ct2", "up_ct3", "up_ct4"}
    # Where masking makes layers dearer, the order is that of the paper's device again.
    dear = partial(nonzero_cost, density=1.0)
    assert set(mask_cheapest(LAYERS, 4, cost=dear)) == set(ranking[-4:])
    assert cost_ranking(LAYERS, cost=dear)[-1] == "up_c4"


def test_a_gain_pays_for_layers_that_masking_makes_dearer() -> None:
    # As measured after training, say: one layer is dense, the others are not.
    density = dict.fromkeys(LAYER_NAMES, 0.1) | {"up_c1": 0.9}
    cost = partial(nonzero_cost, density=density)
    costs = cost(LAYERS)
    assert cost_ranking(LAYERS, cost=cost)[-1] == "up_c1"
    gain = sum(value for value in costs.values() if value < 0)
    assert len(mask_within_budget(LAYERS, 0, cost=cost)) == 12
    assert len(mask_within_budget(LAYERS, gain, cost=cost)) == 11
    assert len(mask_within_budget(LAYERS, gain + costs["up_c1"] * 0.99, cost=cost)) == 11
    with pytest.raises(InputError, match=r"masking budget is -6e.10; give a number of at least"):
        mask_within_budget(LAYERS, -6e10, cost=cost)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"precisions": {}}, "down_c1 has precision None; .* binary, masked and pow2"),
        ({"precisions": ALL_BINARY | {"up_c1": "int8"}}, "up_c1 has precision 'int8'"),
        ({"density": 1.1}, "density of stem is 1.1; give a share"),
        ({"density": math.nan}, "density of stem is nan"),
        ({"density": {"stem": 0.5}}, "density of down_c2 is nan"),
    ],
)
def test_rejects_what_the_bitsliced_engine_cannot_plan(other: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"precisions": ALL_BINARY | {"down_c2": "masked"}} | other
    with pytest.raises(InputError, match=message):
        nonzero_macs(LAYERS, **arguments)


def test_the_readme_shows_what_each_cost_model_masks() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert [int(k) for k, *_ in rows] == [0, 1, 3, 6, 12]
    for k, *printed in rows:
        for cost, figure in zip((cost_scores, nonzero_cost), printed, strict=True):
            masked = mask_cheapest(LAYERS, int(k), cost=cost)
            planned = nonzero_macs(LAYERS, ALL_BINARY | dict.fromkeys(masked, "masked"))
            assert f"{sum(planned.values()) / 1e9:.1f}" == figure


def test_operations_may_be_counted_by_non_zero_weights() -> None:
    density = dict.fromkeys(LAYER_NAMES, 0.05) | {"up_ct4": 1.0}

    def non_zeros(layer: LayerShape, height: int, width: int) -> float:
        return density[layer.name] * layer.macs(height, width)

    cost = partial(cost_scores, w_op=1, w_param=0, operations=non_zeros)
    ranking = cost_ranking(LAYERS, cost=cost)
    # 1.0 * c^2 products a pixel exceed 0.05 * 18 c^2 (Down-C2) and fall short of 0.05 * 27 c^2.
    assert ranking.index("up_ct4") > ranking.index("down_c2")
    assert ranking[-1] == "up_c4"
    assert mask_cheapest(LAYERS, 12, cost=cost) == ranking


def test_a_network_without_operations_costs_its_parameters() -> None:
    scores = cost_scores(LAYERS, operations=lambda *_: 0)
    assert scores == {
        name: 0.5 * score for name, score in cost_scores(LAYERS, w_op=0, w_param=1).items()
    }


@pytest.mark.parametrize(
    ("w_op", "w_param"), [(0.5, 0.4), (1.5, -0.5), (-0.1, 1.1), (math.nan, 0.5), (1, 1)]
)
def test_rejects_weights_that_do_not_add_up(w_op: float, w_param: float) -> None:
    message = re.escape(f"w_op {w_op} and w_param {w_param}:") + ".*sum must be 1"
    with pytest.raises(InputError, match=message):
        cost_scores(LAYERS, w_op=w_op, w_param=w_param)


@pytest.mark.parametrize("k", [-1, 13])
def test_rejects_impossible_numbers_of_layers(k: int) -> None:
    with pytest.raises(InputError, match=f"cannot mask {k} layers; .* 0 to 12"):
        mask_cheapest(LAYERS, k)


@pytest.mark.parametrize("budget", [-0.1, math.nan, -math.inf])
def test_rejects_impossible_budgets(budget: float) -> None:
    with pytest.raises(InputError, match="masking budget is"):
        mask_within_budget(LAYERS, budget)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rejects_costs_that_have_no_order(value: float) -> None:
    costs = dict.fromkeys(LAYER_NAMES, 0.0) | {"up_c2": value}
    with pytest.raises(InputError, match="gives layer up_c2 the cost"):
        cost_ranking(LAYERS, cost=lambda _: costs)


def test_rejects_a_cost_model_that_forgets_a_layer() -> None:
    costs = dict.fromkeys(LAYER_NAMES[1:], 0.0)
    with pytest.raises(InputError, match="gives layer down_c1 the cost nan"):
        cost_ranking(LAYERS, cost=lambda _: costs)
