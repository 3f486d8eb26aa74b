"""Folders of images and masks, as a user may have them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbu_jax.data import open_source
from mbu_jax.errors import InputError

RNG = np.random.default_rng()  # fresh data in every run


def noise(height: int = 9, width: int = 7) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def labels(most: int, height: int = 9, width: int = 7) -> np.ndarray:
    """All numbers from 0 to `most`, at random places."""
    values = RNG.integers(0, most + 1, height * width)
    values[: most + 1] = np.arange(most + 1)
    return RNG.permutation(values).reshape(height, width)


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def pair(root: Path, name: str, mask: np.ndarray | None = None, kind: str = "masks") -> None:
    """An image and its mask; `name` may have a folder and has no ending."""
    save(root / "images" / f"{name}.png", noise())
    save(root / kind / f"{name}.png", (labels(1) * 255).astype(np.uint8) if mask is None else mask)


def opened(root: Path, split: str = "all", **options):
    return open_source(
        "folder", split, data_dir=root, prepared_dir=root.parent / "prepared", **options
    )


def refusal(root: Path, split: str = "all", **options) -> str:
    with pytest.raises(InputError) as caught:
        opened(root, split, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message, f"{message!r} names no remedy"
    return message
