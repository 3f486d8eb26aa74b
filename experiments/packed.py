"""Packing a finished run, and holding the packed network against the model it came from."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax
from tqdm import tqdm

from mbu_jax.activations import model_with_activations
from mbu_jax.data import eval_batches
from mbu_jax.errors import InputError
from mbu_jax.inference import infer, infer_with_activations, pack
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import save_packed
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.metrics import predict_classes
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.unet import UNet


class Agreement(NamedTuple):
    """How far a packed network agrees with the model that it came from.

    Attributes:
      images: compared.
      pixels: of their masks.
      different_pixels: pixels of another class.
      activation_bits: of all layers, those of the images' padding included.
      different_activation_bits: bits that are not the model's.
      different_layers: the number of these bits by layer, in network order, where there are any.
    """

    images: int
    pixels: int
    different_pixels: int
    activation_bits: int
    different_activation_bits: int
    different_layers: dict[str, int]

    def __str__(self) -> str:
        if not (self.different_pixels or self.different_activation_bits):
            return (
                f"its masks are the model's on every pixel of {self.images} images "
                f"({self.pixels:,} pixels, 0 differ), and so are its layers' activations "
                f"({self.activation_bits:,} bits, 0 differ)"
            )
        return (
            f"{self.different_pixels:,} of {self.pixels:,} pixels and "
            f"{self.different_activation_bits:,} of {self.activation_bits:,} activation bits of "
            f"{self.images} images differ from the model's, first in "
            f"{next(iter(self.different_layers), 'the head')}"
        )


def packed_logits(params: PackedUNet) -> Callable[[Array], Array]:
    """Compile a packed network.

    Args:
      params: the network.

    Returns:
      Function from images [B, H, W, C] to logits [B, H, W, classes].
    """
    return functools.partial(jax.jit(infer), params)


def compare(model: UNet, params: PackedUNet, images: Any, batch_size: int) -> Agreement:
    """Run both networks on every image on this process's first device; compare bit by bit.

    Args:
      model: the model in evaluation mode.
      params: the packed network.
      images: data source, ``[i]`` giving an example.
      batch_size: images at once.

    Returns:
      What was found.
    """
    channels = {"stem.conv1": params.stem.out_channels}
    channels |= {name: params.convs[name].out_channels for name in params.conv_names}
    pixels = different_pixels = bits = 0
    different = dict.fromkeys(channels, 0)
    bar = tqdm(
        eval_batches(images, batch_size=batch_size, multiple=1),
        desc="packed against model",
        unit="batch",
        leave=False,
        disable=None,  # where standard error is no terminal
    )
    for batch in bar:
        real = batch["weight"] > 0
        x = jnp.asarray(batch["image"])
        our_logits, our_words = _run_packed(params, x)
        their_logits, their_words = _run_model(model, x)
        ours = np.asarray(predict_classes(our_logits))[real]
        theirs = np.asarray(predict_classes(their_logits))[real]
        pixels += ours.size
        different_pixels += int((ours != theirs).sum())
        found = jax.device_get(_different_bits(our_words, their_words))
        for name, width in channels.items():
            _, *sizes, planes, _ = our_words[name].shape
            bits += int(real.sum()) * math.prod(sizes) * planes * width
            different[name] += int(found[name][real].sum(dtype=np.int64))
    return Agreement(
        images=len(images),
        pixels=pixels,
        different_pixels=different_pixels,
        activation_bits=bits,
        different_activation_bits=sum(different.values()),
        different_layers={name: count for name, count in different.items() if count},
    )


_run_model = nnx.jit(model_with_activations)
_run_packed = jax.jit(infer_with_activations)


@jax.jit
def _different_bits(ours: dict[str, Array], theirs: dict[str, Array]) -> dict[str, Array]:
    """By layer, uint32 [B]."""
    return jax.tree.map(
        lambda a, b: lax.population_count(a ^ b).sum(axis=(1, 2, 3, 4)), ours, theirs
    )


def pack_run(
    run: RunDirectory, images: Any, batch_size: int, image_size: tuple[int, int] | None
) -> str:
    """Pack a run's best checkpoint into ``model.safetensors`` and compare it with the model.

    Every process calls it, since checkpoints are read together; the first packs. Where others
    wait for that, and would give up, nothing is compared.

    Args:
      run: of a finished training.
      images: data source to compare on.
      batch_size: images at once.
      image_size: that training scaled images to, None where they kept their own.

    Returns:
      A line to print: where the file is and what the comparison gave, or why nothing was packed;
      empty on other processes than the first.
    """
    network, params, stats, _ = load_run(run.path, "best")
    if jax.process_index() > 0:
        return ""
    model = network.model(params, stats)
    try:
        packed = pack(model, image_size=image_size)
    except InputError as reason:
        return f"not packed: {reason}"
    save_packed(run.model, packed, overwrite=True)
    if jax.process_count() > 1:
        agreement = "experiments.evaluate --packed compares it with the model"
    else:
        agreement = str(compare(model, packed, images, batch_size))
    size = run.model.stat().st_size
    return f"packed network: {run.model} ({size:,} bytes); {agreement}"
