"""Packing a finished run, and holding the packed network against the model it came from."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from tqdm import tqdm

from mbu_jax.data import eval_batches
from mbu_jax.errors import InputError
from mbu_jax.inference import infer, pack
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import save_packed
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.metrics import predict_classes
from mbu_jax.train.rundir import RunDirectory


class Agreement(NamedTuple):
    """How far two networks' masks agree.

    Attributes:
      images: compared.
      pixels: compared.
      different: pixels of another class.
    """

    images: int
    pixels: int
    different: int

    def __str__(self) -> str:
        if not self.different:
            return f"its masks are the model's on every pixel of {self.images} images"
        return (
            f"its masks differ from the model's in {self.different} of {self.pixels} pixels of "
            f"{self.images} images (the float stem's sums in another order)"
        )


def packed_logits(params: PackedUNet) -> Callable[[Array], Array]:
    """Compile a packed network.

    Args:
      params: the network.

    Returns:
      Function from images [B, H, W, C] to logits [B, H, W, classes].
    """
    return functools.partial(jax.jit(infer), params)


def compare_masks(
    model: Callable[[Array], Array], params: PackedUNet, images: Any, batch_size: int
) -> Agreement:
    """Segment every image with both networks on this process's first device.

    Args:
      model: the model in evaluation mode, an NNX module.
      params: the packed network.
      images: data source, ``[i]`` giving an example.
      batch_size: images at once.

    Returns:
      What was found.
    """
    forward, packed = nnx.jit(lambda model, x: model(x)), packed_logits(params)
    pixels = different = 0
    bar = tqdm(
        eval_batches(images, batch_size=batch_size),
        desc="packed against model",
        unit="batch",
        leave=False,
        disable=None,  # where standard error is no terminal
    )
    for batch in bar:
        real = batch["weight"] > 0
        x = jnp.asarray(batch["image"])
        ours = np.asarray(predict_classes(packed(x)))[real]
        theirs = np.asarray(predict_classes(forward(model, x)))[real]
        pixels += ours.size
        different += int((ours != theirs).sum())
    return Agreement(len(images), pixels, different)


def pack_run(run: RunDirectory, images: Any, batch_size: int) -> str:
    """Pack a run's best checkpoint into ``model.safetensors`` and compare it with the model.

    Every process calls it, since checkpoints are read together; the first packs. Where others
    wait for that, and would give up, nothing is compared.

    Args:
      run: of a finished training.
      images: data source to compare on.
      batch_size: images at once.

    Returns:
      A line to print: where the file is and what the comparison gave, or why nothing was packed;
      empty on other processes than the first.
    """
    network, params, stats, _ = load_run(run.path, "best")
    if jax.process_index() > 0:
        return ""
    model = network.model(params, stats)
    try:
        packed = pack(model)
    except InputError as reason:
        return f"not packed: {reason}"
    save_packed(run.model, packed, overwrite=True)
    if jax.process_count() > 1:
        agreement = "experiments.evaluate --packed compares it with the model"
    else:
        agreement = str(compare_masks(model, packed, images, batch_size))
    size = run.model.stat().st_size
    return f"packed network: {run.model} ({size:,} bytes); {agreement}"
