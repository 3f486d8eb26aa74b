"""A program of a packed network for machines with only JAX: python -m experiments.export."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from experiments import command
from experiments.model_file import model_file, network_size
from mbu_jax.errors import InputError
from mbu_jax.export import chosen_engine, export
from mbu_jax.files import write_bytes_atomic
from mbu_jax.saving import load_packed

LOADER = """\
import jax, numpy as np

with open("{path}", "rb") as file:
    segment = jax.jit(jax.export.deserialize(file.read()).call)  # compiled at the first call
images = np.zeros({shape}, np.{dtype})
masks = np.asarray(segment(images)){classes}
"""

_DEFAULT_SIZE = (512, 512)


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a packed network as a program that a machine with only JAX loads and runs.

    The file holds the weights and, for a GPU, the compiled kernels. Nothing of mbu_jax, Triton or
    a compiler is needed where it runs: there, JAX of the same version, with CUDA for a GPU, and
    flatbuffers, which JAX reads files with.
    """

    model: Path = Path("runs/synthetic-mbu/model.safetensors")
    """Packed network, or the run directory that holds it."""

    out: Path = Path("unet.jax")
    """File to write."""

    overwrite: bool = False
    """Replace the file if it exists."""

    platform: Literal["cpu", "cuda"] = "cpu"
    """Where the program runs."""

    compute_capability: int | None = None
    """Of the GPU it is for, such as 90 for an H100; by default that of the GPU here."""

    image_size: tuple[int, int] | None = None
    """Height and width of the images that it takes; by default those that the run scaled its images
    to, or 512x512 where it scaled none."""

    batch_size: int | Literal["any"] = 1
    """Images at once; any, on a CPU alone, takes as many as it is given, one after another."""

    dtype: Literal["uint8", "float32"] = "uint8"
    """Of the images: uint8, or float32 in [0, 1]."""

    implementation: str | None = None
    """Engine; by default xla on a CPU and the best of a GPU."""

    def __post_init__(self) -> None:
        """Check the number of images.

        Raises:
          InputError: naming the option.
        """
        if self.batch_size == "any":
            if self.platform == "cuda":
                raise InputError(
                    "batch_size is any, which --platform cpu alone takes; give a number"
                )
        elif self.batch_size < 1:
            raise InputError(
                f"batch_size is {self.batch_size}; give a number of at least 1, or any"
            )


def main() -> None:
    """Parse the command line, compile, write, and say how the file is loaded."""
    options = command.parse(ExportConfig, {"default": ExportConfig()})
    command.check_file(options.out, overwrite=options.overwrite)
    model = model_file(options.model)
    params = load_packed(model)
    config = params.config
    size = network_size(options.image_size, params) or _DEFAULT_SIZE
    batch = None if options.batch_size == "any" else options.batch_size
    chosen_engine(options.platform, options.compute_capability, options.implementation)
    print(f"compiling {model} for {options.platform}, which may take a minute …", file=sys.stderr)
    program = export(
        params,
        (batch, *size, config.in_channels),
        platform=options.platform,
        compute_capability=options.compute_capability,
        implementation=options.implementation,
        dtype=options.dtype,
    )
    try:
        write_bytes_atomic(options.out, program)
    except PermissionError as error:
        raise InputError(f"{options.out} cannot be written ({error.strerror})") from error
    loader = LOADER.format(
        path=options.out,
        shape=(batch or 1, *size, config.in_channels),
        dtype=options.dtype,
        classes="[..., 0] > 0" if config.classes == 1 else ".argmax(-1)",
    )
    print(f"{options.out}: {len(program):,} bytes; where jax and flatbuffers are installed:")
    print(f"\n{loader}")
    if params.image_size is not None:
        print(
            "The network was trained on images scaled to {}x{}: scale yours, too.".format(
                *params.image_size
            )
        )


if __name__ == "__main__":
    command.run(main)
