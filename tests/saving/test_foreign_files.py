"""Files that are no packed networks are refused."""

import os
import pickle
import resource
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from mbu_jax.packing import unet_template
from mbu_jax.saving import FORMAT, FORMAT_VERSION
from mbu_jax.unet import UNetConfig
from tests.saving.packed_files import (
    little_memory,
    put_together,
    refusal,
    refused,
    tensors_of,
    with_header,
)


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert "cannot be read (No such file or directory)" in refusal(path)
    assert "cannot be read (not a regular file)" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be read (not a regular file)" in refusal(tmp_path / "pipe")
    exploded = tmp_path / "exploded"
    foreign = safetensors.numpy.save({"w": np.ones(9, np.float32)})
    described = safetensors.numpy.save({"w": np.ones(9, np.float32)}, metadata={"format": "pt"})
    for data, reason in (
        (b"", "it has 0 bytes"),
        (b"\0" * 7, "it has 7 bytes"),
        (b"\0" * 8, "its header is no JSON"),
        (b"a text, and not a short one", "its header would take"),
        (pickle.dumps(Bomb(exploded)), "its header would take"),
        (foreign, "its header says nothing of mbu_jax"),
        (described, "its header says nothing of mbu_jax"),
        ((2**63).to_bytes(8, "little") + b"{}", "its header would take 9223372036854775808 bytes"),
        ((3).to_bytes(8, "little") + b"{}", "its header would take 3 bytes of a file of 10"),
        (with_header(b" " * (2**16 + 1)), "its header would take 65537 bytes"),
        (with_header(b"[" * 60_000), "its header is no JSON"),
        (with_header(b'{"a":' * 12_000), "its header is no JSON"),
        (with_header(b"[]"), "its header is no JSON object"),
        (with_header(b'{"a": 1, "a": 2}'), "its header has an entry twice"),
        (with_header(b'{"a": "\xff"}'), "its header is no JSON"),
        (with_header(b'{"a": ' + b"9" * 5000 + b"}"), "its header has a number of 5000 digits"),
    ):
        assert reason in refused(tmp_path, data)
    assert not exploded.exists()


def test_a_file_without_permission(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root) may read everything, so nothing can be refused")
    assert "cannot be read (Permission denied)" in refusal(path)


def test_a_huge_foreign_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    foreign = safetensors.numpy.save({"w": np.ones(9, np.float32)})
    with path.open("wb") as file:
        file.write(foreign)
        file.truncate(2**40)  # a hole: it takes no room on the disk
    with little_memory():
        assert "its header says nothing of mbu_jax" in refusal(path)


def test_a_network_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    """All sizes agree, and a hole stands for the tensors."""
    config = UNetConfig.preset("binary", width=64_000)
    specs = unet_template(config)
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), specs)
    header: dict[str, Any] = {}
    end = 0
    for name, array in tensors_of(zeros).items():
        begin, end = end, end + array.nbytes
        dtype = array.dtype.kind.upper() + str(8 * array.itemsize)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}
    about = {"format": FORMAT, "version": FORMAT_VERSION, "config": config.to_dict(), "sha256": ""}
    start = put_together(header, about, b"")
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + end)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    assert end > 2**40
    resource.setrlimit(resource.RLIMIT_AS, (2**40, hard))
    try:
        said = refusal(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert f"takes more memory ({len(start) + end} bytes) than there is; load it on" in said
