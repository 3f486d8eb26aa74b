"""The float network as TensorRT's layers, in float16 or in 8-bit integers between quantizers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMAGES, LOGITS = "images", "logits"

_LEVELS = 127
_LEAST_RANGE = 0.01  # a float16 holds its 127th part


class TensorrtNetwork:
    """The U-Net, its BatchNorms folded into the convolutions; types are those of its tensors.

    Args:
      trt: the library, of version 10.
      definition: an empty, strongly typed network that the layers are added to.
      tensors: by name, ``LAYER.weight`` [h, w, C, K] and ``LAYER.bias``.
      ranges: by convolution, the largest magnitude of its input; given, it computes in integers.
      probing: whether the convolutions' inputs are outputs, too, to find their ranges.
    """

    def __init__(
        self,
        trt: Any,
        definition: Any,
        tensors: Mapping[str, NDArray],
        ranges: Mapping[str, float] | None = None,
        *,
        probing: bool = False,
    ) -> None:
        self._trt = trt
        self._definition = definition
        self._tensors = tensors
        self._ranges = ranges
        self._probing = probing
        self._kept: list[NDArray] = []  # TensorRT reads weights where they are, when it builds

    def build(self, shape: tuple[int, ...]) -> None:
        """Add all layers.

        Args:
          shape: of the images, uint8 [B, H, W, C]. The logits are float32 [B, H, W, classes].
        """
        trt, definition = self._trt, self._definition
        _, height, width, _ = shape
        x = self._cast(definition.add_input(IMAGES, trt.uint8, shape), trt.float16)
        x = self._transposed(x, (0, 3, 1, 2))
        # shift, scale and power
        numbers = [self._weights(np.array([value])) for value in (-1, 2 / 255, 1)]
        x = definition.add_scale(x, trt.ScaleMode.UNIFORM, *numbers).get_output(0)
        if height % 16 or width % 16:
            x = self._cut(x, height + -height % 16, width + -width % 16)
        full = self._double("stem", x)
        half = self._double("down_c1", self._pooled(full))
        quarter = self._double("down_c2", self._pooled(half))
        eighth = self._double("down_c3", self._pooled(quarter))
        y = self._double("down_c4", self._pooled(eighth))
        for index, skip in enumerate((eighth, quarter, half, full), start=1):
            joined = definition.add_concatenation([skip, self._up(f"up_ct{index}", y)])
            joined.axis = 1
            y = self._double(f"up_c{index}", joined.get_output(0))
        y = self._cut(self._conv("head", y), height, width)
        y = self._transposed(self._cast(y, trt.float32), (0, 2, 3, 1))
        y.name = LOGITS
        definition.mark_output(y)

    def _double(self, name: str, x: Any) -> Any:
        for index in ("1", "2"):
            y = self._conv(f"{name}.conv{index}", x)
            rectified = self._definition.add_activation(y, self._trt.ActivationType.RELU)
            x = rectified.get_output(0)
        return x

    def _conv(self, name: str, x: Any) -> Any:
        kernel = self._tensors[f"{name}.weight"].transpose(3, 2, 0, 1)
        layer = self._layer(self._definition.add_convolution_nd, name, x, kernel, outputs_at=0)
        layer.padding_nd = (kernel.shape[2] // 2, kernel.shape[3] // 2)
        return layer.get_output(0)

    def _up(self, name: str, x: Any) -> Any:
        kernel = self._tensors[f"{name}.weight"].transpose(2, 3, 0, 1)
        layer = self._layer(self._definition.add_deconvolution_nd, name, x, kernel, outputs_at=1)
        layer.stride_nd = (2, 2)
        return layer.get_output(0)

    def _layer(self, add: Any, name: str, x: Any, kernel: NDArray, *, outputs_at: int) -> Any:
        if self._probing:
            x.name = name
            self._definition.mark_output(x)
        outputs, size = kernel.shape[outputs_at], kernel.shape[2:]
        bias = self._weights(self._tensors[f"{name}.bias"])
        if self._ranges is None:
            return add(x, outputs, size, self._weights(kernel), bias)
        x = self._quantized(x, np.array(max(self._ranges[name], _LEAST_RANGE) / _LEVELS))
        layer = add(x, outputs, size, self._trt.Weights(self._trt.float16), bias)
        others = tuple(axis for axis in range(4) if axis != outputs_at)
        largest = np.maximum(np.abs(kernel).max(axis=others), _LEAST_RANGE)
        constant = self._constant(kernel)
        layer.set_input(1, self._quantized(constant, largest / _LEVELS, axis=outputs_at))
        return layer

    def _quantized(self, x: Any, scale: NDArray, axis: int | None = None) -> Any:
        """Through integers and back, which TensorRT joins with the layer behind."""
        trt, definition = self._trt, self._definition
        by = self._constant(scale)
        down = definition.add_quantize(x, by, trt.int8)
        if axis is not None:
            down.axis = axis
        back = definition.add_dequantize(down.get_output(0), by, trt.float16)
        if axis is not None:
            back.axis = axis
        return back.get_output(0)

    def _pooled(self, x: Any) -> Any:
        layer = self._definition.add_pooling_nd(x, self._trt.PoolingType.MAX, (2, 2))
        layer.stride_nd = (2, 2)
        return layer.get_output(0)

    def _cut(self, x: Any, height: int, width: int) -> Any:
        """To a size; beyond the border stands what stands at it."""
        shape = (*tuple(x.shape)[:2], height, width)
        layer = self._definition.add_slice(x, (0, 0, 0, 0), shape, (1, 1, 1, 1))
        layer.mode = self._trt.SampleMode.CLAMP
        return layer.get_output(0)

    def _transposed(self, x: Any, order: tuple[int, ...]) -> Any:
        layer = self._definition.add_shuffle(x)
        layer.first_transpose = order
        return layer.get_output(0)

    def _cast(self, x: Any, dtype: Any) -> Any:
        return self._definition.add_cast(x, dtype).get_output(0)

    def _constant(self, value: NDArray) -> Any:
        return self._definition.add_constant(value.shape, self._weights(value)).get_output(0)

    def _weights(self, value: NDArray) -> Any:
        self._kept.append(np.array(value, np.float16, order="C"))
        return self._trt.Weights(self._kept[-1])
