"""Comparing a packed network with its model: what differs is counted, and where it begins."""

import dataclasses
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.packed import compare
from mbu_jax.inference import pack
from mbu_jax.packing import PackedUNet
from mbu_jax.thresholds import INT_MAX
from mbu_jax.unet import UNet, UNetConfig
from tests.unet_models import random_model

SIZES = [(20, 33), (20, 33), (20, 33), (7, 5)]
PADDED = [(32, 48), (32, 48), (32, 48), (16, 16)]
# Of all convolutions at a resolution, the full one first, in units of the width.
CHANNELS = [5, 8, 16, 32, 16]


@cache
def networks() -> tuple[UNet, PackedUNet]:
    model = random_model(UNetConfig(width=4))
    norm = model.up_c3.norm1.norm
    assert norm.scale is not None
    assert norm.bias is not None
    norm.scale[...] = norm.scale[...].at[0].set(0.0)
    norm.bias[...] = norm.bias[...].at[0].set(1.0)  # channel 0 is always on
    model.eval()
    return model, pack(model)


@cache
def images() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": rng.integers(0, 256, (*size, 3)).astype(np.uint8),
            "mask": np.zeros(size, np.uint8),
            "id": str(number),
        }
        for number, size in enumerate(SIZES)
    ]


def test_a_packed_network_agrees_on_every_bit() -> None:
    model, params = networks()
    agreement = compare(model, params, images(), batch_size=2)
    pixels = sum(height * width for height, width in SIZES)
    bits = sum(
        4 * channels * (height >> level) * (width >> level)
        for height, width in PADDED
        for level, channels in enumerate(CHANNELS)
    )
    assert agreement == (4, pixels, 0, bits, 0, {})
    assert str(agreement) == (
        "its masks are the model's on every pixel of 4 images (2,015 pixels, 0 differ), and so are "
        f"its layers' activations ({bits:,} bits, 0 differ)"
    )


def test_a_layer_that_differs_is_named_and_its_bits_counted() -> None:
    model, params = networks()
    name = "up_c3.conv1"
    conv = params.convs[name]
    assert int(conv.theta[0, 0]) == -INT_MAX
    never = dataclasses.replace(conv, theta=jnp.asarray(conv.theta).at[0, 0].set(INT_MAX))
    wrong = dataclasses.replace(params, convs={**params.convs, name: never})
    agreement = compare(model, wrong, images(), batch_size=2)
    first, *later = agreement.different_layers
    assert first == name
    assert agreement.different_layers[name] == sum(h // 2 * (w // 2) for h, w in PADDED)
    assert set(later) <= {"up_c3.conv2", "up_ct4.conv", "up_c4.conv1", "up_c4.conv2"}
    assert agreement.different_activation_bits == sum(agreement.different_layers.values())
    assert str(agreement).endswith("of 4 images differ from the model's, first in up_c3.conv1")


def test_pixels_that_differ_are_counted() -> None:
    """A head that sees objects alone errs on the background, one that sees none on the rest."""
    model, params = networks()
    counts = []
    for bias in (1e6, -1e6):
        blind = dataclasses.replace(params.head, bias=jnp.full_like(params.head.bias, bias))
        wrong = dataclasses.replace(params, head=blind)
        agreement = compare(model, wrong, images(), batch_size=2)
        assert (agreement.different_activation_bits, agreement.different_layers) == (0, {})
        assert str(agreement).endswith("first in the head")
        counts.append(agreement.different_pixels)
    assert sum(counts) == agreement.pixels
    assert min(counts) > 0
