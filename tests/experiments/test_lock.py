"""Locks: one process at a time."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments.lock import locked
from mbu_jax.errors import InputError

HOLD = """
import sys
from pathlib import Path
from experiments.lock import locked
with locked(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with locked(work) as ours, locked(tmp_path / "else") as free:
            assert (ours, free) == (False, True)
        other.kill()
    with locked(work) as ours:
        assert ours
    assert not work.exists()  # which begins in an empty place


def test_a_process_waits_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work = tmp_path / "work"
    taken: list[bool] = []

    def wait() -> None:
        with locked(work, wait=True) as ours:
            taken.append(ours)

    waiting = threading.Thread(target=wait)
    with locked(work):
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert taken == []
    waiting.join(60)
    assert taken == [True]
    assert capsys.readouterr().out == f"waiting for another process that is at {work}\n"


def test_what_goes_wrong_under_a_lock_ends_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="moon"), locked(tmp_path / "a"):
        raise FileNotFoundError("moon")
    with locked(tmp_path / "a") as ours:
        assert ours


def test_a_place_without_locks_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"moon/a.lock cannot be locked \(No such file"),
        locked(tmp_path / "moon" / "a"),
    ):
        pass
