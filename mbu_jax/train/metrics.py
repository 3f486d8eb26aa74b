"""How well predicted masks cover the true ones: Dice, IoU, F1, precision and recall.

Everything starts from three counts of pixels for each image and foreground class: true positives
(tp), false positives (fp) and false negatives (fn). Counts are added over pixels, images are
averaged once at the end, and the background never counts.
"""

# ruff: noqa: F722 (shapes are written as strings)

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCORES = ("dice", "iou", "f1", "precision", "recall", "pooled_iou")
"""What reports show of `SegmentationScores.result`: each a number from 0 to 1."""

DEFINITIONS = {
    "dice": "2tp / (2tp + fp + fn) of each image, averaged over images",
    "iou": "tp / (tp + fp + fn) of each image, averaged over images",
    "precision": "tp / (tp + fp) of each image, averaged over images; 0 where nothing was "
    "predicted but something is there",
    "recall": "tp / (tp + fn) of each image, averaged over images; 0 where nothing is there but "
    "something was predicted",
    "f1": "2PR / (P + R) of P and R, the mean precision and mean recall above; never below the "
    "mean Dice, which is the mean of every image's own F1",
    "pooled_iou": "tp / (tp + fp + fn) with the counts added over all images first",
    "*_std": "standard deviation over images (population)",
    "all": "foreground only; an empty prediction of an empty truth scores 1; with several "
    "foreground classes, their mean",
}


def predict_classes(logits: Float[Array, "B H W classes"]) -> Int[Array, "B H W"]:
    """Choose the class of every pixel.

    Args:
      logits: Floating point [B, H, W, classes]. One class: object where logit > 0. More: the
        class with the largest logit, class 0 being the background.

    Returns:
      Class indices [B, H, W], uint8 up to 256 classes and int32 beyond.

    Example:
      >>> predict_classes(jnp.array([[[[-1.0], [2.0]]]]))
      Array([[[0, 1]]], dtype=uint8)
    """
    classes = logits.shape[-1]
    if classes == 1:
        return (logits[..., 0] > 0).astype(jnp.uint8)
    chosen = jnp.argmax(logits, axis=-1)
    return chosen.astype(jnp.uint8 if classes <= 256 else jnp.int32)


def confusion_counts(
    predicted: Array, mask: Int[Array, "B H W"], *, foreground_classes: int = 1
) -> Int[Array, "B F 3"]:
    """Count true positives, false positives and false negatives of every image.

    Works under ``jax.jit`` and on sharded batches. The counts are int32, exact for images of
    fewer than 2^31 pixels.

    Args:
      predicted: Logits, floating point [B, H, W, classes], or class indices, integer [B, H, W].
      mask: Integer [B, H, W], the true class of every pixel, 0 being the background.
      foreground_classes: F, the number of classes beside the background. Read for class indices
        only: logits tell it by their last axis (1 for one or two classes).

    Returns:
      int32 [B, F, 3]: (tp, fp, fn) of class f + 1 at [:, f].

    Example:
      >>> confusion_counts(jnp.array([[[1, 1, 0]]]), jnp.array([[[1, 0, 1]]]))
      Array([[[1, 1, 1]]], dtype=int32)
    """
    if predicted.ndim == 4:
        foreground_classes = max(1, predicted.shape[-1] - 1)
        predicted = predict_classes(predicted)
    classes = jnp.arange(1, foreground_classes + 1, dtype=jnp.int32).reshape(1, 1, 1, -1)
    here = predicted.astype(jnp.int32)[..., None] == classes
    there = mask.astype(jnp.int32)[..., None] == classes
    kinds = (here & there, here & ~there, ~here & there)
    return jnp.stack([jnp.sum(k, axis=(1, 2), dtype=jnp.int32) for k in kinds], axis=-1)


class SegmentationScores:
    """Collects the counts of every image, then states the scores of the whole set.

    How the images were divided into batches, and their order, changes no bit of the result.

    F1. For one image and one class F1 *is* Dice, so averaging both over images would print the
    same number twice. The paper's Table 1 prints two numbers, F1 never below Dice, without
    saying how they differ. Here F1 is the harmonic mean of the *mean* precision and the *mean*
    recall. The harmonic mean is concave, so this is never below the mean Dice either; the two
    come apart when images fail in opposite ways, some by excess and some by omission.

    Example:
      >>> scores = SegmentationScores()
      >>> scores.add(np.array([[[8, 1, 1]], [[0, 0, 0]]]), weight=np.array([1.0, 0.0]))
      >>> scores.result()["iou"], scores.result()["images"]
      (0.8, 1)
    """

    def __init__(self) -> None:
        self._counts: list[np.ndarray] = []
        self._ids: list[str | None] = []
        self._seen: set[str] = set()

    def add(
        self,
        counts: np.ndarray | jax.Array,
        weight: np.ndarray | jax.Array | Sequence[float] | None = None,
        ids: Sequence[str] | np.ndarray | None = None,
    ) -> None:
        """Add the images of one batch.

        Args:
          counts: Integer [B, F, 3] from :func:`confusion_counts`.
          weight: Float [B], 1 for an image and 0 for padding, which never counts. All images by
            default.
          ids: B names, for :meth:`per_image`.

        Raises:
          ValueError: If shapes disagree, a weight is neither 0 nor 1, or an image comes twice.

        Example:
          >>> scores = SegmentationScores()
          >>> scores.add(np.array([[[8, 1, 1]], [[0, 0, 0]]]), [1, 0], ["a", ""])
        """
        rows = np.asarray(counts).astype(np.int64)
        if rows.ndim != 3 or rows.shape[2] != 3:
            raise ValueError(f"counts must be [B, F, 3], not {rows.shape}")
        if self._counts and self._counts[0].shape != rows.shape[1:]:
            raise ValueError(f"counts have {rows.shape[1]} classes, not {len(self._counts[0])}")
        real = np.ones(len(rows)) if weight is None else np.asarray(weight)
        names = [None] * len(rows) if ids is None else [str(name) for name in ids]
        if real.shape != (len(rows),) or len(names) != len(rows):
            raise ValueError(f"{len(rows)} rows, {real.shape} weights and {len(names)} ids")
        if not np.isin(real, (0, 1)).all():
            raise ValueError(f"weights must be 0 or 1, not {real}")
        for row, is_real, name in zip(rows, real, names, strict=True):
            if not is_real:
                continue
            if name is not None and name in self._seen:
                raise ValueError(f"image {name!r} was scored twice")
            if name is not None:
                self._seen.add(name)
            self._counts.append(row)
            self._ids.append(name)

    def per_image(self) -> list[dict[str, Any]]:
        """State the scores of every image, in the order they were added.

        Returns:
          One dictionary an image: id (None if not given), dice, iou, precision, recall.

        Example:
          >>> scores = SegmentationScores()
          >>> scores.add(np.array([[[8, 1, 1]]]))
          >>> scores.per_image()[0]
          {'id': None, 'dice': 0.888..., 'iou': 0.8, 'precision': 0.888..., 'recall': 0.888...}
        """
        return [
            {"id": name} | {score: _class_mean(of, row) for score, of in _SCORES.items()}
            for name, row in zip(self._ids, self._counts, strict=True)
        ]

    def result(self) -> dict[str, Any]:
        """State the scores of the whole set.

        Returns:
          dice, iou, f1, precision, recall, pooled_iou in [0, 1]; dice_std, iou_std,
          precision_std, recall_std; images, their number; definitions, a text for each.

        Raises:
          ValueError: If no image was added.

        Example:
          >>> scores = SegmentationScores()
          >>> scores.add(np.array([[[8, 1, 1]]]))
          >>> scores.result()["dice"]
          0.888...
        """
        if not self._counts:
            raise ValueError("no image was scored")
        result: dict[str, Any] = {}
        for score, of in _SCORES.items():
            values = [_class_mean(of, row) for row in self._counts]
            # fsum rounds once, so that neither order nor batch division shows in the result.
            mean = math.fsum(values) / len(values)
            variance = math.fsum((v - mean) ** 2 for v in values) / len(values)
            result[score], result[f"{score}_std"] = mean, math.sqrt(variance)
        result["f1"] = _harmonic_mean(result["precision"], result["recall"])
        result["pooled_iou"] = _class_mean(_iou, np.sum(self._counts, axis=0))
        return result | {"images": len(self._counts), "definitions": DEFINITIONS}


def _dice(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def _iou(tp: int, fp: int, fn: int) -> float:
    return tp / (tp + fp + fn) if tp + fp + fn else 1.0


def _precision(tp: int, fp: int, fn: int) -> float:
    if tp + fp:
        return tp / (tp + fp)
    return 0.0 if fn else 1.0


def _recall(tp: int, fp: int, fn: int) -> float:
    return _precision(tp, fn, fp)


_SCORES: dict[str, Callable[[int, int, int], float]] = {
    "dice": _dice,
    "iou": _iou,
    "precision": _precision,
    "recall": _recall,
}


def _class_mean(score: Callable[[int, int, int], float], row: np.ndarray) -> float:
    """Average one image's score over the foreground classes, row: int64 [F, 3]."""
    return math.fsum(score(*counts) for counts in row.tolist()) / len(row)


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
