"""The packed network: its layers, and the shapes that a configuration prescribes."""

import dataclasses
import os
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from mbu_jax.architecture import LAYER_NAMES, unet_layers
from mbu_jax.errors import InputError
from mbu_jax.packing.layers import PackedConv, PackedHead, PackedStem
from mbu_jax.packing.layouts import word_count
from mbu_jax.unet import UNet, UNetConfig

_PACKABLE = ("binary", "masked", "pow2")


@dataclasses.dataclass(frozen=True)
class PackedUNet:
    """The trained network as bit planes and integer thresholds: a pytree.

    Attributes:
      config: what the network was trained as; static.
      stem: the convolution on the image.
      convs: every quantized convolution by name: ``stem.conv2``, ``down_c1.conv1``,
        ``down_c1.conv2``, …, ``up_ct1.conv``, ``up_c1.conv1``, …, ``up_c4.conv2``. JAX sorts the
        keys of a rebuilt dictionary; `conv_names` gives them in network order.
      head: the logits.
      image_size: height and width that images were scaled to for training, None where they kept
        their own; static. Nothing here scales: whoever reads images does.

    Example:
      >>> params = unet_template(UNetConfig(width=4))
      >>> params.convs["up_c4.conv1"].segments
      (4, 4)
    """

    config: UNetConfig
    stem: PackedStem
    convs: dict[str, PackedConv]
    head: PackedHead
    image_size: tuple[int, int] | None = None

    @property
    def conv_names(self) -> tuple[str, ...]:
        """Names of the quantized convolutions in network order."""
        return tuple(unet_template(self.config).convs)

    @property
    def activation_bits(self) -> int:
        """Bits of an activation's code."""
        return self.config.quantization.activation_bits

    def validate(self) -> Self:
        """Check that every field is what the configuration prescribes, and every value possible.

        Returns:
          Itself.

        Raises:
          InputError: naming the layer, its field and what it must be.
        """
        _check_image_size(self.image_size)
        template = unet_template(self.config)
        for verb, names in (
            ("lacks", template.convs.keys() - self.convs.keys()),
            ("has unknown", self.convs.keys() - template.convs.keys()),
        ):
            if names:
                raise InputError(f"the packed network {verb} {', '.join(sorted(names))}")
        _check_against(template.stem, self.stem, "stem.conv1")
        for name, conv in template.convs.items():
            _check_against(conv, self.convs[name], name)
        _check_against(template.head, self.head, "head")
        self.stem.validate()
        for name in template.convs:
            self.convs[name].validate(name)
        self.head.validate(bits=self.activation_bits)
        return self


jax.tree_util.register_dataclass(
    PackedUNet, data_fields=["stem", "convs", "head"], meta_fields=["config", "image_size"]
)


def check_packed(network: Any, name: str = "params") -> None:
    """Refuse what is no packed network where one is needed.

    Args:
      network: what was given.
      name: of the argument.

    Raises:
      InputError: saying what it is, and how a packed network is made of it.

    Example:
      >>> check_packed(unet_template(UNetConfig(width=4)))
    """
    if isinstance(network, PackedUNet):
        return
    if isinstance(network, UNet):
        remedy = "pack it first: mbu_jax.pack(model)"
    elif isinstance(network, str | os.PathLike):
        remedy = "load it first: mbu_jax.load_packed(path)"
    else:
        remedy = "give what mbu_jax.pack or mbu_jax.load_packed gave"
    raise InputError(f"{name} is of type {type(network).__name__}; {remedy}")


def unet_template(config: UNetConfig) -> PackedUNet:
    """The packed network that a configuration prescribes, shapes instead of arrays.

    Args:
      config: the network.

    Returns:
      `PackedUNet` whose leaves are `jax.ShapeDtypeStruct`, ``convs`` in network order.

    Raises:
      InputError: where a layer of this configuration cannot be packed, naming it and the remedy.

    Example:
      >>> unet_template(UNetConfig(width=48)).convs["up_c4.conv1"].positive.shape
      (3, 3, 48, 4)
    """
    bits = config.quantization.activation_bits
    if bits == 32:
        raise InputError(
            "activation_bits is 32: full-precision activations cannot be packed; "
            "train with activation_bits 1 or 2"
        )
    precisions = dict(zip(LAYER_NAMES, config.precisions, strict=True)) | {"stem": "masked"}
    levels = 2**bits - 1
    convs = {}
    for layer in unet_layers(config.width, config.in_channels, config.classes):
        for conv in layer.convs:
            if layer.name == "head" or (layer.name, conv.name) == ("stem", "conv1"):
                continue
            # The first convolution behind a transposed one reads a skip connection beside it.
            joined = layer.name.startswith("up_c") and conv.name == "conv1"
            segments = (conv.in_channels // 2,) * 2 if joined else (conv.in_channels,)
            precision = precisions[layer.name]
            if precision not in _PACKABLE:
                raise InputError(
                    f"{layer.name} has {precision} weights, which cannot be packed; "
                    f"train it with one of {', '.join(_PACKABLE)}"
                )
            planes = _spec(
                jnp.uint32,
                *(conv.kernel, conv.kernel, conv.out_channels, sum(map(word_count, segments))),
            )
            convs[f"{layer.name}.{conv.name}"] = PackedConv(
                positive=planes,
                negative=None if precision == "binary" else planes,
                exponent=_spec(jnp.uint32, 2, *planes.shape) if precision == "pow2" else None,
                theta=_spec(jnp.int32, levels, conv.out_channels),
                segments=segments,
            )
    return PackedUNet(
        config=config,
        stem=PackedStem(
            weight=_spec(jnp.int16, 3, 3, config.in_channels, config.width),
            theta=_spec(jnp.int32, levels, config.width),
        ),
        convs=convs,
        head=PackedHead(
            weight=_spec(jnp.float32, config.width, config.classes),
            bias=_spec(jnp.float32, config.classes),
        ),
    )


def _spec(dtype: Any, *shape: int) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def _check_image_size(size: Any) -> None:
    """None or two sides; of whatever type, since it may come from a file."""
    sides = size if isinstance(size, tuple) and len(size) == 2 else (0,)
    if size is not None and not all(type(side) is int and side >= 1 for side in sides):
        raise InputError(f"image_size is {size!r}; it must be None, or a height and a width")


def _check_against(template: Any, layer: Any, name: str) -> None:
    if type(layer) is not type(template):
        raise InputError(f"{name} is a {type(layer).__name__}, not a {type(template).__name__}")
    for field in dataclasses.fields(template):
        wanted, found = getattr(template, field.name), getattr(layer, field.name)
        if (_summary(wanted)) != _summary(found):
            raise InputError(
                f"{name}.{field.name} is {_summary(found)}; this network has {_summary(wanted)}"
            )


def _summary(value: Any) -> str:
    if value is None or isinstance(value, tuple):
        return str(value)
    return f"{getattr(value, 'dtype', type(value).__name__)}{list(np.shape(value))}"
