"""Every layer of a packed network alone: its program, its inputs, and the work that it is."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from mbu_jax import ops
from mbu_jax.architecture import unet_layers
from mbu_jax.ops.bitsliced import pixels
from mbu_jax.ops.bitsliced.engines import no_channels
from mbu_jax.ops.gpu.target import target
from mbu_jax.ops.gpu.tensor_cores import form_of
from mbu_jax.packing import PackedConv, PackedUNet, word_count
from triton_kernels.wgmma_tiles import Slab

_LOP3_OF_WORDS, _POPC_OF_WORDS = 5 / 3, 2 / 3
"""Three agreements, their sum and their carry, and two counts, for three words compared."""
_LOP3_OF_NONZERO = 2  # a full adder's sum and carry
_BITS = 32


@dataclasses.dataclass(frozen=True)
class LayerProgram:
    """A layer on an engine.

    Attributes:
      name: of the layer.
      engine: that runs it.
      layer: its weights, a pytree; of a pool None.
      function: of the layer and a list of inputs.
      inputs: shapes.
      work: what a call does, for the floor: ``bytes``, and of an engine's own instructions
        ``bmma_macs``, ``wgmma_macs``, ``lop3``, ``popc``.
    """

    name: str
    engine: str
    layer: Any
    function: Callable[[Any, list[Array]], Array]
    inputs: list[jax.ShapeDtypeStruct]
    work: dict[str, float]


def layer_programs(
    params: PackedUNet, engine: str, batch: int, height: int, width: int
) -> Iterator[LayerProgram]:
    """List the layers.

    Args:
      params: the network.
      engine: that runs them.
      batch: images.
      height: of an image, a multiple of 16.
      width: of an image, a multiple of 16.

    Yields:
      The stem's first convolution, all packed convolutions, the pools, and the head.
    """
    config = params.config
    planes = config.quantization.activation_bits
    by_pixels = engine == "bitsliced"

    def activations(channels: tuple[int, ...], scale: int) -> list[jax.ShapeDtypeStruct]:
        rows, columns = height // scale, width // scale
        if by_pixels:
            shapes = [(batch, planes, c, rows, word_count(columns)) for c in channels]
        else:
            shapes = [(batch, rows, columns, planes, sum(map(word_count, channels)))]
        return [jax.ShapeDtypeStruct(shape, np.uint32) for shape in shapes]

    def made(
        name: str,
        layer: Any,
        inputs: list[jax.ShapeDtypeStruct],
        function: Callable[[Any, list[Array]], Array],
        work: dict[str, float],
    ) -> LayerProgram:
        result = jax.eval_shape(function, layer, inputs)
        moved = sum(map(_bytes, [*inputs, result, *jax.tree.leaves(layer)]))
        return LayerProgram(name, engine, layer, function, inputs, {"bytes": moved, **work})

    def conv(name: str, scale: int) -> LayerProgram:
        layer = params.convs[name]
        columns = width // scale
        count = batch * (height // scale) * columns

        def function(layer: PackedConv, inputs: list[Array]) -> Array:
            if by_pixels:
                first, *others = inputs
                pair = (first, *(others or [no_channels(first)]))
                return pixels.CONV(pair, layer, implementation=engine, width=columns)
            operation = ops.up_conv2x2 if layer.transposed else ops.conv3x3
            return operation(inputs[0], layer, implementation=engine)

        work = _work(layer, engine, count)
        return made(name, layer, activations(layer.segments, scale), function, work)

    def pool(channels: int, scale: int) -> LayerProgram:
        def function(_: None, inputs: list[Array]) -> Array:
            if by_pixels:
                columns = width // scale
                return pixels.MAX_POOL2X2(inputs[0], None, implementation=engine, width=columns)
            return ops.max_pool2x2(inputs[0], implementation=engine)

        return made(f"pool{scale}", None, activations((channels,), scale), function, {})

    def stem(layer: Any, inputs: list[Array]) -> Array:
        if by_pixels:
            return pixels.STEM(inputs[0], layer, implementation=engine)
        return ops.stem(inputs[0], layer, implementation=engine)

    def head(layer: Any, inputs: list[Array]) -> Array:
        if by_pixels:
            return pixels.HEAD(inputs[0], layer, implementation=engine, width=width)
        return ops.head(inputs[0], layer, implementation=engine)

    images = jax.ShapeDtypeStruct((batch, height, width, config.in_channels), np.uint8)
    yield made("stem.conv1", params.stem, [images], stem, {})
    for name, scale in input_scales(params).items():
        yield conv(name, scale)
        if name in ("stem.conv2", "down_c1.conv2", "down_c2.conv2", "down_c3.conv2"):
            yield pool(params.convs[name].out_channels, scale)
    yield made("head", params.head, activations((config.width,), 1), head, {})


def input_scales(params: PackedUNet) -> dict[str, int]:
    """Look up how much smaller than the image a convolution's input is.

    Args:
      params: the network.

    Returns:
      By convolution, the image's height over the input's.
    """
    config = params.config
    scales = {}
    for layer in unet_layers(config.width, config.in_channels, config.classes):
        for conv in layer.convs:
            scales[f"{layer.name}.{conv.name}"] = conv.scale * (2 if conv.transposed else 1)
    return {name: scales[name] for name in params.conv_names}


def _work(layer: PackedConv, engine: str, pixels: int) -> dict[str, float]:
    """Instructions that no implementation of the engine's idea can do without."""
    planes = layer.activation_bits
    taps = math.prod(layer.positive.shape[:2])
    macs = pixels * planes * taps * layer.in_channels * layer.out_channels
    words = sum(map(word_count, layer.segments))
    compared = pixels * planes * taps * words * layer.out_channels
    match engine:
        case "bmma":
            kind = "wgmma_macs" if _by_warpgroups(layer) else "bmma_macs"
            return {kind: macs * (1 if layer.precision == "binary" else 2)}
        case "popcount":
            return {"lop3": _LOP3_OF_WORDS * compared, "popc": _POPC_OF_WORDS * compared}
        case "bitsliced":
            return {"lop3": _LOP3_OF_NONZERO * macs * layer.density / _BITS}
    return {}


def _by_warpgroups(layer: PackedConv) -> bool:
    """Whether the `bmma` engine does so on the GPU that programs are lowered for."""
    return target() is not None and isinstance(form_of(layer), Slab)


def _bytes(array: Any) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize
