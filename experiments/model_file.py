"""The packed network that a command is given, and the size of its images."""

from pathlib import Path
from typing import Literal

from mbu_jax.data.pipeline import check_size
from mbu_jax.errors import InputError
from mbu_jax.packing import PackedUNet, unet_template
from mbu_jax.saving import load_packed
from mbu_jax.train.rundir import RunDirectory, read_config
from mbu_jax.unet import UNetConfig


def model_file(path: Path) -> Path:
    """Find the packed network that a user means.

    Args:
      path: a run's directory, or the file itself.

    Returns:
      The file; it exists where it is a run's.

    Raises:
      InputError: for a directory that is no run, or a run that has none, saying why.

    Example:
      >>> RunDirectory("runs/begun").create_or_resume({"epochs": 30})
      False
      >>> model_file(Path("runs/begun"))
      Traceback (most recent call last):
      ...
      mbu_jax.errors.InputError: runs/begun has no model.safetensors yet; finish its training: ...
    """
    is_dir = path.is_dir()
    run = RunDirectory(path if is_dir else path.parent)
    of_run = is_dir or (path == run.model and run.config.exists())
    if of_run and not run.model.exists():
        _refuse_unpacked(run)
    return run.model if is_dir else path


def _refuse_unpacked(run: RunDirectory) -> None:
    unet = read_config(run.path).get("unet")
    if unet is not None:
        try:
            unet_template(UNetConfig.from_dict(unet))
        except InputError as obstacle:
            raise InputError(f"{run.path} has no {run.model.name}: {obstacle}") from None
    raise InputError(
        f"{run.path} has no {run.model.name} yet; finish its training: the same command goes on"
    )


def load_for_pictures(model: Path) -> PackedUNet:
    """Load a packed network that takes what picture files hold.

    Args:
      model: the file.

    Returns:
      The network.

    Raises:
      InputError: if it cannot be read, or takes images of other than 1 or 3 channels.
    """
    params = load_packed(model)
    if params.config.in_channels not in (1, 3):
        raise InputError(
            f"{model} takes images of {params.config.in_channels} channels, picture files have 1 "
            "or 3; call mbu_jax.predict with arrays"
        )
    return params


def network_size(
    asked: tuple[int, int] | Literal["own"] | None, params: PackedUNet
) -> tuple[int, int] | None:
    """Find the size to which images are scaled for a network.

    Args:
      asked: by the user; None leaves it to the network.
      params: the network.

    Returns:
      Height and width: as asked for, or as in training; None where images keep their own.

    Raises:
      InputError: for a size out of range, which a file from anywhere may have, too.
    """
    if asked == "own":
        return None
    size = asked or params.image_size
    check_size("image_size", size)
    return size
