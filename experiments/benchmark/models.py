"""Models without compiling anything: random ones, and full-precision ones in a safetensors file."""

import math
import os
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from experiments.benchmark.carried.weights import draw
from mbu_jax.layers import LatentWeight
from mbu_jax.unet import UNet, UNetConfig


def random_model(config: UNetConfig, density: float) -> UNet:
    """Draw a network by NumPy, with the BatchNorms that a new one has.

    Args:
      config: of the network.
      density: share of latent weights beyond 0.5, the ternarizer's threshold.

    Returns:
      The model, in evaluation mode; always the same.
    """
    rng = np.random.default_rng(0)
    spread = 0.5 / statistics.NormalDist().inv_cdf(1 - density / 2)
    # Activations of two bits are cut at one standard deviation, as in `NormActivation`.
    scale = 2.0 if config.quantization.activation_bits == 2 else 1.0

    def value(path: str, variable: nnx.Variable) -> NDArray:
        shape = variable.shape
        if isinstance(variable, LatentWeight):
            return rng.normal(scale=spread, size=shape)
        name = path.rpartition(".")[2]
        if name == "weight":
            # Every tap of a 2x2 transposed convolution makes another output.
            inputs = math.prod(shape[:-1]) // (4 if shape[0] == 2 and len(shape) == 4 else 1)
            return draw(path, shape, math.sqrt(2 / inputs))
        return np.full(shape, {"var": 1.0, "scale": scale}.get(name, 0.0))

    return _filled(config, value)


def save_model(path: str | os.PathLike[str], model: UNet) -> None:
    """Write parameters and BatchNorm statistics.

    Args:
      path: the file.
      model: a full-precision network.
    """
    save_file({name: np.asarray(v[...]) for name, v in _variables(model).items()}, path)


def load_model(path: str | os.PathLike[str], config: UNetConfig) -> UNet:
    """Read a model back.

    Args:
      path: the file.
      config: of the network.

    Returns:
      The model, in evaluation mode.
    """
    tensors = load_file(path)
    return _filled(config, lambda name, _: tensors[name])


def _filled(config: UNetConfig, value: Callable[[str, nnx.Variable], NDArray]) -> UNet:
    structure, state = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state)
    model = nnx.merge(structure, zeros)
    for name, variable in _variables(model).items():
        variable.set_value(jnp.asarray(value(name, variable), variable.dtype))
    model.eval()
    return model


def _variables(model: UNet) -> dict[str, nnx.Variable]:
    return {
        ".".join(map(str, path)): node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable)
    }
