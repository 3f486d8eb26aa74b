"""What was measured on a kind of GPU: its ceilings, and the tiles that were fastest.

One JSON file a device, ``triton_kernels/tuned/<slug>.json``; the slug of "NVIDIA H100 80GB HBM3" is
``nvidia-h100-80gb-hbm3``. It is read where such a device is at hand. Where there is none, or no
tile for a shape, rules of thumb choose. The file is an object of

- ``device``: its name, as CUDA gives it;
- ``compute_capability``: major version times ten plus the minor;
- ``multiprocessors``: how many it has;
- ``ceilings``: an object of numbers a second, the most that was measured with all multiprocessors
  busy: ``copy_bytes`` (read plus written), ``lop3`` and ``popc`` (of a thread's 32 bits),
  ``bmma`` and ``wgmma`` (one-bit multiply-accumulates on Tensor Cores by the instruction of one
  warp and of four; null where there is none, or it was not measured);
- ``tiles``: by kernel's name and by `shape_key` of what its tile may depend on, an object of the
  tile's fields:

| kernels | shape | tile |
|---|---|---|
| conv3x3, up_conv2x2 | height, width, planes, words, weight_planes | of `triton_kernels.tiles` |
| bmma_conv3x3, bmma_up_conv2x2 | batch, height, width, groups | of `triton_kernels.bmma_tiles` |
| wgmma_conv3x3 | batch, height, width, groups | of `triton_kernels.wgmma_tiles` |
| wgmma_up_conv2x2 | pixels, groups | of `triton_kernels.wgmma_tiles`, 8 columns |
| bitsliced_conv3x3, bitsliced_up_conv2x2 | channels, height, words, images, planes, makers | of
  `triton_kernels.bitsliced_tiles` |

Shapes are the arguments of ``best_tile`` or ``best_stretch`` in these modules. Those of the first
two kernels leave the batch out: weights are arranged for a tile before the batch is known.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
import re
from collections.abc import Callable, Container, Mapping
from importlib.resources.abc import Traversable
from typing import Any

_MOST_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What a device does in a second at most.

    Attributes:
      copy_bytes: bytes of memory read plus those written.
      lop3: three-input logic operations on 32 bits.
      popc: counts of a word's bits.
      bmma: one-bit multiply-accumulates by ``mma.sync``, or None where they were not measured.
      wgmma: one-bit multiply-accumulates by ``wgmma``, or None where they were not measured.
    """

    copy_bytes: float
    lop3: float
    popc: float
    bmma: float | None
    wgmma: float | None


@dataclasses.dataclass(frozen=True)
class Tuned:
    """One device's file.

    Attributes:
      device: name of the device.
      compute_capability: major version times ten plus the minor.
      multiprocessors: how many it has.
      ceilings: what it does at most.
      tiles: by kernel and shape's key, fields of the tile.
    """

    device: str
    compute_capability: int
    multiprocessors: int
    ceilings: Ceilings
    tiles: Mapping[str, Mapping[str, Mapping[str, int]]]


type Sizes = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What kernels take.

    Attributes:
      sizes: names of what a shape's key holds.
      fields: values that a tile's fields may have.
      fits: whether a tile's fields go together, and with the sizes.
    """

    sizes: tuple[str, ...]
    fields: Mapping[str, Container[int]]
    fits: Callable[[Sizes, Sizes], bool]


_POWERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REGISTERS = range(32, 256, 8)
_ALL_REGISTERS = 2048  # of a multiprocessor, for each lane
_POPCOUNT = _Rule(
    sizes=("height", "width", "planes", "words", "weight_planes"),
    fields={
        "rows": _POWERS,
        "columns": _POWERS,
        "chunk": (1, 2, 4),
        "warps": (1, 2, 4, 8),
        "registers": _REGISTERS,
    },
    fits=lambda shape, tile: (
        shape["words"] % tile["chunk"] == 0
        and tile["rows"] * tile["columns"] >= 4 * tile["warps"]
        and tile["registers"] * tile["warps"] <= _ALL_REGISTERS
    ),
)
_BMMA = _Rule(
    sizes=("batch", "height", "width", "groups"),
    fields={
        "columns": (8, 16, 32, 64),
        "blocks": (1, 2, 4),
        "pixel_warps": (1, 2, 4, 8),
        "group_warps": (1, 2, 4),
        "registers": _REGISTERS,
    },
    fits=lambda shape, tile: (
        shape["groups"] % tile["group_warps"] == 0
        and 16 * tile["blocks"] * tile["pixel_warps"] % tile["columns"] == 0
        and tile["registers"] * tile["pixel_warps"] * tile["group_warps"] <= _ALL_REGISTERS
    ),
)
_WARPGROUPS: dict[str, Container[int]] = {
    "columns": (8, 16, 32),
    "warpgroups": (1, 2, 4),
    "groups": (1, 2, 4),
    "registers": _REGISTERS,
}


def _fits_warpgroups(shape: Sizes, tile: Sizes) -> bool:
    return (
        shape["groups"] % tile["groups"] == 0
        and tile["columns"] <= 8 * tile["warpgroups"]
        and 4 * tile["registers"] * tile["warpgroups"] <= _ALL_REGISTERS
    )


_WGMMA = _Rule(
    sizes=("batch", "height", "width", "groups"), fields=_WARPGROUPS, fits=_fits_warpgroups
)
_WGMMA_STRETCH = _Rule(
    sizes=("pixels", "groups"), fields=_WARPGROUPS | {"columns": (8,)}, fits=_fits_warpgroups
)
_BITSLICED = _Rule(
    sizes=("channels", "height", "words", "images", "planes", "makers"),
    fields={"outputs": (1, 2, 4, 8, 16), "vector": (1, 2, 4)},
    fits=lambda shape, tile: shape["words"] % tile["vector"] == 0,
)
_RULES = {
    "conv3x3": _POPCOUNT,
    "up_conv2x2": _POPCOUNT,
    "bmma_conv3x3": _BMMA,
    "bmma_up_conv2x2": _BMMA,
    "wgmma_conv3x3": _WGMMA,
    "wgmma_up_conv2x2": _WGMMA_STRETCH,
    "bitsliced_conv3x3": _BITSLICED,
    "bitsliced_up_conv2x2": _BITSLICED,
}


class TunedFileError(ValueError):
    """A file that is not what this module describes, named with what is wrong."""


def slug(device: str) -> str:
    """Turn a device's name into that of its file, but for the ending.

    Args:
      device: as CUDA gives it.

    Returns:
      Small letters, digits and dashes.

    Example:
      >>> slug("NVIDIA GeForce RTX 4090")
      'nvidia-geforce-rtx-4090'
    """
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")


def shape_key(**sizes: int) -> str:
    """Name a shape.

    Args:
      **sizes: what the tile depends on.

    Returns:
      The key.

    Example:
      >>> shape_key(height=512, groups=2)
      'height=512 groups=2'
    """
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def sizes_of(key: str) -> dict[str, int]:
    """Read a shape's name.

    Args:
      key: from `shape_key`; parts that are no size are left out.

    Returns:
      The sizes.

    Example:
      >>> sizes_of("height=512 groups=2")
      {'height': 512, 'groups': 2}
    """
    pairs = [part.partition("=") for part in key.split(" ")]
    return {size: int(number) for size, _, number in pairs if re.fullmatch(r"[0-9]{1,9}", number)}


@functools.cache
def load(device: str, folder: Traversable | None = None) -> Tuned | None:
    """Read what was measured on a device; once in a process.

    Args:
      device: its name, as CUDA gives it.
      folder: of the files; by default that beside this module.

    Returns:
      The file's content, or None where there is none.

    Raises:
      TunedFileError: where the file is not what this module describes.
    """
    if folder is None:
        folder = importlib.resources.files("triton_kernels") / "tuned"
    file = folder / f"{slug(device)}.json"
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise TunedFileError(f"{file} has more than {_MOST_BYTES} bytes")
    try:
        return parsed(json.loads(content), device)
    except (ValueError, RecursionError) as error:
        raise TunedFileError(f"{file} is no file of measured tiles: {error}") from error


def parsed(content: Any, device: str) -> Tuned:
    """Check a file's content.

    Args:
      content: as JSON gives it.
      device: name of the device that it should be of.

    Returns:
      What it says.

    Raises:
      ValueError: for what this module does not describe.
    """
    fields = _object(content, "the file", tuple(field.name for field in dataclasses.fields(Tuned)))
    _require(fields["device"] == device, f"device is {fields['device']!r}, not {device!r}")
    names = tuple(field.name for field in dataclasses.fields(Ceilings))
    ceilings = _object(fields["ceilings"], "ceilings", names)
    for name, rate in ceilings.items():
        allowed = (name in ("bmma", "wgmma") and rate is None) or (
            type(rate) in (int, float) and 0 < rate < math.inf
        )
        _require(allowed, f"ceilings.{name} is {rate!r}, no number above 0")
    _require(isinstance(fields["tiles"], dict), "tiles is no object")
    for kernel, shapes in fields["tiles"].items():
        _require(kernel in _RULES, f"tiles names {kernel!r}; kernels are {', '.join(_RULES)}")
        _require(isinstance(shapes, dict), f"tiles.{kernel} is no object")
        for key, tile in shapes.items():
            _check_tile(_RULES[kernel], key, tile, f"tiles.{kernel}[{key!r}]")
    return Tuned(
        device=device,
        compute_capability=_whole(fields["compute_capability"], "compute_capability"),
        multiprocessors=_whole(fields["multiprocessors"], "multiprocessors"),
        ceilings=Ceilings(**ceilings),
        tiles=fields["tiles"],
    )


def fits(kernel: str, shape: str, tile: Mapping[str, int]) -> bool:
    """Tell whether a tile can be a kernel's.

    Args:
      kernel: its name.
      shape: from `shape_key`.
      tile: its fields.

    Returns:
      Whether a file may say so.

    Example:
      >>> fits("bitsliced_conv3x3", "channels=8 height=8 words=3 images=1 planes=1 makers=1",
      ...      {"outputs": 8, "vector": 2})
      False
    """
    try:
        _check_tile(_RULES[kernel], shape, dict(tile), shape)
    except ValueError:
        return False
    return True


def _check_tile(rule: _Rule, key: str, tile: Any, name: str) -> None:
    sizes = sizes_of(key)
    _require(key == shape_key(**sizes) and (*sizes,) == rule.sizes, f"{name} is no shape of these "
             f"kernels, which have {', '.join(rule.sizes)}")  # fmt: skip
    fields = _object(tile, name, (*rule.fields,))
    for field, values in rule.fields.items():
        number = _whole(fields[field], f"{name}.{field}")
        _require(number in values, f"{name}.{field} is {number}")
    _require(rule.fits(sizes, fields), f"{name} does not fit its shape")


def _object(value: Any, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    _require(isinstance(value, dict) and value.keys() == {*keys}, f"{name} must be an object of "
             f"{', '.join(keys)}")  # fmt: skip
    return value


def _whole(value: Any, name: str) -> int:
    _require(type(value) is int and value > 0, f"{name} is {value!r}, no whole number above 0")
    return value


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
