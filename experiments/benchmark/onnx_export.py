"""The full-precision U-Net as an ONNX model, channels first, its BatchNorms folded.

Runtimes see convolutions with bias, ReLU, pools and concatenations in NCHW, for any batch and any
size that four poolings divide. A 2x2 transposed convolution is a 1x1 convolution whose channels go
to the four pixels: no slower in float, and faster as integers, than ConvTranspose.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from experiments.benchmark.folding import folded_conv
from mbu_jax.errors import InputError
from mbu_jax.layers import DoubleConv
from mbu_jax.unet import UNet

INPUT, OUTPUT = "image", "logits"
BATCH, HEIGHT, WIDTH = "batch", "height", "width"
"""Names of the model's free dimensions."""

_OPSET, _IR_VERSION = 17, 10


def export_onnx(model: UNet) -> onnx.ModelProto:
    """Write the full-precision network as an ONNX graph.

    Its input is float32 [B, C, H, W] in [-1, 1] (twice the image minus 1), H and W multiples of
    16; its output is float32 [B, classes, H, W] logits. BatchNorm is folded into the convolution
    before it in float64, as in evaluation mode.

    Args:
      model: a network with activations in full precision.

    Returns:
      The model, checked by ONNX itself.

    Raises:
      InputError: for a network with quantized activations.
    """
    if model.config.quantization.activation_bits < 32:
        raise InputError(
            "only a full_precision network is exported to ONNX; train one with "
            "--network full_precision"
        )
    graph = _Graph()
    full = graph.double_conv("stem", model.stem, INPUT)
    half = graph.double_conv("down_c1", model.down_c1, graph.max_pool("pool1", full))
    quarter = graph.double_conv("down_c2", model.down_c2, graph.max_pool("pool2", half))
    eighth = graph.double_conv("down_c3", model.down_c3, graph.max_pool("pool3", quarter))
    y = graph.double_conv("down_c4", model.down_c4, graph.max_pool("pool4", eighth))
    for index, skip in enumerate((eighth, quarter, half, full), start=1):
        up = getattr(model, f"up_ct{index}")
        y = graph.up_conv(f"up_ct{index}", np.asarray(up.conv.weight[...]), up.bias[...], y)
        y = graph.node("Concat", f"cat{index}", [skip, y], axis=1)
        y = graph.double_conv(f"up_c{index}", getattr(model, f"up_c{index}"), y)
    head = np.asarray(model.head.weight[...])
    graph.conv(OUTPUT, head[None, None], np.asarray(model.head.bias[...]), y)
    return graph.finish(model.config.in_channels, model.config.classes)


class _Graph:
    """Nodes and weights; every method returns the name of what it computes."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, kind: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def double_conv(self, name: str, block: DoubleConv, x: str) -> str:
        for index in ("1", "2"):
            conv, norm = getattr(block, f"conv{index}"), getattr(block, f"norm{index}")
            y = self.conv(f"{name}.conv{index}", *folded_conv(conv, norm), x)
            x = self.node("Relu", f"{name}.relu{index}", [y])
        return x

    def conv(self, name: str, weight: NDArray, bias: NDArray, x: str) -> str:
        """[h, w, C, K] weights, padded with zeros to the same size."""
        side = weight.shape[0]
        inputs = [x, *self._tensors(name, weight.transpose(3, 2, 0, 1), bias)]
        pads = [side // 2] * 4
        return self.node("Conv", name, inputs, kernel_shape=[side, side], pads=pads)

    def up_conv(self, name: str, weight: NDArray, bias: Any, x: str) -> str:
        """[2, 2, C, K] weights, stride 2."""
        rows, columns, inputs, outputs = weight.shape
        flat = weight.transpose(2, 0, 1, 3).reshape(1, 1, inputs, rows * columns * outputs)
        y = self.conv(f"{name}.conv", flat, np.tile(np.asarray(bias), rows * columns), x)
        return self.node("DepthToSpace", name, [y], blocksize=rows, mode="DCR")

    def max_pool(self, name: str, x: str) -> str:
        return self.node("MaxPool", name, [x], kernel_shape=[2, 2], strides=[2, 2])

    def _tensors(self, name: str, weight: NDArray, bias: NDArray) -> list[str]:
        named = {f"{name}.weight": weight, f"{name}.bias": bias}
        self._weights += [
            numpy_helper.from_array(np.ascontiguousarray(value, np.float32), key)
            for key, value in named.items()
        ]
        return list(named)

    def finish(self, channels: int, classes: int) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, depth, HEIGHT, WIDTH])
            for name, depth in ((INPUT, channels), (OUTPUT, classes))
        ]
        graph = helper.make_graph(self._nodes, "unet", ends[:1], ends[1:], self._weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        onnx.checker.check_model(model, full_check=True)
        return model
