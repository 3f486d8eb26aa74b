"""What a finished run leaves for people to look at."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mbu_jax.train.metrics import SegmentationScores, predict_classes
from mbu_jax.train.pictures import write_samples
from mbu_jax.train.rundir import RunDirectory, write_json_atomic
from mbu_jax.unet import UNet


def write_report(
    run: RunDirectory,
    scores: SegmentationScores,
    step: int,
    images: Any,
    model: UNet,
    samples: int,
    **facts: Any,
) -> dict[str, Any]:
    """Write ``eval.json`` and pictures of images from the worst to the best.

    Args:
      run: where to.
      scores: of every image.
      step: of the checkpoint that was scored.
      images: the data source that was scored, ``[i]`` giving an example.
      model: in evaluation mode.
      samples: how many pictures, spread evenly from the lowest Dice to the highest.
      **facts: further entries of ``eval.json``.

    Returns:
      What was written to ``eval.json``.

    Raises:
      OSError: if a file cannot be written.
    """
    per_image = scores.per_image()
    report = scores.result() | {"step": step} | facts | {"per_image": per_image}
    write_json_atomic(run.evaluation, report)
    if not samples:
        return report
    dice = {row["id"]: row["dice"] for row in per_image}
    ranked = sorted(dice, key=lambda name: (dice[name], name))
    spread = np.linspace(0, len(ranked) - 1, min(samples, len(ranked))).round().astype(int)
    chosen = [ranked[i] for i in dict.fromkeys(spread)]
    index = {name: i for i, name in enumerate(images.ids)}
    examples = [images[index[name]] for name in chosen]
    segment = nnx.jit(lambda model, image: predict_classes(model(image)[None])[0])
    write_samples(
        run.samples,
        [example["image"] for example in examples],
        [example["mask"] for example in examples],
        [np.asarray(segment(model, jnp.asarray(example["image"]))) for example in examples],
        chosen,
        [dice[name] for name in chosen],
    )
    return report
