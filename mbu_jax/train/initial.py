"""Starting from the weights of another run."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.quantized_start import quantized_start
from mbu_jax.train.state import Network, Tree

_DIFFERENCES_SHOWN = 3


def initial_weights(
    run: str | os.PathLike[str], network: Network, images: Sequence[np.ndarray]
) -> tuple[Tree, Tree]:
    """Load the best weights of a run into a network that may quantize them otherwise.

    Args:
      run: directory of the run.
      network: the structure that they must fit; its precisions are its own.
      images: some training images, each [H, W, C]; a quantized network that starts from a
        full-precision one is fitted to them, see `quantized_start`.

    Returns:
      Parameters and BatchNorm statistics; of a network fitted to images, the statistics are those
      before the first update.

    Raises:
      InputError: if there is no checkpoint, or an array that the network lacks, wants, or has in
        another shape; the message names it.
    """
    trained, params, stats, _ = load_run(run)
    if _bits(trained) == 32 and _bits(network) < 32:
        _check_sizes(run, trained, network)
        return quantized_start(trained, params, stats, network, images), network.initial_stats
    there, here = (
        _shapes((params, stats)),
        _shapes((network.params, network.initial_stats)),
    )
    different = [
        f"{name} is {_show(there.get(name))} there and {_show(here.get(name))} here"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if different:
        more = len(different) - _DIFFERENCES_SHOWN
        shown = "; ".join(different[:_DIFFERENCES_SHOWN])
        raise InputError(
            f"--initial {run} does not fit this network: {shown}"
            + (f"; and {more} more" if more > 0 else "")
            + ". Give a run of the same width, whose layers have the same arrays"
        )
    return params, stats


def _bits(network: Network) -> int:
    return network.config.quantization.activation_bits


def _check_sizes(run: str | os.PathLike[str], trained: Network, network: Network) -> None:
    for name in ("width", "in_channels", "classes"):
        there, here = getattr(trained.config, name), getattr(network.config, name)
        if there != here:
            raise InputError(
                f"--initial {run} does not fit this network: {name} is {there} there and {here} "
                "here. Give a run with the same"
            )


def _shapes(trees: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    return {
        ".".join(str(key.key) for key in path): array.shape
        for tree in trees
        for path, array in jax.tree.leaves_with_path(tree)
    }


def _show(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
