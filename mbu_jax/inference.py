"""The packed network: made from a trained model, and run.

`pack` takes the integers out of the model, `infer` gives the logits that the model gives in
evaluation mode, bit for bit.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from mbu_jax.architecture import padded_size
from mbu_jax.errors import InputError
from mbu_jax.images import image_to_levels
from mbu_jax.layers import Conv3x3, NormActivation, Stem, Up, UpConv2x2
from mbu_jax.ops.bitsliced import library
from mbu_jax.ops.gpu import target
from mbu_jax.ops.layouts import ChannelPacked, Layout, PixelPacked
from mbu_jax.ops.network import forward
from mbu_jax.ops.operation import Engine, Operation, check_implementation, platform_known
from mbu_jax.ops.planning import planned_layout
from mbu_jax.packing import (
    WORD_BITS,
    PackedConv,
    PackedHead,
    PackedStem,
    PackedUNet,
    check_packed,
    unet_template,
)
from mbu_jax.thresholds import INT_MAX, round_image_weights
from mbu_jax.unet import UNet


def pack(model: UNet, *, image_size: tuple[int, int] | None = None) -> PackedUNet:
    """Pack a trained model: bit planes of its weights, its folded thresholds, stem and head.

    The model's thresholds are folded anew; nothing else of it changes.

    Args:
      model: the network. Its activations have 1 or 2 bits and its layers binary, masked or
        power-of-two weights.
      image_size: height and width that images were scaled to for training, None where they kept
        their own. It stays with the network and its file; nothing here scales.

    Returns:
      The packed network.

    Raises:
      InputError: for what is no `UNet`, where a layer cannot be packed, naming it and the remedy,
        under ``jit``, or for a size out of range.

    Example:
      >>> from flax import nnx
      >>> from mbu_jax.unet import UNetConfig
      >>> params = pack(UNet(UNetConfig(width=4), rngs=nnx.Rngs(0)))
      >>> params.convs["stem.conv2"].precision
      'masked'

    Source: MBU-Net §3.2; thresholds as in `mbu_jax.thresholds`.
    """
    if not isinstance(model, UNet):
        raise InputError(f"model is of type {type(model).__name__}; give a mbu_jax.UNet")
    template = unet_template(model.config)
    model.fold()
    convs = {}
    for name, wanted in template.convs.items():
        conv, norm = _modules(model, name)
        convs[name] = _pack_conv(conv, norm, wanted)
    return PackedUNet(
        config=model.config,
        stem=_pack_stem(model.stem),
        convs=convs,
        head=PackedHead(weight=model.head.exact_weight[...], bias=model.head.exact_bias[...]),
        image_size=image_size,
    ).validate()


def _pack_stem(stem: Stem) -> PackedStem:
    weight, step = round_image_weights(stem.conv1.weight[...])
    norm = stem.norm1
    # The model compares multiples of `step` with theta; the quotient is exact.
    theta = np.ceil(np.asarray(norm.theta[...], np.float64) / step)
    return PackedStem(
        weight=jnp.asarray(weight * np.asarray(norm.sign[...], np.int16)),
        theta=jnp.asarray(np.clip(theta, -INT_MAX, INT_MAX).astype(np.int32)),
    )


def _modules(model: UNet, name: str) -> tuple[Conv3x3 | UpConv2x2, NormActivation]:
    layer_name, conv_name = name.split(".")
    layer = getattr(model, layer_name)
    if isinstance(layer, Up):
        return layer.conv, layer.norm
    return getattr(layer, conv_name), getattr(layer, conv_name.replace("conv", "norm"))


def _pack_conv(conv: Conv3x3 | UpConv2x2, norm: NormActivation, wanted: PackedConv) -> PackedConv:
    theta = np.clip(np.asarray(norm.theta[...], np.float64), -INT_MAX, INT_MAX)
    # Comparing -y with theta is comparing the flipped weights' product with it.
    weight = np.asarray(conv.quantized_weight()) * np.asarray(norm.sign[...])
    magnitude = np.abs(weight)
    exponent = None
    if wanted.exponent is not None:
        bits = [_plane(magnitude == value, wanted.segments) for value in (2, 4)]
        exponent = jnp.stack(bits)
    return PackedConv(
        positive=_plane(weight > 0, wanted.segments),
        negative=None if wanted.negative is None else _plane(weight < 0, wanted.segments),
        exponent=exponent,
        theta=jnp.asarray(theta.astype(np.int32)),
        segments=wanted.segments,
    )


def _plane(weight: NDArray[np.bool_], segments: tuple[int, ...]) -> Array:
    """[h, w, C, K] booleans to uint32 [h, w, K, N], segment by segment."""
    words = []
    for part in np.split(weight.swapaxes(2, 3), np.cumsum(segments)[:-1], axis=3):
        whole = np.pad(part, ((0, 0), (0, 0), (0, 0), (0, -part.shape[3] % WORD_BITS)))
        words.append(np.packbits(whole, axis=3, bitorder="little").view("<u4"))
    return jnp.asarray(np.concatenate(words, axis=3), jnp.uint32)


def infer(params: PackedUNet, images: Array, *, implementation: str | None = None) -> Array:
    """Segment images with the packed network, as the model does in evaluation mode.

    Works under ``jit`` and ``vmap``, with a batch sharded over devices and with `jax.export`,
    which takes the ``xla`` engine as it is; the ``bitsliced`` one's foreign calls have to be
    allowed there (``disabled_checks``) and compiled on the machine that runs them.

    Args:
      params: from `pack` or a file.
      images: [B, H, W, C] or [H, W, C], float32 in [0, 1] or uint8; any H and W. They have 256
        levels, to which floats are rounded, see `mbu_jax.images.image_to_levels`.
      implementation: name of the engine of all layers, or None for the best that the device has;
        on CUDA it is chosen for each layer, see `mbu_jax.ops.planning`.

    Returns:
      Float32 logits of shape [B, H, W, classes] or [H, W, classes].

    Raises:
      InputError: for what is no packed network, images of another rank, dtype or number of
        channels, an engine that is unknown or cannot run here, or a derivative.

    Example:
      >>> from flax import nnx
      >>> from mbu_jax.unet import UNetConfig
      >>> model = UNet(UNetConfig(width=4), rngs=nnx.Rngs(0))
      >>> model.eval()
      >>> images = jnp.linspace(0, 1, 20 * 33 * 3).reshape(1, 20, 33, 3)
      >>> bool((infer(pack(model), images) == model(images)).all())
      True
    """
    return _segment(params, images, implementation, keep=False)[0]


def infer_with_activations(
    params: PackedUNet, images: Array, *, implementation: str | None = None
) -> tuple[Array, dict[str, Array]]:
    """Segment images and keep every layer's output, to compare engines and models.

    Args:
      params: from `pack` or a file.
      images: as for `infer`.
      implementation: as for `infer`.

    Returns:
      The logits, and by convolution's name, ``stem.conv1`` the first, its output: channel-packed
      words of the padded images, uint32 [B, H, W, P, N].

    Raises:
      InputError: as `infer` does.
    """
    return _segment(params, images, implementation, keep=True)


def _segment(
    params: PackedUNet, images: Array, implementation: str | None, *, keep: bool
) -> tuple[Array, dict[str, Array]]:
    check_packed(params)
    check_implementation(implementation)
    channels = params.config.in_channels
    if images.ndim not in (3, 4) or images.shape[-1] != channels:
        raise InputError(
            f"images have shape {images.shape}; give [B, H, W, {channels}] or [H, W, {channels}]"
        )
    x = image_to_levels(_without_derivative(images if images.ndim == 4 else images[None]))
    _, height, width, _ = x.shape
    padded_height, padded_width = padded_size(height, width)
    x = _repeat_edge(x, 1, padded_height - height)
    x = _repeat_edge(x, 2, padded_width - width)
    logits, kept = _run(params, x, implementation, keep)
    logits = logits[:, :height, :width]
    return logits if images.ndim == 4 else logits[0], kept


def _repeat_edge(x: Array, axis: int, times: int) -> Array:
    if times == 0:
        return x
    # `jnp.pad` would slice the batch, too, which a mesh of explicit axes does not allow.
    edge = lax.slice_in_dim(x, x.shape[axis] - 1, None, axis=axis)
    return jnp.concatenate([x, *[edge] * times], axis)


@jax.custom_jvp
def _without_derivative(images: Array) -> Array:
    return images


@_without_derivative.defjvp
def _refuse_derivative(*_: Any) -> Any:
    raise InputError(
        "the packed network has no derivative; train with the model (UNet) and pack it afterwards"
    )


def _run(
    params: PackedUNet, x: Array, implementation: str | None, keep: bool
) -> tuple[Array, dict[str, Array]]:
    def on(layout: Layout[Any]) -> Callable[..., tuple[Array, dict[str, Array]]]:
        return functools.partial(forward, layout=layout, keep=keep)

    if implementation == "bitsliced":
        return on(PixelPacked(implementation))(params, x)
    if implementation is not None:
        return on(ChannelPacked(implementation))(params, x)
    default = on(ChannelPacked())
    by_platform = {"cpu": on(PixelPacked())}
    if library.absent() is not None:
        by_platform["cpu"] = lambda params, x: default(params, _TELLING(x, None))
    if target.absent() is None:
        by_platform["cuda"] = on(planned_layout(params, x.shape))
    platform = platform_known()
    if platform is None:
        return lax.platform_dependent(params, x, **by_platform, default=default)
    return by_platform.get(platform, default)(params, x)


def _tell(x: Array, layer: None) -> Array:
    _tell_once()
    return x


@functools.cache
def _tell_once() -> None:
    missing = library.absent()
    warnings.warn(f"the bitsliced engine cannot run, so xla does: {missing}", stacklevel=2)


# Only while it is lowered does a program know that it runs on a CPU.
_TELLING = Operation("telling", lambda x, layer: x)
_TELLING.register(Engine("xla", lambda x, layer: x))
_TELLING.register(Engine("telling", _tell, platforms=("cpu",)))
