"""Exported programs, loaded and compiled for the device that is here."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments.benchmark.carried import weights
from experiments.benchmark.carried.folder import Folder


def compiled(folder: Folder, name: str, options: dict[str, Any], *arguments: Any) -> Any:
    """Load a program and compile it.

    Args:
      folder: that it is in.
      name: of its file.
      options: for XLA's compiler.
      *arguments: what it will be called with.

    Returns:
      The compiled program.
    """
    # Read as what they are: JAX makes bytearrays of its own of anything else.
    exported = jax.export.deserialize(bytearray(folder.read(name)))
    lowered = jax.jit(exported.call).lower(*arguments)
    return lowered.compile(compiler_options=options or None)


def weights_of(folder: Folder, network: str, dtype: str | None = None) -> list[Array]:
    """Bring a network's weights to the device.

    Args:
      folder: that they are in.
      network: its name.
      dtype: that they are cast to, or None for their own.

    Returns:
      The arrays in the order in which programs take them.
    """
    about = folder.manifest["networks"][network]
    stored = folder.arrays(about["weights"]) if about["weights"] else {}
    tensors = weights.read(about["drawn"], stored)
    arrays = [jnp.asarray(tensors[name]) for name in about["order"]]
    return arrays if dtype is None else [array.astype(dtype) for array in arrays]
