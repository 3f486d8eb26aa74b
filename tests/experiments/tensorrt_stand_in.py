"""What the benchmark calls of TensorRT's network definition, computed at once in float32."""

import enum
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

uint8, int8, float16, float32 = "uint8", "int8", "float16", "float32"
ScaleMode = SimpleNamespace(UNIFORM="uniform")
ActivationType = SimpleNamespace(RELU="relu")
PoolingType = SimpleNamespace(MAX="max")
SampleMode = SimpleNamespace(CLAMP="clamp")
NCHW = ("NCHW", "OIHW", "NCHW")


class Weights:
    """A float16 array, or nothing of a type."""

    def __init__(self, value: Any):
        self.value = None
        if not isinstance(value, str):
            assert value.dtype == np.float16
            assert value.flags["C_CONTIGUOUS"]
            self.value = value.astype(np.float32)


class Kind(enum.Enum):
    IMAGES = 1
    HALF = 2
    WHOLE = 3


class Tensor:
    def __init__(self, value: Any, kind: Kind = Kind.HALF):
        self.value = jnp.asarray(value, jnp.float32)
        self.kind = kind
        self.name = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


class Layer:
    """Its result is computed when it is asked for: attributes are set after it is added."""

    def __init__(self, compute: Any, kind: Kind = Kind.HALF, **attributes: Any):
        self._compute, self._kind = compute, kind
        self._inputs: dict[int, Any] = {}
        self.__dict__.update(attributes)

    def set_input(self, index: int, tensor: Tensor) -> None:
        self._inputs[index] = tensor.value

    def get_output(self, index: int) -> Tensor:
        assert index == 0
        return Tensor(self._compute(self), self._kind)


class Definition:
    """A network that computes while it is defined.

    Args:
      images: uint8 [B, H, W, C].
    """

    def __init__(self, images: Any):
        self._images = images
        self.outputs: dict[str, Any] = {}
        self.quantized = 0

    def add_input(self, name: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
        assert (name, dtype, shape) == ("images", uint8, self._images.shape)
        return Tensor(self._images, Kind.IMAGES)

    def mark_output(self, x: Tensor) -> None:
        assert x.name not in self.outputs
        self.outputs[x.name] = x.value

    def add_cast(self, x: Tensor, dtype: str) -> Layer:
        assert (x.kind, dtype) in ((Kind.IMAGES, float16), (Kind.HALF, float32))
        return Layer(lambda _: x.value, Kind.WHOLE if dtype == float32 else Kind.HALF)

    def add_shuffle(self, x: Tensor) -> Layer:
        return Layer(lambda layer: x.value.transpose(layer.first_transpose), x.kind)

    def add_scale(self, x: Tensor, mode: str, shift: Any, scale: Any, power: Any) -> Layer:
        assert mode == "uniform"
        assert x.kind == Kind.HALF
        a, b, c = (jnp.float32(weights.value[0]) for weights in (scale, shift, power))
        return Layer(lambda _: (x.value * a + b) ** c)

    def add_activation(self, x: Tensor, kind: str) -> Layer:
        assert kind == "relu"
        return Layer(lambda _: jnp.maximum(x.value, 0))

    def add_pooling_nd(self, x: Tensor, kind: str, window: tuple[int, int]) -> Layer:
        assert kind == "max"
        return Layer(
            lambda layer: lax.reduce_window(
                x.value, -jnp.inf, lax.max, (1, 1, *window), (1, 1, *layer.stride_nd), "VALID"
            )
        )

    def add_concatenation(self, parts: list[Tensor]) -> Layer:
        return Layer(lambda layer: jnp.concatenate([part.value for part in parts], layer.axis))

    def add_slice(self, x: Tensor, start: Any, shape: Any, stride: Any) -> Layer:
        assert (start, stride) == ((0, 0, 0, 0), (1, 1, 1, 1))

        def cut(layer: Layer) -> Any:
            assert layer.mode == "clamp"  # pyrefly: ignore[missing-attribute]
            value = x.value
            for axis, (size, wanted) in enumerate(zip(x.shape, shape, strict=True)):
                value = jnp.take(value, jnp.minimum(jnp.arange(wanted), size - 1), axis)
            return value

        return Layer(cut)

    def add_constant(self, shape: tuple[int, ...], weights: Weights) -> Layer:
        assert weights.value is not None
        assert weights.value.shape == shape
        return Layer(lambda _: weights.value)

    def add_quantize(self, x: Tensor, scale: Tensor, dtype: str) -> Layer:
        assert dtype == int8
        self.quantized += 1
        return Layer(
            lambda layer: jnp.clip(jnp.round(x.value / _along(scale, layer)), -128, 127), axis=None
        )

    def add_dequantize(self, x: Tensor, scale: Tensor, dtype: str) -> Layer:
        assert dtype == float16
        return Layer(lambda layer: x.value * _along(scale, layer), axis=None)

    def add_convolution_nd(self, x: Tensor, outputs: int, size: Any, w: Weights, b: Weights) -> Any:
        def convolve(layer: Any) -> Any:
            kernel = layer._inputs.get(1, w.value)
            assert kernel.shape[0] == outputs
            assert kernel.shape[2:] == size
            padding = [(side, side) for side in layer.padding_nd]
            y = lax.conv_general_dilated(
                x.value, jnp.asarray(kernel), (1, 1), padding, dimension_numbers=NCHW
            )
            return y + jnp.asarray(b.value).reshape(1, -1, 1, 1)

        return Layer(convolve)

    def add_deconvolution_nd(
        self, x: Tensor, outputs: int, size: Any, w: Weights, b: Weights
    ) -> Any:
        def spread(layer: Any) -> Any:
            kernel = layer._inputs.get(1, w.value)  # [C, K, 2, 2]
            assert kernel.shape[1] == outputs
            assert kernel.shape[2:] == size == layer.stride_nd == (2, 2)
            y = jnp.einsum("bchw,ckij->bkhiwj", x.value, jnp.asarray(kernel))
            batch, channels, height, _, width, _ = y.shape
            y = y.reshape(batch, channels, 2 * height, 2 * width)
            return y + jnp.asarray(b.value).reshape(1, -1, 1, 1)

        return Layer(spread)


def _along(scale: Tensor, layer: Any) -> Any:
    if layer.axis is None:
        assert scale.shape == ()
        return scale.value
    assert len(scale.shape) == 1
    return scale.value.reshape([-1 if axis == layer.axis else 1 for axis in range(4)])
