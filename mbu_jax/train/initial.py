"""Starting from the weights of another run."""

import os
from typing import Any

import jax

from mbu_jax.errors import InputError
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.state import Network, Tree

_DIFFERENCES_SHOWN = 3


def initial_weights(run: str | os.PathLike[str], network: Network) -> tuple[Tree, Tree]:
    """Load the best weights of a run into a network that may quantize them otherwise.

    Args:
      run: directory of the run.
      network: the structure that they must fit; its precisions are its own.

    Returns:
      Parameters and BatchNorm statistics.

    Raises:
      InputError: if there is no checkpoint, or an array that the network lacks, wants, or has in
        another shape; the message names it.
    """
    _, params, stats, _ = load_run(run)
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


def _shapes(trees: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    return {
        ".".join(str(key.key) for key in path): array.shape
        for tree in trees
        for path, array in jax.tree.leaves_with_path(tree)
    }


def _show(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))
