"""Flax NNX layers of the masked binary U-Net.

A quantized layer keeps floating *latent* weights, quantizes them on every forward pass and
trains through a straight-through gradient. In training mode BatchNorm normalizes by batch
statistics; in evaluation mode the same layer compares its accumulator with folded thresholds
(see `mbu_jax.thresholds`), which is what the packed network does.

No module shares a reference with another, so NNX's graph mode and tree mode both work.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.scipy.special import ndtri
from jax.typing import DTypeLike

from mbu_jax import convolution
from mbu_jax.errors import InputError
from mbu_jax.quantizers import (
    SteGradient,
    Ternarizer,
    binarize,
    power_of_two,
    quantize_activation,
    symmetric,
    ternarize,
)
from mbu_jax.thresholds import fold_batch_norm, round_for_exact_sums

Precision = Literal["float32", "int8", "int4", "int2", "pow2", "masked", "binary"]


class LatentWeight(nnx.Param):
    """Floating weight behind a quantized one, meant to stay in [-1, 1]."""


class Folded(nnx.Variable):
    """What evaluation uses instead of parameters and statistics; made by `fold`, never trained."""


@dataclasses.dataclass(frozen=True)
class QuantizationOptions:
    """How latent weights and activations become integers.

    Attributes:
      activation_bits: 1 (sign), 2 (levels -3, -1, 1, 3), or 32 (ReLU, no quantization).
      weight_gradient: surrogate derivative for weights.
      activation_gradient: surrogate derivative for activations.
      ternarizer: how masked layers find their threshold.
      density: share of non-zeros: of masked weights at initialization, and throughout training
        with ``ternarizer="density"``.
    """

    activation_bits: int = 1
    weight_gradient: SteGradient = "clipped"
    activation_gradient: SteGradient = "clipped"
    ternarizer: Ternarizer = "fixed"
    density: float = 0.1


def quantize_weight(latent: Array, precision: Precision, options: QuantizationOptions) -> Array:
    """Integers of one layer's weights, straight through.

    Args:
      latent: floating latent weights of any shape.
      precision: the layer's precision; ``float32`` returns the weights as they are.
      options: surrogate gradient, ternarizer and density.

    Returns:
      Array of the same shape and dtype.

    Example:
      >>> quantize_weight(jnp.array([0.2, -0.7]), "masked", QuantizationOptions()).tolist()
      [0.0, -1.0]
    """
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


class _Weighted(nnx.Module):
    """Holds the weights of one convolution at one precision."""

    def __init__(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        precision: Precision,
        options: QuantizationOptions,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.precision: Precision = precision
        self.options = options
        self.dtype = jnp.dtype(dtype)
        if precision == "float32":
            scale = jnp.sqrt(2.0 / fan_in).astype(jnp.float32)
            self.weight = nnx.Param(jax.random.normal(rngs.params(), shape) * scale)
        else:
            init = latent_initializer(options.density)
            self.weight = LatentWeight(init(rngs.params(), shape, jnp.float32))

    def quantized_weight(self) -> Array:
        """The weights that the layer multiplies by: integers unless its precision is float32."""
        return quantize_weight(self.weight[...], self.precision, self.options)

    def _operands(self, x: Array) -> tuple[Array, Array]:
        # Integers need float32's 24-bit mantissa; only true floats may be computed narrower.
        dtype = self.dtype if self.precision == "float32" else jnp.float32
        return x.astype(dtype), self.quantized_weight().astype(dtype)


class Conv3x3(_Weighted):
    """3x3 convolution, stride 1, same size, no bias.

    Quantized weights see the lowest activation level outside the image, full-precision ones 0.

    Args:
      in_channels: C of the input.
      out_channels: K of the output.
      precision: of the weights.
      options: quantization.
      dtype: of the arithmetic where the precision is float32.
      rngs: NNX random keys.

    Example:
      >>> layer = Conv3x3(4, 8, "masked", QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((1, 5, 7, 4))).shape
      (1, 5, 7, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        precision: Precision,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (3, 3, in_channels, out_channels)
        super().__init__(shape, 9 * in_channels, precision, options, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """Convolve.

        Args:
          x: [B, H, W, C] image or activations.

        Returns:
          [B, H, W, K] accumulators: integers where the weights are quantized.
        """
        lowest = -(2.0**self.options.activation_bits - 1)
        padding = 0.0 if self.precision == "float32" else lowest
        return convolution.conv3x3(*self._operands(x), padding)


class UpConv2x2(_Weighted):
    """2x2 transposed convolution with stride 2, no bias.

    Args:
      in_channels: C of the input.
      out_channels: K of the output.
      precision: of the weights.
      options: quantization.
      dtype: of the arithmetic where the precision is float32.
      rngs: NNX random keys.

    Example:
      >>> layer = UpConv2x2(4, 8, "binary", QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((1, 5, 7, 4))).shape
      (1, 10, 14, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        precision: Precision,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        shape = (2, 2, in_channels, out_channels)
        super().__init__(shape, in_channels, precision, options, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """Convolve.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, 2H, 2W, K] accumulators: integers where the weights are quantized.
        """
        return convolution.up_conv2x2(*self._operands(x))


class NormActivation(nnx.Module):
    """BatchNorm and activation; in evaluation mode, a comparison with folded thresholds.

    Args:
      channels: C.
      options: quantization; ``activation_bits=32`` gives ReLU and no folding.
      integer: whether the input is the integer accumulator of a quantized convolution.
      rngs: NNX random keys.

    Attributes:
      use_running_average: False in training; `flax.nnx.Module.eval` sets it. The thresholds are
        those of the last `fold`: call that (or `UNet.eval`) after the parameters change.

    Example:
      >>> layer = NormActivation(2, QuantizationOptions(), integer=True, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([[[[5.0, -3.0]], [[1.0, 9.0]]]])).tolist()
      [[[[1.0, -1.0]], [[-1.0, 1.0]]]]
    """

    def __init__(
        self, channels: int, options: QuantizationOptions, *, integer: bool, rngs: nnx.Rngs
    ):
        bits = options.activation_bits
        # Unit-variance inputs use two-bit levels best when cut at ±1 standard deviation.
        scale = 2.0 if bits == 2 else 1.0
        self.norm = nnx.BatchNorm(
            channels,
            momentum=0.9,
            epsilon=1e-5,
            use_fast_variance=False,  # E[y²] - E[y]² loses the variance of a large accumulator
            scale_init=nnx.initializers.constant(scale),
            rngs=rngs,
        )
        self.options = options
        self.integer = integer
        self.use_running_average = False
        if bits < 32:
            self.theta = Folded(jnp.zeros((2**bits - 1, channels), jnp.float32))
            self.sign = Folded(jnp.ones((channels,), jnp.float32))

    def fold(self) -> None:
        """Recompute the thresholds from BatchNorm's parameters and running statistics.

        Raises:
          InputError: under ``jit`` or another transformation, where values are not known.
        """
        bits = self.options.activation_bits
        if bits == 32:
            return
        norm = self.norm
        values = _value(norm.scale), _value(norm.bias), norm.mean[...], norm.var[...]
        _check_concrete(values)
        folded = fold_batch_norm(*values, epsilon=norm.epsilon, bits=bits, integer=self.integer)
        # Float32 holds every integer that an accumulator can reach; larger ones stay larger.
        self.theta[...] = jnp.asarray(folded.theta, jnp.float32)
        self.sign[...] = jnp.asarray(folded.sign)

    def __call__(self, y: Array) -> Array:
        """Normalize and activate.

        Args:
          y: [B, H, W, C] accumulators.

        Returns:
          [B, H, W, C] activations.
        """
        bits = self.options.activation_bits
        if bits == 32:
            z = self.norm(y.astype(jnp.float32))
            return jax.nn.relu(z).astype(y.dtype)
        y = y.astype(jnp.float32)
        if not self.use_running_average:
            return quantize_activation(self.norm(y), bits, self.options.activation_gradient)
        if self.integer:
            y = jnp.round(y)  # some GPU convolutions (Winograd) miss integers by a rounding
        y = y * self.sign[...].reshape(1, 1, 1, -1)
        code = sum((y >= t.reshape(1, 1, 1, -1)).astype(jnp.float32) for t in self.theta[...])
        return 2 * code - (2**bits - 1)


def _check_concrete(values: tuple[Array, ...]) -> None:
    if any(isinstance(value, jax.core.Tracer) for value in values):
        raise InputError(
            "thresholds are folded in float64, outside jit; call the model's eval() or fold() "
            "before the transformed function, not in it"
        )


def _value(variable: nnx.Param[Array] | None) -> Array:
    assert variable is not None, "BatchNorm is made with scale and bias"
    return variable[...]


class DoubleConv(nnx.Module):
    """Two 3x3 convolutions, each with BatchNorm and activation.

    Args:
      in_channels: C of the input.
      out_channels: K of the output, and of the middle.
      precisions: of the first and second convolution's weights.
      options: quantization.
      dtype: of the arithmetic where a precision is float32.
      rngs: NNX random keys.

    Example:
      >>> block = DoubleConv(4, 8, ("binary", "binary"), QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> block(jnp.ones((1, 4, 4, 4))).shape
      (1, 4, 4, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        precisions: tuple[Precision, Precision],
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        first, second = precisions
        self.conv1 = Conv3x3(in_channels, out_channels, first, options, dtype=dtype, rngs=rngs)
        self.norm1 = NormActivation(out_channels, options, integer=first != "float32", rngs=rngs)
        self.conv2 = Conv3x3(out_channels, out_channels, second, options, dtype=dtype, rngs=rngs)
        self.norm2 = NormActivation(out_channels, options, integer=second != "float32", rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Apply both convolutions.

        Args:
          x: [B, H, W, C] image or activations.

        Returns:
          [B, H, W, K] activations.
        """
        return self.norm2(self.conv2(self.norm1(self.conv1(x))))


class Stem(DoubleConv):
    """The first two convolutions; the one on the image is full precision, the next is masked.

    A sign keeps no amplitude, so what its threshold separates matters from the first update on.
    Half of the first convolution's channels start without a response to constant brightness and
    see contrast, however dim the image; the others start with thresholds spread over ±1.5
    standard deviations and see brightness, as a thermometer does.

    Args:
      in_channels: C of the image.
      out_channels: K of the output.
      options: quantization; with ``activation_bits=32`` this is a plain `DoubleConv`.
      dtype: of the full-precision arithmetic.
      rngs: NNX random keys.

    Example:
      >>> stem = Stem(3, 8, QuantizationOptions(), rngs=nnx.Rngs(0))
      >>> stem(jnp.ones((1, 4, 4, 3))).shape
      (1, 4, 4, 8)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        bits = options.activation_bits
        second: Precision = "float32" if bits == 32 else "masked"
        super().__init__(
            in_channels, out_channels, ("float32", second), options, dtype=dtype, rngs=rngs
        )
        if bits == 32:
            return
        contrast = out_channels // 2
        kernels = self.conv1.weight[...]
        means = kernels.mean(axis=(0, 1), keepdims=True)
        is_contrast = jnp.arange(out_channels).reshape(1, 1, 1, -1) < contrast
        self.conv1.weight[...] = jnp.where(is_contrast, kernels - means, kernels)
        spread = jnp.linspace(-1.5, 1.5, out_channels - contrast)
        bias = self.norm1.norm.bias
        assert bias is not None, "BatchNorm is made with scale and bias"
        bias[...] = bits * jnp.concatenate([jnp.zeros(contrast), spread])


class Up(nnx.Module):
    """Transposed convolution; with BatchNorm and activation where the network is quantized.

    The full-precision network has a bias instead, as the paper's Figure A.1 draws it.

    Args:
      channels: C, of input and output.
      precision: of the weights.
      options: quantization.
      dtype: of the arithmetic where the precision is float32.
      rngs: NNX random keys.

    Example:
      >>> Up(4, "masked", QuantizationOptions(), rngs=nnx.Rngs(0))(jnp.ones((1, 2, 3, 4))).shape
      (1, 4, 6, 4)
    """

    def __init__(
        self,
        channels: int,
        precision: Precision,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.conv = UpConv2x2(channels, channels, precision, options, dtype=dtype, rngs=rngs)
        self.quantized = options.activation_bits < 32
        if self.quantized:
            self.norm = NormActivation(channels, options, integer=precision != "float32", rngs=rngs)
        else:
            self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        """Upsample.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, 2H, 2W, C] activations.
        """
        y = self.conv(x)
        if self.quantized:
            return self.norm(y)
        return y + self.bias[...].astype(y.dtype).reshape(1, 1, 1, -1)


class Head(nnx.Module):
    """1x1 convolution with bias, always full precision.

    Behind quantized activations, evaluation rounds the weights so that their sums are exact in
    float32, whatever the order: every engine then gives the same logits, to the last bit.

    Args:
      in_channels: C of the input.
      classes: channels of the logits.
      options: quantization of the input.
      dtype: of the arithmetic in training; evaluation of quantized activations takes float32.
      rngs: NNX random keys.

    Attributes:
      use_running_average: False in training; see `NormActivation`.

    Example:
      >>> Head(4, 2, QuantizationOptions(), rngs=nnx.Rngs(0))(jnp.ones((1, 2, 2, 4))).shape
      (1, 2, 2, 2)
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        options: QuantizationOptions,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        scale = jnp.sqrt(1.0 / in_channels).astype(jnp.float32)
        self.weight = nnx.Param(jax.random.normal(rngs.params(), (in_channels, classes)) * scale)
        self.bias = nnx.Param(jnp.zeros((classes,), jnp.float32))
        self.dtype = jnp.dtype(dtype)
        self.options = options
        self.use_running_average = False
        if options.activation_bits < 32:
            self.exact_weight = Folded(jnp.zeros((in_channels, classes), jnp.float32))
            self.exact_bias = Folded(jnp.zeros((classes,), jnp.float32))

    def fold(self) -> None:
        """Round weights and bias anew to where their sums are exact.

        Raises:
          InputError: under ``jit`` or another transformation, where values are not known.
        """
        bits = self.options.activation_bits
        if bits == 32:
            return
        values = self.weight[...], self.bias[...]
        _check_concrete(values)
        weight, bias = round_for_exact_sums(*values, largest=2**bits - 1)
        self.exact_weight[...] = jnp.asarray(weight)
        self.exact_bias[...] = jnp.asarray(bias)

    def __call__(self, x: Array) -> Array:
        """Classify every pixel.

        Args:
          x: [B, H, W, C] activations.

        Returns:
          [B, H, W, classes] float32 logits.
        """
        if self.use_running_average and self.options.activation_bits < 32:
            y = convolution.conv1x1(x.astype(jnp.float32), self.exact_weight[...])
            return y + self.exact_bias[...].reshape(1, 1, 1, -1)
        y = convolution.conv1x1(x.astype(self.dtype), self.weight[...].astype(self.dtype))
        return y.astype(jnp.float32) + self.bias[...].reshape(1, 1, 1, -1)
