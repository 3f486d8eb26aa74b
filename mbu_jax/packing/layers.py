"""Parameters of the packed layers: registered dataclasses, so pytrees.

Building one checks nothing, because JAX rebuilds pytrees with tracers and specifications in them;
whoever makes one from outside, from a model or a file, calls ``validate``.

Shape letters: T = 2^bits - 1 thresholds a channel, K output channels, N words of 32 input
channels, h and w the kernel's sides.
"""

import dataclasses
from typing import Any, Literal, Self, override

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.packing.layouts import valid_bits, word_count
from mbu_jax.thresholds import MOST_IMAGE_TERMS

PackedPrecision = Literal["binary", "masked", "pow2"]


class PackedLayer:
    """What the layers have in common."""

    def validate(self, name: str) -> Self:
        """Check every field.

        Args:
          name: what messages call the layer; by default where it stands in the network.

        Returns:
          Itself.

        Raises:
          InputError: naming the field and what it must be.
        """
        raise NotImplementedError


def _require(holds: Any, name: str, rule: str) -> None:
    if not holds:
        raise InputError(f"{name} {rule}")


def _host(value: Any, name: str, shape: tuple[int | None, ...], dtype: Any) -> NDArray:
    """The array itself, once its dtype and shape (None: any, at least 1) are as they must be."""
    found = f"is {getattr(value, 'dtype', type(value).__name__)}{list(np.shape(value))}"
    wanted = (
        f"must be {np.dtype(dtype)}[{', '.join('any' if n is None else str(n) for n in shape)}]"
    )
    fits = (
        getattr(value, "dtype", None) == np.dtype(dtype)
        and np.ndim(value) == len(shape)
        and all(
            n >= 1 if m is None else n == m for n, m in zip(np.shape(value), shape, strict=True)
        )
    )
    _require(fits, name, f"{found}; it {wanted}")
    return np.asarray(value)


def _check_finite(values: NDArray, name: str) -> None:
    _require(np.isfinite(values).all(), name, "holds a value that is not finite")


def _check_thresholds(theta: NDArray, name: str) -> None:
    _require(theta.shape[0] in (1, 3), name, f"has {theta.shape[0]} rows; it must have 1 or 3")
    _require((np.diff(theta.astype(np.float64), axis=0) >= 0).all(), name, "must ascend by rows")


def _register(*, static: tuple[str, ...] = ()) -> Any:
    def decorate(cls: type) -> type:
        data = [field.name for field in dataclasses.fields(cls) if field.name not in static]
        return jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=list(static))

    return decorate


@_register()
@dataclasses.dataclass(frozen=True)
class PackedStem(PackedLayer):
    """The convolution on the image, in integers, and its comparisons.

    The code of an activation is ``sum over t of (y >= theta[t])``, y the 3x3 convolution, with
    zeros outside, of ``2 level - 255``, where levels are the image's, 0 to 255.

    Attributes:
      weight: [3, 3, C, K] int16, 9 C at most 2^14; an output's magnitudes sum to less than 2^15,
        so y is exact in float32 too. A channel whose BatchNorm scale is negative has its weights
        flipped already.
      theta: [T, K] int32, ascending along the first axis.

    Example:
      >>> weight = np.zeros((3, 3, 3, 8), np.int16)
      >>> PackedStem(weight, np.zeros((1, 8), np.int32)).validate().activation_bits
      1
    """

    weight: Array
    theta: Array

    @property
    def activation_bits(self) -> int:
        """Bits of an output's code."""
        return (self.theta.shape[0] + 1).bit_length() - 1

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.weight.shape[2]

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.weight.shape[3]

    @override
    def validate(self, name: str = "stem.conv1") -> Self:
        """Check every field, as every layer does."""
        weight = _host(self.weight, f"{name}.weight", (3, 3, None, None), np.int16)
        theta = _host(self.theta, f"{name}.theta", (None, weight.shape[3]), np.int32)
        _check_thresholds(theta, f"{name}.theta")
        terms = 9 * self.in_channels
        _require(
            terms <= MOST_IMAGE_TERMS,
            f"{name}.weight",
            f"makes sums of {terms} products; they may have {MOST_IMAGE_TERMS}",
        )
        sums = np.abs(weight.astype(np.int64)).sum(axis=(0, 1, 2))
        _require((sums < 2**15).all(), f"{name}.weight", "must sum to less than 2^15 an output")
        return self


@_register(static=("segments",))
@dataclasses.dataclass(frozen=True)
class PackedConv(PackedLayer):
    """A quantized convolution as bit planes, and its comparisons.

    Theta compares the *integer dot product* a.w of activations in {-1, 1} or {-3, -1, 1, 3} and
    weights; the code of an output is ``sum over t of (a.w >= theta[t])``. Outside the image
    activations have their lowest level, which is code 0. A channel whose BatchNorm scale is
    negative has its weights flipped already.

    Attributes:
      positive: [h, w, K, N] uint32, bits where a weight is above 0.
      negative: [h, w, K, N] uint32, bits where a weight is below 0, or None in a binary layer,
        whose weights are negative wherever they are not positive.
      exponent: [2, h, w, K, N] uint32, bit planes of log2 of the weights' magnitudes 1, 2 and 4,
        or None where all are 1.
      theta: [T, K] int32, ascending along the first axis; -(2^31 - 1) is always reached,
        2^31 - 1 never.
      segments: input channels of each concatenated part; every part starts a new word.

    (h, w) is (3, 3) for a convolution, (2, 2) for a transposed one with stride 2, for which
    ``out[2y+i, 2x+j]`` is the product of the input at (y, x) with the weights at (i, j).

    Example:
      >>> planes = np.full((3, 3, 1, 1), 0b1111, np.uint32)
      >>> conv = PackedConv(planes, None, None, np.zeros((1, 1), np.int32), segments=(4,))
      >>> conv.validate().precision, conv.in_channels, conv.density
      ('binary', 4, 1.0)
    """

    positive: Array
    negative: Array | None
    exponent: Array | None
    theta: Array
    segments: tuple[int, ...]

    @property
    def precision(self) -> PackedPrecision:
        """What the planes can hold: ±1; 0 and ±1; or 0, ±1, ±2 and ±4."""
        if self.negative is None:
            return "binary"
        return "masked" if self.exponent is None else "pow2"

    @property
    def activation_bits(self) -> int:
        """Bits of a code, of the input as of the output."""
        return (self.theta.shape[0] + 1).bit_length() - 1

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return sum(self.segments)

    @property
    def out_channels(self) -> int:
        """Channels of the output."""
        return self.positive.shape[2]

    @property
    def transposed(self) -> bool:
        """Whether this is the transposed convolution."""
        return self.positive.shape[:2] == (2, 2)

    @property
    def density(self) -> float:
        """Share of weights that are not 0, from 0 to 1; it needs values, so not under jit."""
        if self.negative is None:
            return 1.0
        kept = np.bitwise_count(np.asarray(self.positive) | np.asarray(self.negative))
        height, width, outputs, _ = self.positive.shape
        return int(kept.sum(dtype=np.int64)) / (height * width * outputs * self.in_channels)

    @override
    def validate(self, name: str = "conv") -> Self:
        """Check every field, as every layer does."""
        segments = self.segments
        whole = isinstance(segments, tuple) and all(type(n) is int and n > 0 for n in segments)
        _require(
            whole and segments, f"{name}.segments", f"is {segments!r}; give one channel or more"
        )
        words = sum(map(word_count, segments))
        side = 2 if np.shape(self.positive)[:1] == (2,) else 3
        planes = (side, side, None, words)
        positive = _host(self.positive, f"{name}.positive", planes, np.uint32)
        planes = positive.shape
        theta = _host(self.theta, f"{name}.theta", (None, planes[2]), np.int32)
        _check_thresholds(theta, f"{name}.theta")
        _require((theta > -(2**31)).all(), f"{name}.theta", "must be above -2^31")
        unused = ~valid_bits(segments)
        _require(not (positive & unused).any(), f"{name}.positive", "has bits set beyond a segment")
        if self.negative is None:
            _require(
                self.exponent is None, f"{name}.exponent", "goes with a negative plane; drop it"
            )
            return self
        negative = _host(self.negative, f"{name}.negative", planes, np.uint32)
        _require(not (negative & unused).any(), f"{name}.negative", "has bits set beyond a segment")
        _require(not (positive & negative).any(), f"{name}.negative", "overlaps the positive plane")
        if self.exponent is not None:
            exponent = _host(self.exponent, f"{name}.exponent", (2, *planes), np.uint32)
            empty = ~(positive | negative)
            _require(not (exponent & empty).any(), f"{name}.exponent", "is set where a weight is 0")
            _require(
                not (exponent[0] & exponent[1]).any(),
                f"{name}.exponent",
                "holds 3; weights are at most 4",
            )
        return self


_LARGEST_SUM = 2.0**126  # engines also form four times a weight in float32
_SMALLEST_STEP = 2.0**-126  # below it float32 is subnormal, which processors may take for 0


@_register()
@dataclasses.dataclass(frozen=True)
class PackedHead(PackedLayer):
    """The 1x1 convolution that makes logits out of the last activations.

    Weights and bias lie on a power-of-two grid, of normal numbers, on which every partial sum is
    exact in float32, so engines may add in any order.

    Attributes:
      weight: [C, classes] float32.
      bias: [classes] float32.

    Example:
      >>> head = PackedHead(np.full((4, 1), 0.25, np.float32), np.zeros(1, np.float32))
      >>> head.validate().in_channels
      4
    """

    weight: Array
    bias: Array

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.weight.shape[0]

    @property
    def classes(self) -> int:
        """Channels of the logits."""
        return self.weight.shape[1]

    @override
    def validate(self, name: str = "head", bits: int = 1) -> Self:
        """Check every field, as every layer does.

        Args:
          name: what messages call the layer.
          bits: activation bits, which bound the sums.
        """
        weight = _host(self.weight, f"{name}.weight", (None, None), np.float32)
        bias = _host(self.bias, f"{name}.bias", (weight.shape[1],), np.float32)
        _check_finite(weight, f"{name}.weight")
        _check_finite(bias, f"{name}.bias")
        numbers = np.concatenate([weight * np.float32(2**bits - 1), bias[None]]).astype(np.float64)
        grids = np.where(numbers == 0, np.inf, _lowest_bit(np.concatenate([weight, bias[None]])))
        grid = grids.min(axis=0)
        largest = np.abs(numbers).sum(axis=0)
        small = (largest <= 2.0**24 * grid) & (largest < _LARGEST_SUM)
        exact = np.isinf(grid) | small & (grid >= _SMALLEST_STEP)
        _require(
            exact.all(), f"{name}.weight", "and bias need a grid on which float32 sums are exact"
        )
        return self


def _lowest_bit(values: NDArray) -> NDArray:
    """Largest power of two that divides each value."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    integer = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    return np.ldexp((integer & -integer).astype(np.float64), exponent - 53)
