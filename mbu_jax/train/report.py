"""What a finished run leaves for people to look at."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mbu_jax.files import write_json_atomic
from mbu_jax.train.metrics import SegmentationScores, predict_classes
from mbu_jax.train.pictures import safe_name, write_samples


def write_report(
    out: Path,
    pictures: Path,
    scores: SegmentationScores,
    images: Any,
    model: Callable[[Array], Array],
    samples: int,
    **facts: Any,
) -> dict[str, Any]:
    """Write scores as JSON, and pictures of images from the worst to the best.

    Args:
      out: the JSON file, a run's ``eval.json``.
      pictures: folder for the pictures, a run's ``samples``; earlier ones of these images there
        are replaced, other files stay.
      scores: of every image.
      images: the data source that was scored, ``[i]`` giving an example.
      model: a `UNet` in evaluation mode, or another NNX module that maps images to logits.
      samples: how many pictures, spread evenly from the lowest Dice to the highest.
      **facts: further entries of the JSON file, such as the checkpoint's step.

    Returns:
      What was written to the JSON file.

    Raises:
      OSError: if a file cannot be written.
    """
    per_image = scores.per_image()
    report = scores.result() | facts | {"per_image": per_image}
    write_json_atomic(out, report)
    if not samples:
        return report
    dice = {row["id"]: row["dice"] for row in per_image}
    ranked = sorted(dice, key=lambda name: (dice[name], name))
    spread = np.linspace(0, len(ranked) - 1, min(samples, len(ranked))).round().astype(int)
    chosen = [ranked[i] for i in dict.fromkeys(spread)]
    index = {name: i for i, name in enumerate(images.ids)}
    examples = [images[index[name]] for name in chosen]
    segment = nnx.jit(lambda model, image: predict_classes(model(image)[None])[0])
    written = write_samples(
        pictures,
        [example["image"] for example in examples],
        [example["mask"] for example in examples],
        [np.asarray(segment(model, jnp.asarray(example["image"]))) for example in examples],
        chosen,
        [dice[name] for name in chosen],
    )
    ours = {f"{safe_name(name)}.png" for name in images.ids}
    for path in pictures.iterdir():
        number, _, name = path.name.partition("-")
        # Of an earlier report on these images, with other scores; the rest may be the user's.
        if re.fullmatch(r"\d\d+", number) and name in ours and path not in written:
            path.unlink()
    return report
