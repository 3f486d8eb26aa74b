"""A packed network as one safetensors file, and the checks that let the file come from anywhere.

Tensors are named after layer and field: ``down_c1.conv1.positive``, ``stem.conv1.theta``,
``head.bias``. The header's metadata has one entry, ``mbu_jax``: JSON with the format's name and
version, the network's configuration, the size that its images are scaled to, and a checksum of
these and the tensors.
"""

import dataclasses
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mbu_jax.errors import InputError
from mbu_jax.files import write_bytes_atomic
from mbu_jax.packing import PackedUNet, check_packed, unet_template
from mbu_jax.unet import UNetConfig

FORMAT = "mbu_jax packed U-Net"
FORMAT_VERSION = 3

# One entry, because the library writes several in an order that differs from run to run.
_METADATA_KEY = "mbu_jax"
_LENGTH_BYTES = 8
_LARGEST_HEADER = 2**16  # ours takes about 10 kB
_MOST_DIGITS = 18
_LONGEST_REASON = 300
_DTYPE_NAMES = {"uint32": "U32", "int16": "I16", "int32": "I32", "float32": "F32"}


def save_packed(
    path: str | os.PathLike[str], params: PackedUNet, *, overwrite: bool = False
) -> None:
    """Write a packed network as one safetensors file.

    The same network gives the same bytes. The file takes its name once it is complete: a full
    disk leaves nothing behind but the earlier file, if there was one.

    Args:
      path: the file, by convention ``model.safetensors``. Its folder must exist.
      params: the network.
      overwrite: whether a file of that name may be replaced.

    Raises:
      InputError: where the network is not valid, the file exists or cannot be written.

    Example:
      >>> import jax
      >>> zeros = jax.tree.map(
      ...     lambda spec: np.zeros(spec.shape, spec.dtype), unet_template(UNetConfig(width=4))
      ... )
      >>> save_packed("model.safetensors", zeros)
      >>> load_packed("model.safetensors").config == zeros.config
      True
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file in it")
    if path.exists(follow_symlinks=False) and not overwrite:
        raise InputError(f"{path} exists; choose another name, or allow overwriting")
    check_packed(params)
    params.validate()
    tensors = {
        name: np.ascontiguousarray(value) for name, value in _fields(_layers(params)).items()
    }
    about = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "config": params.config.to_dict(),
        "image_size": params.image_size,
        "sha256": _checksum(params, tensors),
    }
    content = save(tensors, metadata={_METADATA_KEY: json.dumps(about)})
    try:
        write_bytes_atomic(path, content)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); its folder must exist, be writable and "
            "have space"
        ) from error


def load_packed(path: str | os.PathLike[str]) -> PackedUNet:
    """Read a packed network, trusting nothing in the file.

    What the configuration prescribes is compared with the header, and the header with the size
    of the file, before any tensor is read. Nothing is unpickled.

    Args:
      path: a file written by `save_packed`.

    Returns:
      The network, its arrays on JAX's default device.

    Raises:
      InputError: where the file cannot be read, is not a valid packed network, or takes more
        memory than there is.

    Example:
      >>> _ = Path("other.safetensors").write_text("something else")
      >>> load_packed("other.safetensors")
      Traceback (most recent call last):
      mbu_jax.errors.InputError: other.safetensors is damaged or no packed network (its header ...
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
            raise OSError(errno.EINVAL, "not a regular file")
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); give the model.safetensors of a run"
        ) from error
    except MemoryError as error:
        raise InputError(
            f"{path} takes more memory ({path.stat().st_size} bytes) than there is; load it on a "
            "machine with more, or give another file"
        ) from error
    except InputError as error:
        raise InputError(
            f"{path} is damaged or no packed network ({_one_line(str(error))}); copy it again, or "
            "pack the model again"
        ) from error


def _read(file: BinaryIO) -> PackedUNet:
    size = os.fstat(file.fileno()).st_size
    header, data_size = _read_header(file, size)
    template, checksum = _read_metadata(header.pop("__metadata__", None))
    _check_tensors(header, _fields(_layers(template)), data_size)
    file.seek(0)
    content = file.read(size)
    if len(content) != size:
        raise InputError("it became shorter while it was read")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise InputError(str(error)) from error
    if _checksum(template, tensors) != checksum:
        raise InputError("its checksum is another: the content was altered")
    params = _filled(template, tensors).validate()
    return _filled(params, {name: jnp.asarray(tensor) for name, tensor in tensors.items()})


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header's JSON, and how many bytes follow it."""
    if size < _LENGTH_BYTES:
        raise InputError(f"it has {size} bytes")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > min(_LARGEST_HEADER, size - _LENGTH_BYTES):
        raise InputError(f"its header would take {length} bytes of a file of {size}")
    return _parse(file.read(length), "its header"), size - _LENGTH_BYTES - length


def _read_metadata(metadata: Any) -> tuple[PackedUNet, str]:
    """The network, shapes instead of arrays, and the checksum that it should have."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_METADATA_KEY), str):
        raise InputError(f"its header says nothing of {_METADATA_KEY}")
    about = _parse(metadata[_METADATA_KEY], "its metadata")
    if about.get("format") != FORMAT:
        raise InputError(f"its format is {about.get('format')!r}, not {FORMAT!r}")
    version = about.get("version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(f"its format version is {version!r}; this mbu_jax reads {FORMAT_VERSION}")
    config: Any = about.get("config")
    size = about.get("image_size")
    template = dataclasses.replace(
        unet_template(UNetConfig.from_dict(config)),
        image_size=tuple(size) if isinstance(size, list) else size,
    )
    return template, str(about.get("sha256"))


def _parse(text: str | bytes, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            raise InputError(f"{name} has an entry twice")
        return table

    def short(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise InputError(f"{name} has a number of {len(digits)} digits")
        return int(digits)

    try:
        value = json.loads(text, object_pairs_hook=once, parse_int=short)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} is no JSON object")
    return value


def _check_tensors(header: Mapping[str, Any], specs: Mapping[str, Any], data_size: int) -> None:
    """Compare the header with the tensors that the network has, and those with the bytes."""
    for verb, names in (("lacks", specs.keys() - header), ("has unknown", header.keys() - specs)):
        if names:
            raise InputError(f"it {verb} tensor {min(names)}")
    spans = []
    for name, spec in specs.items():
        wanted = {"dtype": _DTYPE_NAMES[spec.dtype.name], "shape": list(spec.shape)}
        match header[name]:
            case {"data_offsets": [int(begin), int(end)], **found} if found == wanted:
                spans.append((begin, end))
            case found:
                raise InputError(f"tensor {name} is {found}; this network has {wanted}")
        if end - begin != math.prod(spec.shape) * spec.dtype.itemsize:
            raise InputError(f"tensor {name} has {end - begin} bytes, not those of its shape")
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise InputError("its tensors overlap or leave gaps")
        position = end
    if position != data_size:
        raise InputError(f"its tensors take {position} bytes where {data_size} follow the header")


def _checksum(params: PackedUNet, tensors: Mapping[str, NDArray]) -> str:
    """SHA-256 of all that makes the network: which bytes are which tensor's included."""
    static = [params.config.to_dict(), params.image_size]
    digest = hashlib.sha256(json.dumps(static, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _layers(params: PackedUNet) -> dict[str, Any]:
    return {"stem.conv1": params.stem, **params.convs, "head": params.head}


def _fields(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of the layers, or their specifications, by the names that they have in the file."""
    return {
        f"{name}.{field.name}": value
        for name, layer in layers.items()
        for field in dataclasses.fields(layer)
        if hasattr(value := getattr(layer, field.name), "dtype")
    }


def _filled(params: PackedUNet, arrays: Mapping[str, Any]) -> PackedUNet:
    """The same network with these arrays in it."""
    filled = {
        name: dataclasses.replace(
            layer,
            **{
                field.name: arrays[f"{name}.{field.name}"]
                for field in dataclasses.fields(layer)
                if f"{name}.{field.name}" in arrays
            },
        )
        for name, layer in _layers(params).items()
    }
    stem, head = filled.pop("stem.conv1"), filled.pop("head")
    return dataclasses.replace(params, stem=stem, convs=filled, head=head)


def _one_line(reason: str) -> str:
    """Text that may quote the file, made fit for a terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in reason)
    return shown if len(shown) <= _LONGEST_REASON else shown[:_LONGEST_REASON] + "..."
