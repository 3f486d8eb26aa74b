"""Whether a row gives what its network should give."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmark.carried.folder import Folder
from experiments.benchmark.carried.images import DISTINCT, digest


def agreement(
    row: dict[str, Any], size: tuple[int, int], logits: NDArray, folder: Folder
) -> dict[str, Any]:
    """Compare logits with those that were computed where the folder was made.

    Args:
      row: from the manifest.
      size: height and width.
      logits: float32 [B, H, W, classes].
      folder: with the logits, or their digests.

    Returns:
      Of a packed network how many images do not have the same bits; of a float one the largest
      difference, None where it is no number. ``right`` says whether that is as it should be.
    """
    wanted = folder.manifest["expected"][row["network"]][f"{size[0]}x{size[1]}"]
    if "digests" in wanted:
        found = [digest(image) for image in logits]
        right = [found[i] == wanted["digests"][i % DISTINCT] for i in range(len(found))]
        changed = right.count(False)
        return {"images": len(found), "different_images": changed, "right": changed == 0}
    model = folder.arrays(wanted["file"])["logits"]
    compared = logits[: len(model)]
    model = model[: len(compared)]
    difference, largest = (float(np.abs(x).max()) for x in (compared - model, model))
    different = int(((compared > 0) != (model > 0)).sum())
    return {
        "largest_logit": largest,
        "largest_difference": finite(difference),
        "pixels": int(model[..., 0].size),
        "different_pixels": different,
        # A comparison with a difference that is no number is false.
        "right": bool(difference <= row["tolerance"] * largest),
    }


def finite(number: float) -> float | None:
    """Make a number one that JSON has: float16 overflows, and then differences are none.

    Args:
      number: any.

    Returns:
      The number, or None for infinity and what is no number.

    Example:
      >>> finite(0.5), finite(float("nan"))
      (0.5, None)
    """
    return number if math.isfinite(number) else None
