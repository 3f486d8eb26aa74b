"""Files written in one step: whole, strict, as readable as others, or not at all."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from mbu_jax.files import write_bytes_atomic, write_json_atomic


def test_json_is_strict_and_knows_paths(tmp_path):
    file = tmp_path / "eval.json"
    write_json_atomic(file, {"where": Path("a/b"), "dice": 0.5})
    assert json.loads(file.read_text()) == {"where": "a/b", "dice": 0.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomic(file, {"dice": float("nan")})
    with pytest.raises(TypeError):
        write_json_atomic(file, {"dice": object()})
    assert json.loads(file.read_text())["dice"] == 0.5


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    file = tmp_path / "eval.json"
    write_bytes_atomic(file, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[failing], full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes_atomic(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]
    assert file.read_bytes() == b"old"


def test_written_files_are_as_readable_as_others(tmp_path):
    write_bytes_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"}
    assert len(modes) == 1
