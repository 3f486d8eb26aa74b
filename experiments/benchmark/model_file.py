"""The full-precision model's weights as a safetensors file, for the processes that run it."""

import os

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from mbu_jax.train.state import Network, Tree
from mbu_jax.unet import UNet, UNetConfig


def save_model(path: str | os.PathLike[str], params: Tree, stats: Tree) -> None:
    """Write parameters and BatchNorm statistics.

    Args:
      path: the file.
      params: parameters.
      stats: statistics.
    """
    flat = flatten_dict({"params": params, "stats": stats}, sep=".")
    save_file({name: np.asarray(value) for name, value in flat.items()}, path)


def load_model(path: str | os.PathLike[str], config: UNetConfig) -> UNet:
    """Read a model back, in evaluation mode.

    Args:
      path: the file.
      config: of the network.

    Returns:
      The model.
    """
    flat = {name: jnp.asarray(value) for name, value in load_file(path).items()}
    tree = unflatten_dict(flat, sep=".")
    return Network.build(config).model(tree["params"], tree["stats"])
