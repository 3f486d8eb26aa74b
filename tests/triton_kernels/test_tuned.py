"""Files of what was measured on a device: read, checked, and consulted before rules of thumb."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from triton_kernels import bitsliced_tiles, bmma_tiles, tiles, wgmma_tiles
from triton_kernels.tuned import Ceilings, TunedFileError, load, shape_key, slug

DEVICE = "NVIDIA Test 9000"
POPCOUNT = shape_key(height=32, width=48, planes=1, words=4, weight_planes=2)
BMMA = shape_key(batch=2, height=32, width=48, groups=2)
WGMMA = shape_key(batch=1, height=64, width=64, groups=4)
STRETCH = shape_key(pixels=4096, groups=8)
BITSLICED = shape_key(channels=64, height=32, words=2, images=2, planes=1, makers=1)
CONTENT: dict[str, Any] = {
    "device": DEVICE,
    "compute_capability": 90,
    "multiprocessors": 100,
    "ceilings": {"copy_bytes": 3e12, "lop3": 1.5e13, "popc": 4e12, "bmma": 9e14, "wgmma": None},
    "tiles": {
        "conv3x3": {
            POPCOUNT: {"rows": 4, "columns": 32, "chunk": 4, "warps": 8, "registers": 128}
        },
        "bmma_conv3x3": {
            BMMA: {
                "columns": 8, "blocks": 1, "pixel_warps": 2, "group_warps": 2, "registers": 96
            }
        },
        "wgmma_conv3x3": {
            WGMMA: {"columns": 8, "warpgroups": 1, "groups": 4, "registers": 168}
        },
        "wgmma_up_conv2x2": {
            STRETCH: {"columns": 8, "warpgroups": 1, "groups": 2, "registers": 96}
        },
        "bitsliced_conv3x3": {BITSLICED: {"outputs": 2, "vector": 2}},
    },
}  # fmt: skip


def write(folder: Path, content: Any) -> Path:
    (folder / "nvidia-test-9000.json").write_text(json.dumps(content))
    return folder


def test_a_devices_file_is_found_by_its_name(tmp_path: Path) -> None:
    assert slug(DEVICE) == "nvidia-test-9000"
    found = load(DEVICE, write(tmp_path, CONTENT))
    assert found is not None
    assert found.multiprocessors == 100
    assert found.ceilings == Ceilings(
        copy_bytes=3e12, lop3=1.5e13, popc=4e12, bmma=9e14, wgmma=None
    )
    assert load("NVIDIA Test 9001", tmp_path) is None
    assert load(DEVICE) is None


def test_a_measured_tile_goes_before_the_rules(tmp_path: Path) -> None:
    found = load(DEVICE, write(tmp_path, CONTENT))
    assert found is not None
    measured = found.tiles["conv3x3"]
    for batch in (1, 7):
        tile = tiles.best_tile((batch, 32, 48, 1, 4), 2, measured=measured)
        assert tile == tiles.Tile(rows=4, columns=32, chunk=4, warps=8, registers=128)
    other = (1, 32, 64, 1, 4)
    assert tiles.best_tile(other, 2, measured=measured) == tiles.best_tile(other, 2)
    tile = bmma_tiles.best_tile(2, 32, 48, 2, measured=found.tiles["bmma_conv3x3"])
    assert dataclasses.asdict(tile) == CONTENT["tiles"]["bmma_conv3x3"][BMMA]
    tile = bmma_tiles.best_tile(1, 32, 48, 2, measured=found.tiles["bmma_conv3x3"])
    assert tile == bmma_tiles.best_tile(1, 32, 48, 2)
    tile = wgmma_tiles.best_tile(1, 64, 64, 4, measured=found.tiles["wgmma_conv3x3"])
    assert dataclasses.asdict(tile) == CONTENT["tiles"]["wgmma_conv3x3"][WGMMA]
    tile = wgmma_tiles.best_stretch(4096, 8, measured=found.tiles["wgmma_up_conv2x2"])
    assert dataclasses.asdict(tile) == CONTENT["tiles"]["wgmma_up_conv2x2"][STRETCH]
    tile = bitsliced_tiles.best_tile(
        64, 32, 2, images=2, planes=1, measured=found.tiles["bitsliced_conv3x3"]
    )
    assert tile == bitsliced_tiles.Tile(outputs=2, vector=2)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ((), [], "the file must be an object of device, compute_capability"),
        (("device",), "another", "device is 'another', not 'NVIDIA Test 9000'"),
        (("more",), 1, "the file must be an object of"),
        (("compute_capability",), "90", "compute_capability is '90', no whole number above 0"),
        (("multiprocessors",), True, "multiprocessors is True, no whole number"),
        (("ceilings", "popc"), None, "ceilings.popc is None, no number above 0"),
        (("ceilings", "lop3"), float("inf"), "ceilings.lop3 is inf"),
        (("ceilings", "lop3"), -1, "ceilings.lop3 is -1"),
        (("ceilings", "lop4"), 1, "ceilings must be an object of copy_bytes, lop3, popc, bmma, w"),
        (("tiles",), [], "tiles is no object"),
        (("tiles", "conv"), {}, "tiles names 'conv'; kernels are conv3x3, up_conv2x2"),
        (("tiles", "conv3x3"), None, "tiles.conv3x3 is no object"),
        (("tiles", "conv3x3", "height=32"), {}, "is no shape of these kernels, which have height"),
        (("tiles", "conv3x3", POPCOUNT + " words=4"), {}, "is no shape of these kernels"),
        (("tiles", "conv3x3", POPCOUNT, "rows"), 3, ".rows is 3"),
        (("tiles", "conv3x3", POPCOUNT, "warps"), 16, ".warps is 16"),
        (("tiles", "conv3x3", POPCOUNT, "rows"), 4.0, ".rows is 4.0, no whole number"),
        (("tiles", "conv3x3", POPCOUNT, "columns"), 4, "does not fit its shape"),
        (("tiles", "conv3x3", POPCOUNT.replace("words=4", "words=6")),
         CONTENT["tiles"]["conv3x3"][POPCOUNT], "does not fit its shape"),
        (("tiles", "bmma_conv3x3", BMMA, "columns"), 64, "does not fit its shape"),
        (("tiles", "bmma_conv3x3", BMMA, "group_warps"), 4, "does not fit its shape"),
        (("tiles", "wgmma_conv3x3", WGMMA, "columns"), 16, "does not fit its shape"),
        (("tiles", "wgmma_up_conv2x2", STRETCH, "columns"), 16, ".columns is 16"),
        (("tiles", "bitsliced_conv3x3", BITSLICED, "vector"), 4, "does not fit its shape"),
        (("tiles", "bitsliced_conv3x3", BITSLICED, "outputs"), 3, ".outputs is 3"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_described_is_refused(
    tmp_path: Path, path: tuple[str, ...], value: Any, said: str
) -> None:
    content = value
    if path:
        content = copy.deepcopy(CONTENT)
        place = content
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
    with pytest.raises(TunedFileError) as refused:
        load(DEVICE, write(tmp_path, content))
    assert said in str(refused.value)
    assert "nvidia-test-9000.json is no file of measured tiles: " in str(refused.value)


def test_bytes_that_are_no_json_are_refused(tmp_path: Path) -> None:
    for i, content in enumerate((b"\xff", b"{", b"[" * 100_000)):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "nvidia-test-9000.json").write_bytes(content)
        with pytest.raises(TunedFileError, match="is no file of measured tiles"):
            load(DEVICE, folder)
    (tmp_path / "nvidia-test-9000.json").write_bytes(b" " * (1 << 22) + b"{}")
    with pytest.raises(TunedFileError, match="has more than 4194304 bytes"):
        load(DEVICE, tmp_path)
