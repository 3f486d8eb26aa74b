"""Latent weights: their precisions, how they become integers, how they start."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.scipy.special import ndtri
from jax.typing import DTypeLike

from mbu_jax.errors import InputError
from mbu_jax.quantizers import (
    SteGradient,
    Ternarizer,
    binarize,
    power_of_two,
    symmetric,
    ternarize,
    trained_ternary,
)

Precision = Literal["float32", "int8", "int4", "int2", "pow2", "masked", "binary", "ttq"]
INTEGERS: frozenset[Precision] = frozenset({"int8", "int4", "int2", "pow2", "masked", "binary"})
"""Precisions whose weights become integers; ``ttq`` has learned scales and is never packed."""

_CHOICES = {
    "weight_gradient": get_args(SteGradient),
    "activation_gradient": get_args(SteGradient),
    "ternarizer": get_args(Ternarizer),
}


class LatentWeight(nnx.Param):
    """Floating weight behind a quantized one, meant to stay in [-1, 1]."""


@dataclasses.dataclass(frozen=True)
class QuantizationOptions:
    """How latent weights and activations become integers.

    Attributes:
      activation_bits: 1 (sign), 2 (levels -3, -1, 1, 3), or 32 (ReLU, no quantization).
      weight_gradient: surrogate derivative for weights: ``clipped``, ``approx_sign`` or
        ``swish_sign``, see `mbu_jax.quantizers`.
      activation_gradient: surrogate derivative for activations, one of the same.
      ternarizer: how masked layers find their threshold: ``fixed``, ``twn``, ``density`` or
        ``max``, see `mbu_jax.quantizers.ternary_threshold`.
      density: share of non-zeros, a float between 0 and 1: of masked weights at initialization,
        and throughout training with ``ternarizer="density"``.

    Raises:
      InputError: naming the field and what it may be.

    Example:
      >>> options = QuantizationOptions(activation_bits=2, ternarizer="density", density=0.2)
      >>> int(jnp.abs(quantize_weight(jnp.linspace(-1, 1, 50), "masked", options)).sum())
      10
    """

    activation_bits: int = 1
    weight_gradient: SteGradient = "clipped"
    activation_gradient: SteGradient = "clipped"
    ternarizer: Ternarizer = "fixed"
    density: float = 0.1

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
          InputError: naming the field and what it may be.
        """
        bits = self.activation_bits
        if type(bits) is not int or bits not in (1, 2, 32):
            raise InputError(f"activation_bits is {bits!r}; choose 1, 2 or 32 (full precision)")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        if not isinstance(self.density, float) or not 0 < self.density < 1:
            raise InputError(f"density is {self.density!r}; choose a share between 0 and 1")


def check_precision(precision: Any, name: str) -> None:
    """Refuse a precision that there is not.

    Args:
      precision: that was given.
      name: of what was to have it.

    Raises:
      InputError: naming both, and the precisions that there are.

    Example:
      >>> check_precision("masked", "down_c1")
    """
    if precision not in get_args(Precision):
        raise InputError(
            f"{name} has unknown precision {precision!r}; choose one of "
            f"{', '.join(get_args(Precision))}"
        )


def quantize_weight(
    latent: Array,
    precision: Precision,
    options: QuantizationOptions,
    scales: Array | None = None,
) -> Array:
    """Quantize one layer's weights, straight through.

    Args:
      latent: floating latent weights of any shape.
      precision: the layer's precision; ``float32`` returns the weights as they are.
      options: surrogate gradient, ternarizer and density.
      scales: [2], the learned magnitudes of positive and negative weights, for ``ttq`` alone.

    Returns:
      Array of the same shape and dtype, of integers but for ``float32`` and ``ttq``.

    Raises:
      InputError: for an unknown precision.

    Example:
      >>> quantize_weight(jnp.array([0.2, -0.7]), "masked", QuantizationOptions()).tolist()
      [0.0, -1.0]
    """
    check_precision(precision, "the weight")
    gradient = options.weight_gradient
    match precision:
        case "float32":
            return latent
        case "binary":
            return binarize(latent, gradient)
        case "masked":
            return ternarize(latent, options.ternarizer, options.density, gradient)
        case "pow2":
            return power_of_two(latent, gradient)
        case "int8" | "int4" | "int2":
            return symmetric(latent, int(precision.removeprefix("int")), gradient)
        case "ttq":
            assert scales is not None, "layers of learned scales have them"
            return trained_ternary(latent, scales, options.ternarizer, options.density, gradient)


def latent_initializer(density: float) -> Callable[..., Array]:
    """Normal initializer whose share of values beyond the fixed threshold 0.5 is ``density``.

    A usual fan-in initialization would start far inside (-0.5, 0.5) and mask every weight.

    Args:
      density: share of weights with abs(w) > 0.5, in (0, 1).

    Returns:
      Function of (key, shape, dtype) giving values clipped to [-1, 1].

    Example:
      >>> w = latent_initializer(0.1)(jax.random.key(0), (100_000,), jnp.float32)
      >>> abs(float((jnp.abs(w) > 0.5).mean()) - 0.1) < 0.01
      True
    """
    std = -0.5 / ndtri(density / 2)

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return jnp.clip(jax.random.normal(key, shape, dtype) * std.astype(dtype), -1, 1)

    return init
