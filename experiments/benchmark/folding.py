"""The full-precision network as convolutions with bias: its BatchNorms folded into them."""

import numpy as np
from numpy.typing import NDArray

from mbu_jax.errors import InputError
from mbu_jax.layers import Conv3x3, NormActivation
from mbu_jax.unet import UNet


def folded_conv(conv: Conv3x3, norm: NormActivation) -> tuple[NDArray, NDArray]:
    """Fold a BatchNorm, as in evaluation mode, into the convolution before it.

    Args:
      conv: the convolution.
      norm: what follows it.

    Returns:
      Float64 weight [3, 3, C, K] and bias [K] of one convolution that gives the same.
    """
    batch_norm = norm.norm
    assert batch_norm.scale is not None, "BatchNorm is made with a scale"
    assert batch_norm.bias is not None, "BatchNorm is made with a bias"
    gamma, beta, mean, variance = (
        np.asarray(value[...], np.float64)
        for value in (batch_norm.scale, batch_norm.bias, batch_norm.mean, batch_norm.var)
    )
    factor = gamma / np.sqrt(variance + batch_norm.epsilon)
    weight = np.asarray(conv.weight[...], np.float64) * factor
    return weight, beta - mean * factor


def folded_tensors(model: UNet) -> dict[str, NDArray]:
    """Take all weights and biases out of a full-precision network.

    Args:
      model: the network.

    Returns:
      Float32 by name, in the order of the network: ``LAYER.weight`` [h, w, C, K] and
      ``LAYER.bias`` [K].

    Raises:
      InputError: for a network with quantized activations.
    """
    if model.config.quantization.activation_bits < 32:
        raise InputError("only a full_precision network is folded; train one of that kind")
    tensors: dict[str, NDArray] = {}

    def add(name: str, weight: NDArray, bias: NDArray) -> None:
        tensors[f"{name}.weight"] = np.asarray(weight, np.float32)
        tensors[f"{name}.bias"] = np.asarray(bias, np.float32)

    def double(name: str) -> None:
        block = getattr(model, name)
        for index in ("1", "2"):
            conv, norm = getattr(block, f"conv{index}"), getattr(block, f"norm{index}")
            add(f"{name}.conv{index}", *folded_conv(conv, norm))

    for name in ("stem", "down_c1", "down_c2", "down_c3", "down_c4"):
        double(name)
    for index in range(1, 5):
        up = getattr(model, f"up_ct{index}")
        add(f"up_ct{index}", np.asarray(up.conv.weight[...]), np.asarray(up.bias[...]))
        double(f"up_c{index}")
    add("head", np.asarray(model.head.weight[...])[None, None], np.asarray(model.head.bias[...]))
    return tensors
