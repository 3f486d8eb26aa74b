"""Which networks a sweep trains, and how they are divided into chunks of equal seed."""

import dataclasses
import math
from typing import Any

import numpy as np

from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.masking import cost_ranking

type Mask = tuple[bool, ...]
"""By the order of `LAYER_NAMES`, whether a layer is masked."""

LAYERS = len(LAYER_NAMES)
COST_ORDER = "cost order"


@dataclasses.dataclass(frozen=True)
class Series:
    """Networks that are compared with each other: one seed, the same images in the same order.

    Attributes:
      name: of the series.
      seed: of order and augmentation, and of initialization where nothing trained is given.
      masks: the layers that each network masks.
      order: indices of layers where each network masks one more than the one before, else None.
    """

    name: str
    seed: int
    masks: tuple[Mask, ...]
    order: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Networks of a series that are trained at a time.

    Attributes:
      index: of the chunk in the sweep.
      series: name of the series.
      seed: of the series.
      masks: the layers that each network masks.
    """

    index: int
    series: str
    seed: int
    masks: tuple[Mask, ...]

    @property
    def name(self) -> str:
        """Of its file and folder."""
        return f"chunk-{self.index:04d}"


def path(name: str, seed: int, order: tuple[int, ...]) -> Series:
    """Mask one layer after the other.

    Args:
      name: of the series.
      seed: of the series.
      order: indices of all layers.

    Returns:
      A series of thirteen networks, from binary to all masked.
    """
    ranks = {layer: rank for rank, layer in enumerate(order)}
    masks = tuple(
        tuple(ranks[layer] < count for layer in range(LAYERS)) for count in range(LAYERS + 1)
    )
    return Series(name, seed, masks, order)


def cost_path(seed: int) -> Series:
    """Mask layers by the paper's priority list, the cheapest first.

    Args:
      seed: of the series.

    Returns:
      The series.
    """
    names = cost_ranking(unet_layers())
    return path(COST_ORDER, seed, tuple(LAYER_NAMES.index(name) for name in names))


def permutation_series(permutations: int, seed: int) -> list[Series]:
    """Draw random orders of layers, each trained with a seed of its own.

    So the spread over orders holds both what the order changes and what the seed does.

    Args:
      permutations: how many.
      seed: of the drawing, and of the first series.

    Returns:
      The series by cost, then one a permutation; their seeds count up.

    Example:
      >>> [series.name for series in permutation_series(2, seed=0)]
      ['cost order', 'permutation 1', 'permutation 2']
    """
    rng = np.random.default_rng(seed)
    drawn = [tuple(rng.permutation(LAYERS).tolist()) for _ in range(permutations)]
    return [
        cost_path(seed),
        *(path(f"permutation {i}", seed + i, order) for i, order in enumerate(drawn, start=1)),
    ]


def subset_series(members: int, seed: int, seeds: int) -> list[Series]:
    """Choose configurations: those by cost, and others at random; 4096 are all there are.

    Args:
      members: how many.
      seed: of the choice, and of the first series.
      seeds: how many series of the same networks.

    Returns:
      One series a seed.
    """
    ordered = cost_path(seed).masks
    rest = sorted({number_of(mask) for mask in ordered} ^ set(range(2**LAYERS)))
    others = np.random.default_rng(seed).permutation(rest)[: members - len(ordered)]
    masks = (*ordered, *(mask_of(int(number)) for number in sorted(others)))
    return [Series(f"seed {seed + i}", seed + i, masks) for i in range(seeds)]


def number_of(mask: Mask) -> int:
    """Number a configuration.

    Args:
      mask: the masked layers.

    Returns:
      Bit i is set where layer i is masked.

    Example:
      >>> number_of((False, True) + (False,) * 10)
      2
    """
    return sum(1 << layer for layer, masked in enumerate(mask) if masked)


def digits(mask: Mask) -> str:
    """Write a configuration down.

    Args:
      mask: the masked layers.

    Returns:
      A digit a layer, 1 where it is masked.

    Example:
      >>> digits((False, True) + (False,) * 10)
      '010000000000'
    """
    return "".join("1" if masked else "0" for masked in mask)


def mask_of(number: int) -> Mask:
    """Find a configuration by its number.

    Args:
      number: of `number_of`.

    Returns:
      The masked layers.
    """
    return tuple(bool(number >> layer & 1) for layer in range(LAYERS))


def chunks(series: list[Series], size: int) -> list[Chunk]:
    """Divide series into chunks, as equal as can be.

    Args:
      series: of the sweep.
      size: networks of a chunk at most.

    Returns:
      The chunks in order.

    Raises:
      InputError: for a size below 1.

    Example:
      >>> [len(chunk.masks) for chunk in chunks([cost_path(seed=0)], size=6)]
      [5, 4, 4]
    """
    if size < 1:
        raise InputError(f"chunk_members is {size}; give a number of at least 1")
    found: list[Chunk] = []
    for one in series:
        parts = np.array_split(np.arange(len(one.masks)), math.ceil(len(one.masks) / size))
        for part in parts:
            masks = tuple(one.masks[i] for i in part)
            found.append(Chunk(len(found), one.name, one.seed, masks))
    return found


def described(series: Series) -> dict[str, Any]:
    """Describe a series for a report.

    Args:
      series: of the sweep.

    Returns:
      JSON: name, seed, number of networks, and the order of layers where there is one.
    """
    order = series.order and [LAYER_NAMES[layer] for layer in series.order]
    return {"name": series.name, "seed": series.seed, "networks": len(series.masks), "order": order}
