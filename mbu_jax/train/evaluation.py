"""Scoring a network, and re-estimating its BatchNorm statistics before."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbu_jax.train.cluster import gather_ids
from mbu_jax.train.metrics import SegmentationScores, confusion_counts
from mbu_jax.train.state import Network, Tree
from mbu_jax.train.step import make_eval_step, replicate, shard_batch


class Evaluator:
    """Runs a network over batches: to score every image, or to recalibrate it.

    Args:
      network: the structure.
      mesh: devices; every process must take part in every call.

    Example:
      >>> import numpy as np
      >>> from mbu_jax.train.step import data_mesh
      >>> from mbu_jax.unet import UNetConfig
      >>> network, params, stats = Network.create(UNetConfig(width=4), seed=0)
      >>> empty = np.zeros((2, 16, 16), np.uint8)
      >>> batch = {"image": np.zeros((2, 16, 16, 3), np.uint8), "mask": empty}
      >>> batch |= {"id": np.array(["a", "b"]), "weight": np.float32([1, 0])}
      >>> Evaluator(network, data_mesh()).scores(params, stats, [batch]).result()["images"]
      1
    """

    def __init__(self, network: Network, mesh: Mesh) -> None:
        self._network = network
        self._mesh = mesh
        self._step = make_eval_step(network, mesh)
        self._count = jax.jit(confusion_counts)
        self._batch_stats = jax.jit(
            lambda *inputs: network.apply_training(*inputs)[1],
            out_shardings=NamedSharding(mesh, PartitionSpec()),
        )

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

        Raises:
          ValueError: where a statistic is not finite.
        """
        return self.score(self.logits(params, stats), batches)

    def score(
        self, logits: Callable[[Array], Array], batches: Iterable[dict[str, Any]]
    ) -> SegmentationScores:
        """Score whatever gives logits, a packed network for instance.

        Args:
          logits: function from images [B, H, W, C] to logits [B, H, W, classes], global arrays.
          batches: evaluation batches.

        Returns:
          The scores, of all processes' images.
        """
        scores = SegmentationScores()
        for batch in batches:
            arrays = shard_batch(batch, self._mesh)
            counts = self._count(logits(arrays["image"]), arrays["mask"])
            counts, weight = multihost_utils.process_allgather(
                (counts, arrays["weight"]), tiled=True
            )
            scores.add(counts, weight, gather_ids(batch["id"]))
        return scores

    def recalibrated_stats(self, params: Tree, batches: Iterable[dict[str, Any]]) -> Tree:
        """Re-estimate BatchNorm statistics as the plain mean over training batches.

        The running averages of training lag behind weights whose signs still flip, and do not
        belong to averaged weights at all.

        Args:
          params: parameters.
          batches: training batches, at least 1.

        Returns:
          BatchNorm statistics, on every device.

        Source: Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018, §3.2.
        """
        momentum = 0.9  # of `NormActivation`: new = 0.9 old + 0.1 batch, old being 0 here
        zero = jax.tree.map(jnp.zeros_like, self._network.initial_stats)
        params, zero = replicate((params, zero), self._mesh)
        total, count = zero, 0
        for batch in batches:
            count += 1
            images = shard_batch(batch, self._mesh)["image"]
            total = jax.tree.map(jnp.add, total, self._batch_stats(params, zero, images))
        return jax.tree.map(lambda s: s / ((1 - momentum) * count), total)
