"""A small network trained on real nuclei, for tests that need what training leaves behind.

The README beside this file says how it was made; ``python -m tests.trained.network RUN`` takes it
out of the run directory.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.state import Network
from mbu_jax.unet import UNet, UNetConfig

FILE = Path(__file__).with_name("nuclei_all_masked.safetensors")


def trained_model() -> UNet:
    """The network in evaluation mode."""
    with safe_open(FILE, framework="np") as file:
        config = UNetConfig.from_dict(json.loads(file.metadata()["config"]))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays = {name: jnp.asarray(tensor, jnp.float32) for name, tensor in tensors.items()}
    trees: Any = unflatten_dict(arrays, sep=".")
    return Network.build(config).model(trees["params"], trees["stats"])


def write(run: Path) -> None:
    """Keep a run's best network, its latent weights as float16 of the same ternary values."""
    network, params, stats, _ = load_run(run)
    latent = flatten_dict(network.latent_mask(params), sep=".")
    tensors = {
        f"params.{name}": _half(value) if latent[name] else np.asarray(value)
        for name, value in flatten_dict(params, sep=".").items()
    }
    for name, value in flatten_dict(stats, sep=".").items():
        tensors[f"stats.{name}"] = np.asarray(value)
    save_file(tensors, FILE, metadata={"config": json.dumps(network.config.to_dict())})


def _half(latent: Any) -> NDArray:
    latent = np.asarray(latent)
    half = latent.astype(np.float16)
    # A weight that rounding took back to the ternarizer's threshold would become 0.
    lost = (np.abs(latent) > 0.5) & (np.abs(half) <= 0.5)
    return np.where(lost, np.nextafter(half, np.copysign(np.float16(1), half)), half)


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    write(Path(sys.argv[1]))
