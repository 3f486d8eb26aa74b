"""The masked binary U-Net and its configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import jax.numpy as jnp
from flax import nnx
from jax import Array

from mbu_jax.architecture import LAYER_NAMES, padded_size, unet_layers
from mbu_jax.convolution import max_pool2x2
from mbu_jax.errors import InputError
from mbu_jax.images import check_image_dtype
from mbu_jax.layers import (
    DoubleConv,
    Head,
    Precision,
    QuantizationOptions,
    Stem,
    Up,
    check_precision,
    fold,
)
from mbu_jax.masking import mask_cheapest

ModelPreset = Literal[
    "full_precision", "int8", "int4", "mbu", "all_masked", "binary", "pow2", "ttq"
]

_UNIFORM: dict[str, Precision] = {
    "full_precision": "float32",
    "int8": "int8",
    "int4": "int4",
    "all_masked": "masked",
    "binary": "binary",
    "pow2": "pow2",
    "ttq": "ttq",
}

_MASKED_LAYERS = 6  # of mbu; the paper does not say how many its own masks


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """Everything that defines the network: sizes and the precision of each layer.

    By default every layer is masked; ``experiments.train`` makes ``preset("mbu", width=32)`` by
    default.

    Attributes:
      width: c, channels at full resolution; the widest layer has 8c.
      in_channels: channels of the image.
      classes: channels of the logits; 1 means one foreground class through a sigmoid.
      precisions: weight precision of the twelve layers, in the order of `LAYER_NAMES`.
      quantization: activation bits, surrogate gradients, ternarizer.
      dtype: arithmetic of the full-precision parts, ``float32`` or ``bfloat16``. A network with
        quantized activations is evaluated in float32, as its packed form is.

    The stem's first convolution and the head are full precision in every network; the stem's
    second convolution is masked wherever activations are quantized.

    Example:
      >>> UNetConfig.preset("mbu", masked_layers=2).precisions[-4:]
      ('masked', 'binary', 'masked', 'binary')
    """

    width: int = 64
    in_channels: int = 3
    classes: int = 1
    precisions: tuple[Precision, ...] = ("masked",) * len(LAYER_NAMES)
    quantization: QuantizationOptions = QuantizationOptions()
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        """Check every field.

        Raises:
          InputError: naming the field and what it may be.
        """
        for name in ("width", "in_channels", "classes"):
            value = getattr(self, name)
            if type(value) is not int:
                raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1")
        unet_layers(self.width, self.in_channels, self.classes)
        if not isinstance(self.precisions, tuple) or len(self.precisions) != len(LAYER_NAMES):
            raise InputError(
                f"precisions is {self.precisions!r}; give a tuple with one entry for each of "
                f"{', '.join(LAYER_NAMES)}"
            )
        for name, precision in zip(LAYER_NAMES, self.precisions, strict=True):
            check_precision(precision, name)
        if not isinstance(self.quantization, QuantizationOptions):
            raise InputError(f"quantization is {self.quantization!r}; give QuantizationOptions")
        bits = self.quantization.activation_bits
        if bits == 32 and set(self.precisions) != {"float32"}:
            raise InputError(
                "activation_bits 32 goes with float32 weights in every layer; choose 1 or 2"
            )
        widest = 16 * self.width * 9 * (2**bits - 1) * max(map(_largest_level, self.precisions))
        if bits < 32 and widest >= 2**24:
            raise InputError(
                f"width {self.width} lets sums reach {widest}, beyond float32's exact integers "
                "(2^24); choose a smaller width or fewer bits"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype is {self.dtype!r}; choose float32 or bfloat16")

    @classmethod
    def preset(
        cls,
        name: ModelPreset,
        *,
        masked_layers: int = _MASKED_LAYERS,
        quantization: QuantizationOptions | None = None,
        **sizes: Any,
    ) -> Self:
        """Build one row of the paper's Table 1.

        Args:
          name: ``full_precision``; ``int8``, ``int4`` (weights; binary activations, as in the
            paper); ``mbu`` (the cheapest layers masked, the rest binary); ``all_masked``;
            ``binary``. Two more are not the paper's: ``pow2``, and ``ttq`` (ternary weights of
            learned scales), which cannot be packed.
          masked_layers: how many layers ``mbu`` masks, in order of cost; others refuse it.
          quantization: other quantization options; activation bits are ignored for
            ``full_precision``.
          **sizes: width, in_channels, classes, dtype.

        Returns:
          The configuration.

        Raises:
          InputError: for an unknown name, a value out of range, or ``masked_layers`` of another
            network than ``mbu``.

        Example:
          >>> UNetConfig.preset("binary", width=32).precisions[0]
          'binary'

        Source: MBU-Net, Table 1 and Appendix A.5.1.
        """
        options = quantization or QuantizationOptions()
        if name == "full_precision":
            options = dataclasses.replace(options, activation_bits=32)
        if name == "mbu":
            masked = mask_cheapest(unet_layers(), masked_layers)
            precisions: tuple[Precision, ...] = tuple(
                "masked" if layer in masked else "binary" for layer in LAYER_NAMES
            )
        elif name in _UNIFORM:
            if masked_layers != _MASKED_LAYERS:
                raise InputError(
                    f"masked_layers is {masked_layers}, but only the network mbu chooses layers; "
                    "leave it out, or choose mbu"
                )
            precisions = (_UNIFORM[name],) * len(LAYER_NAMES)
        else:
            raise InputError(
                f"unknown network {name!r}; choose one of {', '.join(get_args(ModelPreset))}"
            )
        return cls(precisions=precisions, quantization=options, **sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON.

        Returns:
          The fields, nested options as a dictionary, tuples as lists.

        Example:
          >>> UNetConfig.from_dict(UNetConfig().to_dict()) == UNetConfig()
          True
        """
        fields = dataclasses.asdict(self)
        return fields | {"precisions": list(self.precisions)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read a configuration back, checking it.

        Args:
          fields: what `to_dict` gave.

        Returns:
          The configuration.

        Raises:
          InputError: where a field is missing, unknown or out of range.
        """
        _check_names("the network's configuration", fields, cls)
        _check_names("quantization", fields["quantization"], QuantizationOptions)
        precisions = fields["precisions"]
        nested: dict[str, Any] = {
            "quantization": QuantizationOptions(**fields["quantization"]),
            "precisions": tuple(precisions) if isinstance(precisions, list) else precisions,
        }
        return cls(**{**fields, **nested})


def _check_names(title: str, fields: Any, cls: type) -> None:
    if not isinstance(fields, Mapping):
        raise InputError(f"{title} is {fields!r}, not a table of options; restore config.json")
    known = {field.name for field in dataclasses.fields(cls)}
    for verb, names in (("lacks", known - set(fields)), ("has unknown", set(fields) - known)):
        if names:
            listed = ", ".join(sorted(map(str, names)))
            raise InputError(f"{title} {verb} {listed}; restore config.json")


def _largest_level(precision: Precision) -> int:
    return {"int8": 127, "int4": 7, "pow2": 4}.get(precision, 1)


class UNet(nnx.Module):
    """U-Net with quantized weights and activations (DoubleConv, pool; up, concatenate).

    Args:
      config: sizes and precisions.
      rngs: NNX random keys; ``params`` is used for initialization.

    Example:
      >>> model = UNet(UNetConfig(width=4), rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((1, 20, 33, 3))).shape
      (1, 20, 33, 1)

    Source: MBU-Net, Figures A.1 and A.2.
    """

    stem: Stem
    down_c1: DoubleConv
    down_c2: DoubleConv
    down_c3: DoubleConv
    down_c4: DoubleConv
    up_ct1: Up
    up_c1: DoubleConv
    up_ct2: Up
    up_c2: DoubleConv
    up_ct3: Up
    up_c3: DoubleConv
    up_ct4: Up
    up_c4: DoubleConv
    head: Head

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        options = config.quantization
        dtype = jnp.dtype(config.dtype)
        precision = dict(zip(LAYER_NAMES, config.precisions, strict=True))
        for layer in unet_layers(config.width, config.in_channels, config.classes):
            first = layer.convs[0]
            inputs, outputs = first.in_channels, first.out_channels
            if layer.name == "stem":
                module = Stem(inputs, outputs, options, dtype=dtype, rngs=rngs)
            elif layer.name == "head":
                module = Head(inputs, outputs, options, dtype=dtype, rngs=rngs)
            elif first.transposed:
                module = Up(inputs, precision[layer.name], options, dtype=dtype, rngs=rngs)
            else:
                both = (precision[layer.name],) * 2
                module = DoubleConv(inputs, outputs, both, options, dtype=dtype, rngs=rngs)
            setattr(self, layer.name, module)

    def fold(self) -> None:
        """Refresh the thresholds and the head's exact weights; `eval` does it for you."""
        fold(self)

    def eval(self, **attributes: Any) -> None:
        """Switch to evaluation mode: fold BatchNorm into thresholds and use those from now on.

        Call it outside ``jit``: folding is done in float64 by NumPy.

        Args:
          **attributes: further attributes to set, as in `flax.nnx.Module.eval`.

        Raises:
          InputError: under ``jit`` or another transformation, where values are not known.

        Example:
          >>> model = UNet(UNetConfig(width=4), rngs=nnx.Rngs(0))
          >>> model.eval()
          >>> model(jnp.zeros((16, 16, 3))).shape
          (16, 16, 1)
        """
        self.fold()
        super().eval(**attributes)

    def __call__(self, images: Array) -> Array:
        """Segment images.

        Args:
          images: [B, H, W, C] or [H, W, C], float32 in [0, 1] or uint8; any H and W. They are
            padded at the bottom and right by repeating the edge, and the result is cropped. In
            evaluation mode a quantized network sees 256 levels, see
            `mbu_jax.images.image_to_levels`.

        Returns:
          Float32 logits of shape [B, H, W, classes] or [H, W, classes].

        Raises:
          InputError: for another rank, dtype or number of channels.
        """
        if images.ndim == 3:
            return self(images[None])[0]
        if images.ndim != 4 or images.shape[-1] != self.config.in_channels:
            raise InputError(
                f"images have shape {images.shape}; give [B, H, W, {self.config.in_channels}] "
                f"or [H, W, {self.config.in_channels}]"
            )
        check_image_dtype(images)
        _, height, width, _ = images.shape
        padded_height, padded_width = padded_size(height, width)
        border = ((0, 0), (0, padded_height - height), (0, padded_width - width), (0, 0))
        logits = self._padded(jnp.pad(images, border, mode="edge"))
        return logits[:, :height, :width]

    def _padded(self, images: Array) -> Array:
        full = self.stem(images)
        half = self.down_c1(max_pool2x2(full))
        quarter = self.down_c2(max_pool2x2(half))
        eighth = self.down_c3(max_pool2x2(quarter))
        deepest = self.down_c4(max_pool2x2(eighth))
        y = self.up_c1(jnp.concatenate([eighth, self.up_ct1(deepest)], axis=-1))
        y = self.up_c2(jnp.concatenate([quarter, self.up_ct2(y)], axis=-1))
        y = self.up_c3(jnp.concatenate([half, self.up_ct3(y)], axis=-1))
        y = self.up_c4(jnp.concatenate([full, self.up_ct4(y)], axis=-1))
        return self.head(y)
