"""What is saved comes back."""

import dataclasses
import json
import os
import resource
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from mbu_jax.architecture import unet_layers
from mbu_jax.errors import InputError
from mbu_jax.packing import PackedUNet, unet_template
from mbu_jax.saving import load_packed, save_packed
from mbu_jax.unet import UNetConfig
from tests.random_packed import random_packed
from tests.saving.packed_files import CONFIG, CONFIGS, IMAGE_SIZE, assert_same, signed, tensors_of


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_saved_comes_back(tmp_path: Path, name: str) -> None:
    params = random_packed(CONFIGS[name], seed=1)
    path = tmp_path / "model.safetensors"
    save_packed(path, params)
    loaded = load_packed(str(path))
    assert_same(loaded, params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_same_network_gives_the_same_bytes(
    tmp_path: Path, network: PackedUNet, content: bytes
) -> None:
    save_packed(tmp_path / "again", jax.tree.map(lambda leaf: leaf, network))
    assert (tmp_path / "again").read_bytes() == content


def test_other_readers_of_safetensors_understand_it(
    folder: Path, network: PackedUNet, content: bytes
) -> None:
    with safetensors.safe_open(folder / "good.safetensors", framework="np") as file:
        about = json.loads(file.metadata()["mbu_jax"])
        named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert about == {
        "format": "mbu_jax packed U-Net",
        "version": 3,
        "config": CONFIG.to_dict(),
        "image_size": list(IMAGE_SIZE),
        "sha256": signed(named),
    }
    wanted = tensors_of(network)
    assert named.keys() == wanted.keys()
    assert {"down_c1.conv1.positive", "up_ct1.conv.theta", "stem.conv1.weight"} <= named.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(named[name], value)


@pytest.mark.parametrize(("preset", "most"), [("all_masked", 4_000_000), ("binary", 2_100_000)])
def test_a_bit_takes_a_bit(tmp_path: Path, preset: Any, most: int) -> None:
    config = UNetConfig.preset(preset, width=64)
    weights = sum(layer.weights for layer in unet_layers(64))
    assert weights == 14_776_064
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), unet_template(config))
    path = tmp_path / "model.safetensors"
    save_packed(path, params)
    planes = 2 if preset == "all_masked" else 1
    assert planes * weights / 8 < path.stat().st_size <= most


def test_an_existing_file_is_kept_unless_told(tmp_path: Path, network: PackedUNet) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"model\.safetensors exists; choose another name"):
        save_packed(path, network)
    assert path.read_text() == "precious"
    save_packed(path, network, overwrite=True)
    assert_same(load_packed(path), network)


def test_places_where_no_file_can_be(tmp_path: Path, network: PackedUNet) -> None:
    for overwrite in (True, False):
        with pytest.raises(InputError, match="is a folder; give the name of a file in it"):
            save_packed(tmp_path, network, overwrite=overwrite)
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        save_packed(tmp_path / "absent" / "model", network)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="link exists"):
        save_packed(tmp_path / "link", network)
    assert [entry.name for entry in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_a_refused_write_leaves_nothing_half_written(
    tmp_path: Path, network: PackedUNet, earlier: bytes | None
) -> None:
    path = tmp_path / "model.safetensors"
    if earlier:
        path.write_bytes(earlier)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a full disk, part is written
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\); .* space"):
            save_packed(path, network, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([earlier] if earlier else [])


def test_a_network_that_is_not_valid_is_not_saved(tmp_path: Path, network: PackedUNet) -> None:
    conv = network.convs["up_c1.conv2"]
    broken = dataclasses.replace(conv, theta=conv.theta[::-1])
    params = dataclasses.replace(network, convs=network.convs | {"up_c1.conv2": broken})
    with pytest.raises(InputError, match=r"up_c1\.conv2\.theta must ascend"):
        save_packed(tmp_path / "model", params)
    del params.convs["up_c1.conv2"]
    with pytest.raises(InputError, match=r"lacks up_c1\.conv2"):
        save_packed(tmp_path / "model", params)
    assert list(tmp_path.iterdir()) == []
