"""Starting a quantized network from a trained full-precision one."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from mbu_jax.architecture import LAYER_NAMES
from mbu_jax.layers import Conv3x3, Head, NormActivation, Up, UpConv2x2
from mbu_jax.train.state import Network, Tree
from mbu_jax.unet import UNet

# By activation bits: the step of the uniform quantizer that is nearest to ReLU, and what one unit
# of a level stands for behind an `Up`, which is linear; both least squares, for a standard normal.
_RELU_STEP = {1: 1.224, 2: 0.651}
_LINEAR_STEP = {1: 0.798, 2: 0.499}


def quantized_start(
    trained: Network, params: Tree, stats: Tree, network: Network, images: Sequence[np.ndarray]
) -> Tree:
    """Turn the weights of a full-precision network into those that a quantized one starts from.

    A ReLU behind BatchNorm becomes the nearest quantizer of 2^b levels, which BatchNorm's scale and
    shift express: lowest level for 0, so that borders keep their meaning. Every layer's weights are
    scaled, as random ones are, so that the ``density`` of the quantization exceeds 0.5; the
    BatchNorm behind absorbs the factor. A transposed convolution has no BatchNorm in the
    full-precision network: the spread of its outputs on the images tells how the next layer weighs
    them against the skipped connection. Layers that stay full precision keep their weights.

    Args:
      trained: structure of the full-precision network, of the same sizes.
      params: its parameters.
      stats: its BatchNorm statistics.
      network: structure of the quantized network.
      images: some training images, each [H, W, C].

    Returns:
      Parameters of the quantized network. Its BatchNorm statistics have to be estimated anew.

    Example:
      >>> from mbu_jax.layers import QuantizationOptions
      >>> from mbu_jax.unet import UNetConfig
      >>> config = UNetConfig.preset("full_precision", quantization=QuantizationOptions(), width=4)
      >>> floating, params, stats = Network.create(config, seed=0)
      >>> network = Network.build(UNetConfig(width=4))
      >>> image = np.zeros((16, 16, 3), np.uint8)
      >>> start = quantized_start(floating, params, stats, network, [image])
      >>> start.keys() == network.params.keys()
      True

    Source: as the second of two stages, Liu et al., "ReActNet", 2020; the conversion is our own.
    """
    source = trained.model(params, stats)
    spreads = _spreads_behind_ups(source, images)
    _, random, _ = Network.create(network.config, seed=0)
    model = nnx.merge(network.training, random, network.initial_stats, network.thresholds)
    options = network.config.quantization
    bits = options.activation_bits
    unit, lowest = _RELU_STEP[bits] / 2, -(2**bits - 1)  # ReLU gives unit * (level - lowest)
    for path, module in list(nnx.iter_modules(model)):
        block, part = str(path[0]) if path else "", [str(key) for key in path[1:]]
        match module:
            case Conv3x3() | UpConv2x2():
                weight = np.array(_at(source, path).weight[...])
                if block in spreads and part == ["conv1"]:
                    skipped = weight.shape[2] // 2
                    relative = spreads[block] * _LINEAR_STEP[bits] / unit
                    weight[:, :, skipped:] *= relative[:, None]
                if module.precision != "float32":
                    weight = _scaled_as_latent(weight, options.density)
                module.weight[...] = jnp.asarray(weight)
            case NormActivation() if not isinstance(_at(model, path[:-1]), Up):
                norm = _at(source, path).norm
                scale, bias = module.norm.scale, module.norm.bias
                assert scale is not None, "BatchNorm is made with a scale"
                assert bias is not None, "BatchNorm is made with a bias"
                scale[...] = norm.scale[...] / unit
                bias[...] = norm.bias[...] / unit + lowest
            case Head():
                weight = source.head.weight[...]
                module.weight[...] = weight * unit
                module.bias[...] = source.head.bias[...] - lowest * unit * jnp.sum(weight, axis=0)
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def _scaled_as_latent(weight: np.ndarray, density: float) -> np.ndarray:
    """Scale weights so that a share of them exceeds 0.5, and clip them to [-1, 1]."""
    threshold = np.quantile(np.abs(weight), 1 - density)
    if threshold == 0:  # more zeros than that: any factor keeps them
        threshold = np.max(np.abs(weight)) or 1.0
    return np.clip(weight * (0.5 / threshold), -1, 1).astype(np.float32)


def _spreads_behind_ups(model: UNet, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Standard deviation of every channel that `Up` gives, by the block that it goes to."""
    ups = {name: name.replace("ct", "c") for name in LAYER_NAMES if name.startswith("up_ct")}
    moments: dict[str, list[Array]] = {block: [] for block in ups.values()}

    def recorded(block: str, up: Up, x: Array) -> Array:
        y = up(x)
        axes = (0, 1, 2)
        moments[block].append(jnp.stack([jnp.mean(y, axes), jnp.mean(jnp.square(y), axes)]))
        return y

    recording = nnx.clone(model)
    for name, block in ups.items():
        setattr(recording, name, functools.partial(recorded, block, getattr(recording, name)))
    for image in images:
        recording(jnp.asarray(image)[None])
    spreads = {}
    for block, found in moments.items():
        mean, square = np.mean(np.asarray(found, np.float64), axis=0)
        spreads[block] = np.sqrt(np.maximum(square - mean**2, 0))
    return spreads


def _at(model: nnx.Module, path: Sequence[Any]) -> Any:
    return functools.reduce(getattr, map(str, path), model)
