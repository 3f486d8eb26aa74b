"""Scoring a network on the validation images."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mbu_jax.train.metrics import SegmentationScores, confusion_counts
from mbu_jax.train.state import Network, Tree
from mbu_jax.train.step import make_eval_step, replicate, shard_batch


class Evaluator:
    """Runs the evaluation-mode network over batches and scores every image.

    Args:
      network: the structure.
      mesh: devices; every process must take part in every call.

    Example:
      >>> evaluator = Evaluator(network, data_mesh())
      >>> evaluator.scores(params, stats, batches).result()["dice"]
      0.91
    """

    def __init__(self, network: Network, mesh: Mesh) -> None:
        self._network = network
        self._mesh = mesh
        self._step = make_eval_step(network, mesh)
        self._count = jax.jit(confusion_counts)

    def logits(self, params: Tree, stats: Tree) -> Callable[[Array], Array]:
        """Fold the thresholds once and return the network as a function.

        Args:
          params: parameters.
          stats: BatchNorm statistics.

        Returns:
          Function from images [B, H, W, C] to logits [B, H, W, classes], both global arrays.

        Raises:
          ValueError: where a statistic is not finite.
        """
        params, stats = jax.device_get((params, stats))
        thresholds = self._network.fold(params, stats)
        params, stats, thresholds = replicate((params, stats, thresholds), self._mesh)
        return lambda images: self._step(params, stats, thresholds, images)

    def scores(
        self, params: Tree, stats: Tree, batches: Iterable[dict[str, Any]]
    ) -> SegmentationScores:
        """Score every image of the batches.

        Args:
          params: parameters.
          stats: BatchNorm statistics.
          batches: evaluation batches (``image``, ``mask``, ``weight``, ``id``).

        Returns:
          The scores, of all processes' images.
        """
        logits = self.logits(params, stats)
        scores = SegmentationScores()
        for batch in batches:
            arrays = shard_batch(batch, self._mesh)
            counts = self._count(logits(arrays["image"]), arrays["mask"])
            scores.add(*_gathered(counts, batch["weight"], batch["id"]))
        return scores


def _gathered(
    counts: Array, weight: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All processes' rows; ids travel as fixed-length bytes."""
    if jax.process_count() == 1:
        return np.asarray(counts), weight, list(ids)
    encoded = np.zeros((len(ids), 512), np.uint8)
    for row, name in zip(encoded, ids, strict=True):
        text = str(name).encode()[: row.size]
        row[: len(text)] = np.frombuffer(text, np.uint8)
    rows = multihost_utils.process_allgather((weight, encoded), tiled=True)
    names = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(rows[1])]
    all_counts = multihost_utils.process_allgather(counts, tiled=True)
    return np.asarray(all_counts), np.asarray(rows[0]), names


def recalibrated_stats(
    network: Network, params: Tree, batches: Iterator[dict[str, Any]], count: int, mesh: Mesh
) -> Tree:
    """Re-estimate BatchNorm statistics as the plain mean over training batches.

    The running averages of training lag behind weights whose signs still flip, and do not belong
    to averaged weights at all.

    Args:
      network: the structure.
      params: parameters.
      batches: training batches.
      count: how many of them to use, at least 1.
      mesh: devices.

    Returns:
      BatchNorm statistics.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, §3.2.
    """
    momentum = 0.9  # of `NormActivation`: new = 0.9 old + 0.1 batch, started from zero statistics
    zero = replicate(jax.tree.map(jnp.zeros_like, network.initial_stats), mesh)
    batch_stats = jax.jit(lambda p, s, x: network.apply_training(p, s, x)[1])
    total = None
    for _ in range(count):
        images = shard_batch(next(batches), mesh)["image"]
        stats = batch_stats(params, zero, images)
        total = stats if total is None else jax.tree.map(jnp.add, total, stats)
    return jax.tree.map(lambda s: s / ((1 - momentum) * count), total)
