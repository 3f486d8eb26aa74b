"""What a worker process of the input pipeline does beside its work."""

import multiprocessing
import os
import threading


def end_with_parent(worker_index: int = 0, worker_count: int = 1) -> None:
    """Makes this process end when the one that started it does, even by SIGKILL.

    Without it, workers of a killed training run would wait for it, and hold their memory, forever.

    Args:
      worker_index: which worker this is; grain gives it, all do the same.
      worker_count: how many workers there are.

    Raises:
      RuntimeError: this process was not started by `multiprocessing`.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("only a process that multiprocessing started can end with its parent")

    def wait_and_exit() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_exit, name="end-with-parent", daemon=True).start()
