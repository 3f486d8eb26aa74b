"""What a network costs, layer by layer: python -m experiments.summary --model RUN."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
from pathlib import Path
from typing import Literal

from experiments import command
from experiments.model_file import model_file
from mbu_jax.packing import PackedUNet
from mbu_jax.saving import load_packed
from mbu_jax.summary import summary
from mbu_jax.train.checkpoints import load_run
from mbu_jax.train.rundir import RunDirectory
from mbu_jax.unet import UNet

Platform = Literal["cpu", "cuda", "rocm", "tpu"]


@dataclasses.dataclass(frozen=True)
class SummaryConfig:
    """Print shapes, densities, multiplications, bytes and engines of a network's layers."""

    model: Path = Path("runs/synthetic-mbu")
    """Packed network (model.safetensors), or a run directory."""

    image_size: tuple[int, int] = (512, 512)
    """Height and width of the image that work and activations are counted for."""

    implementation: str | None = None
    """Engine of the packed convolutions; by default the best that the device has."""

    platform: Platform | None = None
    """Where the network would run; by default here, or on cuda with a compute capability."""

    compute_capability: int | None = None
    """Of the GPU, which need not be here: 90 for an H100. Its engines are chosen by predictions,
    which are printed."""

    json: bool = False
    """Print JSON instead of a table."""


def main() -> None:
    """Parse the command line and print."""
    options = command.parse(SummaryConfig, {"default": SummaryConfig()})
    network = _load(options.model)
    result = summary(
        network,
        image_size=options.image_size,
        implementation=options.implementation,
        platform=options.platform,
        compute_capability=options.compute_capability,
    )
    print(result.to_json() if options.json else result)


def _load(path: Path) -> PackedUNet | UNet:
    """A packed file, a run's packed file, or where there is none the run's best checkpoint."""
    if path.is_dir() and not RunDirectory(path).model.exists():
        network, params, stats, _ = load_run(path, "best")
        return network.model(params, stats)
    return load_packed(model_file(path))


if __name__ == "__main__":
    command.run(main)
