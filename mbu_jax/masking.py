"""Cost-aware masking: which layers get a zero state, cheapest first.

The strategy sees descriptions of layers (``mbu_jax.architecture``), never modules. A cost model is
any function from descriptions to one number a layer, so that ranking and selection serve a device
where masking costs a second product (``cost_scores``, ``second_product_macs``) as well as one where
its zeros are skipped and masking saves (``nonzero_cost``).

Source: the paper's section 3.1.2 and Appendix A.5.1.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from mbu_jax.architecture import ConvShape, LayerShape
from mbu_jax.errors import InputError

type OperationCount = Callable[[LayerShape, int, int], float]
"""Operations of a layer on one image of the given height and width."""

type CostModel = Callable[[Sequence[LayerShape]], Mapping[str, float]]
"""Cost of masking each configurable layer, by name, in any unit."""


def dense_operations(layer: LayerShape, height: int, width: int) -> int:
    """Count operations as the paper's Figure 4 does, additions and multiplications apart.

    Args:
      layer: the layer.
      height: H of the image in pixels.
      width: W of the image in pixels.

    Returns:
      Two operations a multiply-accumulate of a convolution, one of a transposed convolution.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> layers = {layer.name: layer for layer in unet_layers(width=64)}
      >>> dense_operations(layers["up_ct4"], 512, 512) == 512 * 512 * 64 * 64
      True
    """
    # Only this weighting gives the transposed convolutions the scores that Table A.4 prints.
    return sum((1 if conv.transposed else 2) * conv.macs(height, width) for conv in layer.convs)


def cost_scores(
    layers: Sequence[LayerShape],
    *,
    w_op: float = 0.5,
    w_param: float = 0.5,
    height: int = 512,
    width: int = 512,
    operations: OperationCount = dense_operations,
) -> dict[str, float]:
    """Score what masking each configurable layer costs, between 0 (free) and 1 (dearest).

    Args:
      layers: the network's layers; those that are not configurable are left out.
      w_op: weight of the operation count.
      w_param: weight of the parameter count; ``w_op + w_param`` is 1.
      height: H of the image in pixels.
      width: W of the image in pixels.
      operations: how operations are counted, for example by non-zero weights only.

    Returns:
      Name -> ``w_op * n_op / max(n_op) + w_param * n_param / max(n_param)``, in execution order;
      the maxima are over the configurable layers.

    Raises:
      InputError: a weight is negative, or the two do not add up to 1.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> scores = cost_scores(unet_layers())
      >>> round(scores["up_ct4"], 3), round(scores["down_c3"], 3)
      (0.011, 0.625)

    Source: Eq. 2 of the paper.
    """
    if not (w_op >= 0 and w_param >= 0 and math.isclose(w_op + w_param, 1.0, abs_tol=1e-9)):
        raise InputError(
            f"w_op {w_op} and w_param {w_param}: both must be at least 0 and their sum must be 1"
        )
    chosen = [layer for layer in layers if layer.configurable]
    n_op = _normalised([operations(layer, height, width) for layer in chosen])
    n_param = _normalised([layer.weights for layer in chosen])
    return {
        layer.name: w_op * op + w_param * param
        for layer, op, param in zip(chosen, n_op, n_param, strict=True)
    }


def second_product_macs(
    layers: Sequence[LayerShape], *, height: int = 512, width: int = 512
) -> dict[str, float]:
    """Count what masking adds on a device that multiplies dense bits: a second product.

    A masked layer is ``popc(a ^ n) - popc(a ^ p)``, two products where a binary layer needs one.
    As the cost model of ``mask_within_budget`` it makes the budget a number of
    multiply-accumulates an image.

    Args:
      layers: the network's layers; those that are not configurable are left out.
      height: H of the image in pixels.
      width: W of the image in pixels.

    Returns:
      Name -> extra one-bit multiply-accumulates an image, in execution order.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> mask_within_budget(unet_layers(), 5e9, cost=second_product_macs)
      ('up_ct1', 'up_ct2', 'up_ct3', 'up_ct4')

    Source: the paper's section 3.2.1.
    """
    return {layer.name: layer.macs(height, width) for layer in layers if layer.configurable}


def nonzero_macs(
    layers: Sequence[LayerShape],
    precisions: Mapping[str, str],
    *,
    density: float | Mapping[str, float] = 0.1,
    activation_bits: int = 1,
    height: int = 512,
    width: int = 512,
) -> dict[str, float]:
    """Plan the multiply-accumulates that the bit-sliced engine of a CPU carries out, zeros skipped.

    Of a masked layer it visits the weights that are not zero, power-of-two ones at the same price.
    Of a binary layer it counts the rarer sign of every output, half of the weights at most and
    nearly half where signs are balanced, and once for all outputs the sum of their inputs. Each
    is done for every bit of an activation. (The engine of a GPU visits every weight of a binary
    layer.)

    Args:
      layers: the network's layers.
      precisions: name -> ``binary``, ``masked`` or ``pow2``, for the configurable layers.
      density: share of weights that are not zero where a layer is not binary, or name -> share;
        for ``stem`` too, whose second convolution is always masked.
      activation_bits: bits of an activation, each a plane.
      height: H of the image in pixels.
      width: W of the image in pixels.

    Returns:
      Name -> one-bit multiply-accumulates an image, in execution order; their sum is the
      network's. What takes or gives floats, the stem's first convolution and the head, is left
      out.

    Raises:
      InputError: a precision is none of these or missing, or a density is not a share.

    Example:
      >>> from mbu_jax.architecture import LAYER_NAMES, unet_layers
      >>> for precision in ("binary", "masked"):
      ...     planned = nonzero_macs(unet_layers(), dict.fromkeys(LAYER_NAMES, precision))
      ...     print(f"{precision}: {sum(planned.values()) / 1e9:.1f} G")
      binary: 60.9 G
      masked: 12.8 G
    """
    counts = {}
    for layer in layers:
        if layer.name == "head":
            continue
        precision, convs = precisions.get(layer.name), layer.convs
        if layer.name == "stem":
            precision, convs = "masked", layer.convs[1:]
        if precision not in ("binary", "masked", "pow2"):
            raise InputError(
                f"{layer.name} has precision {precision!r}; the bit-sliced engine takes binary, "
                "masked and pow2"
            )
        share = None if precision == "binary" else _share(density, layer.name)
        counts[layer.name] = activation_bits * sum(
            _visited(conv, share) * conv.macs(height, width) for conv in convs
        )
    return counts


def nonzero_cost(
    layers: Sequence[LayerShape],
    *,
    density: float | Mapping[str, float] = 0.1,
    activation_bits: int = 1,
    height: int = 512,
    width: int = 512,
) -> dict[str, float]:
    """Count what masking a layer adds on a CPU's bit-sliced engine: below 0 where it saves.

    A binary layer visits a little more than half of its weights, so a density below one half makes
    masking a gain, and the layers with most products come first.

    Args:
      layers: the network's layers; those that are not configurable are left out.
      density: share of weights that are not zero once a layer is masked, or name -> share.
      activation_bits: bits of an activation.
      height: H of the image in pixels.
      width: W of the image in pixels.

    Returns:
      Name -> ``nonzero_macs`` of the layer masked, less those of the layer binary.

    Raises:
      InputError: a density is not a share.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> mask_cheapest(unet_layers(), 2, cost=nonzero_cost)
      ('up_c4', 'down_c1')
      >>> mask_within_budget(unet_layers(), -30e9, cost=nonzero_cost) == cost_ranking(
      ...     unet_layers(), cost=nonzero_cost
      ... )
      True
    """
    chosen = [layer for layer in layers if layer.configurable]

    def count(precision: str) -> dict[str, float]:
        return nonzero_macs(
            chosen,
            {layer.name: precision for layer in chosen},
            density=density,
            activation_bits=activation_bits,
            height=height,
            width=width,
        )

    masked, binary = count("masked"), count("binary")
    return {name: masked[name] - binary[name] for name in masked}


def cost_ranking(layers: Sequence[LayerShape], *, cost: CostModel = cost_scores) -> tuple[str, ...]:
    """Order the configurable layers by what masking them costs: the priority list for masking.

    Args:
      layers: the network's layers.
      cost: the cost model; ``functools.partial(cost_scores, w_op=1, w_param=0)`` changes weights.

    Returns:
      Their names, cheapest first; layers of equal cost in execution order.

    Raises:
      InputError: the model gives a layer no cost, or one that is not a finite number.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> cost_ranking(unet_layers())[:4]
      ('up_ct4', 'up_ct3', 'up_ct2', 'up_ct1')

    Source: the paper's Table A.4.
    """
    return tuple(name for name, _ in _ranked(layers, cost))


def mask_cheapest(
    layers: Sequence[LayerShape], k: int, *, cost: CostModel = cost_scores
) -> tuple[str, ...]:
    """Choose the k layers that are cheapest to mask.

    Args:
      layers: the network's layers.
      k: how many to mask, 0 to the number of configurable layers.
      cost: the cost model, see ``cost_ranking``.

    Returns:
      Their names, cheapest first.

    Raises:
      InputError: k is out of range.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> mask_cheapest(unet_layers(), 2)
      ('up_ct4', 'up_ct3')
    """
    ranking = cost_ranking(layers, cost=cost)
    if not 0 <= k <= len(ranking):
        raise InputError(f"cannot mask {k} layers; choose a number from 0 to {len(ranking)}")
    return ranking[:k]


def mask_within_budget(
    layers: Sequence[LayerShape], budget: float, *, cost: CostModel = cost_scores
) -> tuple[str, ...]:
    """Mask as many layers, cheapest first, as a budget allows.

    Args:
      layers: the network's layers.
      budget: the most that masking may cost in all, in the unit of the cost model: summed cost
        scores by default, multiply-accumulates with ``second_product_macs`` and
        ``nonzero_cost``. Below 0 it is what masking must save at least.
      cost: the cost model, see ``cost_ranking``. Layers that masking makes cheaper come first and
        pay for later ones.

    Returns:
      The chosen names, cheapest first: the longest start of ``cost_ranking`` whose costs add up
      to the budget at most.

    Raises:
      InputError: the budget is not a number, or no start keeps it.

    Example:
      >>> from mbu_jax.architecture import unet_layers
      >>> mask_within_budget(unet_layers(), 0.2)
      ('up_ct4', 'up_ct3', 'up_ct2', 'up_ct1')
    """
    ranked = _ranked(layers, cost)
    # Costs ascend, so these sums fall and then rise.
    sums = [math.fsum(price for _, price in ranked[:k]) for k in range(len(ranked) + 1)]
    kept = [k for k, total in enumerate(sums) if total <= budget]
    if not kept:
        raise InputError(f"masking budget is {budget:g}; give a number of at least {min(sums):g}")
    return tuple(name for name, _ in ranked[: kept[-1]])


def _ranked(layers: Sequence[LayerShape], cost: CostModel) -> list[tuple[str, float]]:
    costs = cost(layers)
    ranked: list[tuple[str, float]] = []
    for layer in layers:
        if not layer.configurable:
            continue
        value = costs.get(layer.name, math.nan)
        if not math.isfinite(value):
            raise InputError(
                f"the cost model gives layer {layer.name} the cost {value}; return a finite number"
            )
        ranked.append((layer.name, value))
    return sorted(ranked, key=lambda item: item[1])


def _share(density: float | Mapping[str, float], name: str) -> float:
    share = density.get(name, math.nan) if isinstance(density, Mapping) else density
    if not 0 <= share <= 1:
        raise InputError(f"density of {name} is {share}; give a share from 0 to 1")
    return share


def _visited(conv: ConvShape, share: float | None) -> float:
    """Share of multiply-accumulates that is carried out, of a binary layer where it is None."""
    if share is not None:
        return share
    # Each tap of a transposed convolution makes outputs of its own from one sum of inputs.
    sharing = conv.out_channels * (conv.kernel**2 if conv.transposed else 1)
    return 0.5 + 1 / sharing


def _normalised(counts: Sequence[float]) -> list[float]:
    largest = max(counts, default=0) or 1
    return [count / largest for count in counts]
