"""What a network costs, layer by layer: weights, work, bytes, and the engine that runs it."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from mbu_jax.architecture import LAYER_NAMES, ConvShape, padded_size, unet_layers
from mbu_jax.chosen_engines import ChosenEngine, Prediction, chosen_engines
from mbu_jax.errors import InputError
from mbu_jax.inference import pack
from mbu_jax.layers import Precision, Up
from mbu_jax.packing import PackedConv, PackedUNet, check_packed, unet_template, word_count
from mbu_jax.unet import UNet, UNetConfig

type Kind = Literal["float", "integer", "binary", "masked", "pow2"]
KINDS: tuple[Kind, ...] = ("float", "integer", "binary", "masked", "pow2")

type Label = Precision | Literal["int16"]
"""What weights are: int16 are those of a packed stem."""

_KIND_OF: dict[Label, Kind] = {
    "int16": "integer",
    "float32": "float",
    "int8": "integer",
    "int4": "integer",
    "int2": "integer",
    "pow2": "pow2",
    "masked": "masked",
    "binary": "binary",
    "ttq": "float",
}


@dataclasses.dataclass(frozen=True)
class LayerSummary:
    """One convolution.

    Attributes:
      name: such as ``down_c1.conv2``.
      kernel: side of the kernel in pixels.
      in_channels: channels of the input.
      out_channels: channels of the output.
      transposed: whether it is a transposed convolution.
      precision: of the weights.
      weights: number of weights, zeros included.
      density: share of weights that are not 0, from 0 to 1.
      macs: multiply-accumulates of one image, zeros included.
      nonzero_macs: those whose weight is not 0.
      bitsliced_macs: one-bit ones that the bitsliced engine of a CPU carries out, see
        `mbu_jax.masking.nonzero_macs`; 0 where it has no part: at the stem's first convolution,
        the head, and in a network that is not packed.
      parameter_bytes: bytes of weights, thresholds and biases.
      activation_bytes: bytes of the output of one image.
      float_parameter_bytes: what the parameters would take in float32, one bias a channel.
      float_activation_bytes: what the output would take in float32.
      engine: name of what computes it.
      reason: why that one.
      microseconds: what it is predicted to take on a GPU, or None where nothing is predicted.
    """

    name: str
    kernel: int
    in_channels: int
    out_channels: int
    transposed: bool
    precision: Label
    weights: int
    density: float
    macs: int
    nonzero_macs: int
    bitsliced_macs: int
    parameter_bytes: int
    activation_bytes: int
    float_parameter_bytes: int
    float_activation_bytes: int
    engine: str
    reason: str
    microseconds: float | None = None

    @property
    def kind(self) -> Kind:
        """What one of its multiply-accumulates multiplies by."""
        return _KIND_OF[self.precision]


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network's layers and their totals; ``str`` is a table, `to_json` the same for programs.

    Attributes:
      height: H of the image in pixels.
      width: W of the image in pixels.
      activation_bits: 1, 2, or 32 for a full-precision network.
      packed: whether bytes are those of packed words; if not, of the float32 model.
      layers: every convolution in network order.
      prediction: what the whole network is predicted to take on a GPU, or None.
    """

    height: int
    width: int
    activation_bits: int
    packed: bool
    layers: tuple[LayerSummary, ...]
    prediction: Prediction | None = None

    def total(self, attribute: str) -> int:
        """Add up one attribute of the layers.

        Args:
          attribute: such as ``parameter_bytes``.

        Returns:
          The sum.
        """
        return sum(getattr(layer, attribute) for layer in self.layers)

    def macs_by_kind(self) -> dict[str, int]:
        """Add up multiply-accumulates of each kind, and those with a weight that is not 0.

        Returns:
          Kind -> count: ``float``, ``integer``, ``binary``, ``masked``, ``pow2``, and ``nonzero``
          over all kinds.
        """
        counts: dict[str, int] = {
            kind: sum(layer.macs for layer in self.layers if layer.kind == kind) for kind in KINDS
        }
        return counts | {"nonzero": self.total("nonzero_macs")}

    def ratios(self) -> dict[str, float]:
        """Compare with the same network in float32.

        Returns:
          ``parameters`` and ``activations``: bytes in float32 divided by bytes here;
          ``nonzero_macs``: all multiply-accumulates divided by those with a weight that is not 0.
        """
        return {
            "parameters": self.total("float_parameter_bytes") / self.total("parameter_bytes"),
            "activations": self.total("float_activation_bytes") / self.total("activation_bytes"),
            "nonzero_macs": self.total("macs") / max(1, self.total("nonzero_macs")),
        }

    def to_json(self) -> str:
        """Write everything as indented JSON.

        Returns:
          An object with ``image_size``, ``activation_bits``, ``packed``, ``layers``, ``totals``,
          ``float32``, ``ratios`` and ``prediction``, which is null where there is none.
        """
        totals = ("weights", "macs", "nonzero_macs", "bitsliced_macs", "parameter_bytes",
                  "activation_bytes")  # fmt: skip
        content: dict[str, Any] = {
            "image_size": [self.height, self.width],
            "activation_bits": self.activation_bits,
            "packed": self.packed,
            "layers": [dataclasses.asdict(layer) | {"kind": layer.kind} for layer in self.layers],
            "totals": {name: self.total(name) for name in totals}
            | {"macs_by_kind": self.macs_by_kind()},
            "float32": {
                "parameter_bytes": self.total("float_parameter_bytes"),
                "activation_bytes": self.total("float_activation_bytes"),
            },
            "ratios": self.ratios(),
            "prediction": self.prediction and dataclasses.asdict(self.prediction),
        }
        return json.dumps(content, indent=2)

    def __str__(self) -> str:
        """Lay the layers out as a table with totals."""
        header = ("layer", "shape", "weights", "density", "MAC", "non-zero", "parameters",
                  "activations", "engine")  # fmt: skip
        rows = [header, *map(_row, self.layers)]
        ratios = self.ratios()
        macs, nonzero = self.total("macs"), self.total("nonzero_macs")
        kept = sum(layer.density * layer.weights for layer in self.layers)
        totals = [
            ("total", "", "", f"{kept / self.total('weights'):.3f}", _count(macs), _count(nonzero),
             _bytes(self.total("parameter_bytes")), _bytes(self.total("activation_bytes")), ""),
            ("in float32", "", "", "", _count(macs), _count(macs),
             _bytes(self.total("float_parameter_bytes")),
             _bytes(self.total("float_activation_bytes")), ""),
            ("ratio", "", "", "", "", f"{ratios['nonzero_macs']:.1f}x",
             f"{ratios['parameters']:.1f}x", f"{ratios['activations']:.1f}x", ""),
        ]  # fmt: skip
        lines = _aligned([*rows, *totals])
        rule = "-" * max(map(len, lines))
        split = len(rows)
        kinds = [f"{name} {_count(n)}" for name, n in self.macs_by_kind().items() if n]
        bitsliced = self.total("bitsliced_macs")
        visited = f"one-bit MAC of the bitsliced engine on a CPU: {_count(bitsliced)}"
        engines = [f"engine {layer.engine}: {layer.reason}" for layer in self.layers]
        if self.prediction is not None:
            engines = [f"{layer.name}: {layer.engine}, {layer.reason}" for layer in self.layers]
            engines.append(
                f"predicted for the {self.prediction.device} (compute capability "
                f"{self.prediction.compute_capability}), not measured: one image takes "
                f"{self.prediction.microseconds:.1f} us, with pools and changes of layout"
            )
        return "\n".join(
            [
                f"one image of {self.height}x{self.width}, activations of "
                f"{self.activation_bits} bit{'s' * (self.activation_bits > 1)}",
                *lines[:1],
                rule,
                *lines[1:split],
                rule,
                *lines[split:],
                f"MAC by kind: {', '.join(kinds)}",
                *([visited] if bitsliced else []),
                *dict.fromkeys(engines),
            ]
        )


def summary(
    network: UNet | PackedUNet,
    *,
    image_size: tuple[int, int] = (512, 512),
    implementation: str | None = None,
    platform: str | None = None,
    compute_capability: int | None = None,
) -> Summary:
    """Describe every layer of a network: shape, density, work, bytes, engine.

    Args:
      network: a packed network, whose arrays are measured; or a model, for which the numbers are
        those that packing gives, or those of its float32 arrays where it cannot be packed.
      image_size: height and width of the image in pixels.
      implementation: engine of the packed convolutions, as for `mbu_jax.infer`.
      platform: where it would run, ``cpu``, ``cuda``, ``rocm`` or ``tpu``; by default here, or on
        ``cuda`` where a compute capability is given.
      compute_capability: of the GPU, which need not be here, 90 for an H100; by default that of the
        GPU here. On GPUs the engine of a layer is the one predicted to take least time.

    Returns:
      The summary.

    Raises:
      InputError: for what is no network, a size below 1, an engine that is unknown or cannot run
        there, or a GPU that is neither here nor named.

    Example:
      >>> config = UNetConfig.preset("binary", width=32)
      >>> zeros = jax.tree.map(
      ...     lambda spec: np.zeros(spec.shape, spec.dtype), unet_template(config)
      ... )
      >>> small = summary(zeros)
      >>> small.layers[2].name, small.layers[2].precision, small.layers[2].parameter_bytes
      ('down_c1.conv1', 'binary', 2560)
      >>> print(str(small).splitlines()[0])
      one image of 512x512, activations of 1 bit
    """
    height, width = image_size
    padded = padded_size(height, width)
    if isinstance(network, PackedUNet):
        engines, prediction = chosen_engines(
            network, padded, implementation, platform, compute_capability
        )
        layers = _packed_layers(network, height, width, engines)
        bits = network.activation_bits
        return Summary(height, width, bits, True, tuple(layers), prediction)
    if not isinstance(network, UNet):
        check_packed(network, "network")
    try:
        unet_template(network.config)
    except InputError as obstacle:
        reason = str(obstacle).partition(";")[0]
        layers = _model_layers(network, height, width, reason)
        bits = network.config.quantization.activation_bits
        return Summary(height, width, bits, False, tuple(layers))
    return summary(
        pack(network),
        image_size=image_size,
        implementation=implementation,
        platform=platform,
        compute_capability=compute_capability,
    )


def _convolutions(config: UNetConfig) -> Iterator[tuple[str, str, ConvShape]]:
    """Name, layer's name and shape of every convolution."""
    for layer in unet_layers(config.width, config.in_channels, config.classes):
        for conv in layer.convs:
            name = "head" if layer.name == "head" else f"{layer.name}.{conv.name}"
            yield name, layer.name, conv


def _packed_layers(
    params: PackedUNet, height: int, width: int, engines: Mapping[str, ChosenEngine]
) -> Iterator[LayerSummary]:
    bits = params.activation_bits
    for name, _, shape in _convolutions(params.config):
        precision: Label = "float32"
        channel_bytes, visited = 4.0, 0
        if name == "head":
            layer = params.head
        elif name == "stem.conv1":
            layer, precision = params.stem, "int16"
        else:
            layer = params.convs[name]
            precision = layer.precision
        if name != "head":
            channel_bytes = 4 * bits * word_count(shape.out_channels) / shape.out_channels
        if isinstance(layer, PackedConv):
            density = layer.density
            visited = bits * _visited_weights(layer)
        else:
            density = np.count_nonzero(np.asarray(layer.weight)) / layer.weight.size
        engine = engines[name]
        yield _layer(
            name,
            shape,
            (height, width),
            precision=precision,
            density=density,
            visited=visited,
            parameter_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(layer)),
            channel_bytes=channel_bytes,
            engine=engine,
        )


def _visited_weights(layer: PackedConv) -> int:
    """How many weights the bitsliced engine visits, the shared sum of a binary layer included."""
    positive = np.bitwise_count(np.asarray(layer.positive)).sum(axis=-1, dtype=np.int64)
    if layer.negative is not None:
        return int(positive.sum() + np.bitwise_count(np.asarray(layer.negative)).sum())
    inputs = layer.in_channels
    if not layer.transposed:  # else each tap makes outputs of its own
        positive, inputs = positive.sum(axis=(0, 1)), 9 * inputs
    return int(np.minimum(positive, inputs - positive).sum()) + inputs


def _model_layers(model: UNet, height: int, width: int, reason: str) -> Iterator[LayerSummary]:
    precisions: dict[str, Precision] = dict(zip(LAYER_NAMES, model.config.precisions, strict=True))
    quantized = model.config.quantization.activation_bits < 32
    for name, layer_name, shape in _convolutions(model.config):
        precision = precisions.get(layer_name, "float32")
        module = getattr(model, layer_name)
        if name == "head":
            weight = module.weight[...]
        elif isinstance(module, Up):
            weight = module.conv.quantized_weight()
        else:
            weight = getattr(module, shape.name).quantized_weight()
            if name == "stem.conv2" and quantized:
                precision = "masked"
        yield _layer(
            name,
            shape,
            (height, width),
            precision=precision,
            density=np.count_nonzero(np.asarray(weight)) / weight.size,
            visited=0,
            parameter_bytes=4 * (shape.weights + shape.out_channels),
            channel_bytes=4,
            engine=ChosenEngine("model", f"in float32, not packed: {reason}"),
        )


def _layer(
    name: str,
    shape: ConvShape,
    image_size: tuple[int, int],
    *,
    precision: Label,
    density: float,
    visited: int,
    parameter_bytes: int,
    channel_bytes: float,
    engine: ChosenEngine,
) -> LayerSummary:
    height, width = padded_size(*image_size)
    outputs = (height // shape.scale) * (width // shape.scale) * shape.out_channels
    macs = shape.macs(height, width)
    return LayerSummary(
        name=name,
        kernel=shape.kernel,
        in_channels=shape.in_channels,
        out_channels=shape.out_channels,
        transposed=shape.transposed,
        precision=precision,
        weights=shape.weights,
        density=density,
        macs=macs,
        # Every weight meets the same number of pixels.
        nonzero_macs=round(density * shape.weights) * (macs // shape.weights),
        bitsliced_macs=visited * (macs // shape.weights),
        parameter_bytes=parameter_bytes,
        activation_bytes=round(outputs * channel_bytes),
        float_parameter_bytes=4 * (shape.weights + shape.out_channels),
        float_activation_bytes=4 * outputs,
        engine=engine.name,
        reason=engine.reason,
        microseconds=engine.microseconds,
    )


def _row(layer: LayerSummary) -> tuple[str, ...]:
    shape = f"{layer.kernel}x{layer.kernel} {layer.in_channels} -> {layer.out_channels}"
    return (
        layer.name,
        shape + (" up" if layer.transposed else ""),
        layer.precision,
        f"{layer.density:.3f}",
        _count(layer.macs),
        _count(layer.nonzero_macs),
        _bytes(layer.parameter_bytes),
        _bytes(layer.activation_bytes),
        layer.engine,
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, 1, 2, 8)
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _count(number: int) -> str:
    return _scaled(number, (("G", 1e9), ("M", 1e6), ("k", 1e3)))


def _bytes(number: int) -> str:
    return _scaled(number, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "B")


def _scaled(number: int, units: Sequence[tuple[str, float]], plain: str = "") -> str:
    for unit, size in units:
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number} {plain}".strip()
