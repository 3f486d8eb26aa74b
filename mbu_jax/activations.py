"""What every layer of the model gives, in the packed network's words."""

import functools

import jax.numpy as jnp
from flax import nnx
from jax import Array

from mbu_jax.errors import InputError
from mbu_jax.layers import NormActivation
from mbu_jax.packing import pack_channels
from mbu_jax.unet import UNet


def model_with_activations(model: UNet, images: Array) -> tuple[Array, dict[str, Array]]:
    """Segment images with the model and keep every layer's activations.

    `mbu_jax.inference.infer_with_activations` gives the packed network's, name by name and bit
    by bit, where the model is in evaluation mode. Works under ``jit``.

    Args:
      model: a network whose activations are quantized; it is not changed.
      images: [B, H, W, C] or [H, W, C], float32 in [0, 1] or uint8; any H and W.

    Returns:
      The logits, and by convolution's name, ``stem.conv1`` the first, the activations behind it:
      channel-packed words of the padded images, uint32 [B, H, W, P, N].

    Raises:
      InputError: where activations are full precision, or for images that the model refuses.

    Example:
      >>> from mbu_jax.unet import UNetConfig
      >>> model = UNet(UNetConfig(width=4), rngs=nnx.Rngs(0))
      >>> model.eval()
      >>> logits, words = model_with_activations(model, jnp.zeros((1, 20, 33, 3)))
      >>> logits.shape, words["down_c1.conv2"].shape
      ((1, 20, 33, 1), (1, 16, 24, 1, 1))
    """
    bits = model.config.quantization.activation_bits
    if bits == 32:
        raise InputError(
            "activation_bits is 32: full-precision activations have no words; "
            "give a network with activation_bits 1 or 2"
        )
    kept: dict[str, Array] = {}

    def recorded(name: str, activate: NormActivation, y: Array) -> Array:
        activations = activate(y)
        codes = (activations + (2**bits - 1)) / 2
        kept[name] = pack_channels(codes.astype(jnp.uint8), bits)
        return activations

    recording = nnx.clone(model)
    for path, module in list(nnx.iter_modules(recording)):
        if isinstance(module, NormActivation):
            *above, name = map(str, path)
            part = ".".join([*above, name.replace("norm", "conv")])
            parent = functools.reduce(getattr, above, recording)
            setattr(parent, name, functools.partial(recorded, part, module))
    return recording(images), kept
