"""The whole U-Net in evaluation mode, in NumPy: integers and exact comparisons.

Where a layer's weights are real numbers everything is float64, which is exact as long as those
are multiples of a power of two, and so is the image in the full-precision network; the others
see 256 levels, as integers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.oracles import batch_norm, convolution, levels

EPSILON = 1e-5


def padded_to_16(images: NDArray) -> NDArray:
    """Repeat the last row and column up to multiples of 16."""
    _, height, width, _ = images.shape
    rows = np.minimum(np.arange((height + 15) // 16 * 16), height - 1)
    columns = np.minimum(np.arange((width + 15) // 16 * 16), width - 1)
    return images[:, rows][:, :, columns]


def levels_of(images: NDArray) -> NDArray:
    """The 256 levels of images in [0, 1] or of bytes, int64."""
    if images.dtype == np.uint8:
        return images.astype(np.int64)
    scaled = np.rint(np.float32(255) * images.astype(np.float32))
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255).astype(np.int64)


@dataclass
class UNetOracle:
    """Runs images in [0, 1] through the network and keeps what every part gives.

    Attributes:
      params: nested arrays, ``params["stem"]["conv1"]["weight"]`` and so on.
      precisions: of the twelve configurable layers.
      bits: activation bits; 32 is the full-precision network.
      ternarizer: of masked layers.
      density: of masked layers whose ternarizer is ``density``.
      seen: output of every convolution and activation, by name.
    """

    params: Mapping[str, Any]
    precisions: Mapping[str, str]
    bits: int
    ternarizer: str = "fixed"
    density: float = 0.1
    seen: dict[str, NDArray] = field(default_factory=dict)

    def __call__(self, images: NDArray) -> NDArray:
        _, height, width, _ = images.shape
        pool = convolution.max_pool2x2
        images = padded_to_16(images)
        plain = self.bits == 32
        full = self.double_conv("stem", 2.0 * images - 1 if plain else 2 * levels_of(images) - 255)
        half = self.double_conv("down_c1", pool(full))
        quarter = self.double_conv("down_c2", pool(half))
        eighth = self.double_conv("down_c3", pool(quarter))
        y = self.double_conv("down_c4", pool(eighth))
        for number, skip in enumerate((eighth, quarter, half, full), start=1):
            y = np.concatenate([skip, self.up(f"up_ct{number}", y)], axis=-1)
            y = self.double_conv(f"up_c{number}", y)
        head = self.params["head"]
        logits = y @ head["weight"].astype(np.float64) + head["bias"]
        return logits[:, :height, :width]

    def weights(self, layer: str, conv: str, precision: str) -> NDArray:
        latent = np.asarray(self.params[layer][conv]["weight"])
        return levels.weights(latent, precision, self.ternarizer, self.density)

    def double_conv(self, layer: str, x: NDArray) -> NDArray:
        first = second = self.precisions.get(layer, "")
        if layer == "stem":
            first, second = "float32", "float32" if self.bits == 32 else "masked"
        for number, precision in (("1", first), ("2", second)):
            padding = 0 if precision == "float32" else -(2**self.bits - 1)
            weights = self.weights(layer, f"conv{number}", precision)
            y = convolution.conv3x3(x, weights, padding)
            self.seen[f"{layer}.conv{number}"] = y
            x = self.norm_activation(layer, f"norm{number}", y)
        return x

    def up(self, layer: str, x: NDArray) -> NDArray:
        weights = self.weights(layer, "conv", self.precisions[layer])
        y = self.seen[f"{layer}.conv"] = convolution.up_conv2x2(x, weights)
        if self.bits == 32:
            return y + self.params[layer]["bias"]
        return self.norm_activation(layer, "norm", y)

    def norm_activation(self, layer: str, name: str, y: NDArray) -> NDArray:
        norm = self.params[layer][name]["norm"]
        statistics = [np.asarray(norm[key], np.float64) for key in ("scale", "bias", "mean", "var")]
        gamma, beta, mean, var = statistics
        epsilon: float | Fraction = EPSILON
        if self.bits < 32 and (layer, name) == ("stem", "norm1"):  # y is 255 times training's
            mean, var, epsilon = 255 * mean, 255**2 * var, 255**2 * Fraction(EPSILON)
        if self.bits == 32:
            x = np.maximum(gamma * (y - mean) / np.sqrt(var + EPSILON) + beta, 0)
        else:
            x = batch_norm.activations(y, gamma, beta, mean, var, epsilon, self.bits)
        self.seen[f"{layer}.{name}"] = x
        return x
