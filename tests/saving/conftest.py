"""Files of packed networks that the tests here damage."""

import dataclasses
from pathlib import Path

import pytest

from mbu_jax.packing import PackedUNet
from mbu_jax.saving import save_packed
from tests.random_packed import random_packed
from tests.saving.packed_files import CONFIG, IMAGE_SIZE, MASKED


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saving")


@pytest.fixture(scope="session")
def network() -> PackedUNet:
    return dataclasses.replace(random_packed(CONFIG), image_size=IMAGE_SIZE)


@pytest.fixture(scope="session")
def content(network: PackedUNet, folder: Path) -> bytes:
    path = folder / "good.safetensors"
    save_packed(path, network)
    return path.read_bytes()


@pytest.fixture(scope="session")
def masked(folder: Path) -> bytes:
    path = folder / "masked.safetensors"
    save_packed(path, random_packed(MASKED))
    return path.read_bytes()
