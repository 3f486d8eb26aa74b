"""The full-precision U-Net for XLA, in any float type, as a peer would be deployed."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from mbu_jax.architecture import padded_size
from mbu_jax.convolution import max_pool2x2

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def float_unet(tensors: Mapping[str, Array], images: Array) -> Array:
    """Segment images with convolutions and biases, BatchNorms folded.

    Args:
      tensors: `experiments.benchmark.folding.folded_tensors`, of the type to compute in.
      images: uint8 [B, H, W, C].

    Returns:
      Float32 logits [B, H, W, classes].
    """
    dtype = tensors["head.weight"].dtype
    _, height, width, _ = images.shape
    padded_height, padded_width = padded_size(height, width)
    border = ((0, 0), (0, padded_height - height), (0, padded_width - width), (0, 0))
    x = jnp.pad(images, border, mode="edge").astype(dtype) * _number(2 / 255, dtype)
    full = _double(tensors, "stem", x - _number(1, dtype))
    half = _double(tensors, "down_c1", max_pool2x2(full))
    quarter = _double(tensors, "down_c2", max_pool2x2(half))
    eighth = _double(tensors, "down_c3", max_pool2x2(quarter))
    y = _double(tensors, "down_c4", max_pool2x2(eighth))
    for index, skip in enumerate((eighth, quarter, half, full), start=1):
        up = _up(tensors, f"up_ct{index}", y)
        y = _double(tensors, f"up_c{index}", jnp.concatenate([skip, up], axis=-1))
    logits = _conv(tensors, "head", y)[:, :height, :width]
    return logits.astype(jnp.float32)


def _number(value: float, dtype: DTypeLike) -> Array:
    return jnp.asarray(value, dtype)


def _double(tensors: Mapping[str, Array], name: str, x: Array) -> Array:
    for index in ("1", "2"):
        x = jax.nn.relu(_conv(tensors, f"{name}.conv{index}", x))
    return x


def _conv(tensors: Mapping[str, Array], name: str, x: Array) -> Array:
    # Left to XLA's default precision, which on a GPU is TF32 for float32, as in PyTorch.
    y = lax.conv_general_dilated(
        x, tensors[f"{name}.weight"], (1, 1), "SAME", dimension_numbers=_LAYOUT
    )
    return y + tensors[f"{name}.bias"].reshape(1, 1, 1, -1)


def _up(tensors: Mapping[str, Array], name: str, x: Array) -> Array:
    """Four 1x1 convolutions, interleaved."""
    batch, height, width, channels = x.shape
    weight = tensors[f"{name}.weight"]
    outputs = weight.shape[3]
    flat = weight.transpose(2, 0, 1, 3).reshape(1, 1, channels, 4 * outputs)
    y = lax.conv_general_dilated(x, flat, (1, 1), "VALID", dimension_numbers=_LAYOUT)
    y = y.reshape(batch, height, width, 2, 2, outputs).swapaxes(2, 3)
    y = y.reshape(batch, 2 * height, 2 * width, outputs)
    return y + tensors[f"{name}.bias"].reshape(1, 1, 1, -1)
