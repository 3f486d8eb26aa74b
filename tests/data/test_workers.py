"""Worker processes do not outlive the process that started them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from mbu_jax.data.workers import end_with_parent

PARENT = """
import multiprocessing, time
from mbu_jax.data.workers import end_with_parent

def work(ready):
    end_with_parent()
    ready.set()
    time.sleep(120)

context = multiprocessing.get_context("fork")
ready = context.Event()
worker = context.Process(target=work, args=(ready,))
worker.start()
ready.wait()
print(worker.pid, flush=True)
time.sleep(120)
"""


def is_running(pid: int) -> bool:
    """False too for a zombie that its adoptive parent has not collected yet."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")  # noqa: PTH112
def test_worker_of_a_killed_parent_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        worker = int(parent.stdout.readline())
        try:
            assert is_running(worker)
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            deadline = time.monotonic() + 20
            while is_running(worker) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not is_running(worker)
        finally:
            parent.kill()
            if is_running(worker):
                os.kill(worker, signal.SIGKILL)


def test_main_process_is_refused() -> None:
    assert multiprocessing.parent_process() is None
    with pytest.raises(RuntimeError, match="multiprocessing started"):
        end_with_parent()
