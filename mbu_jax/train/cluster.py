"""What several processes that train one network must agree on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from mbu_jax.errors import InputError

_LONGEST_WAIT_MS = 6 * 3600 * 1000  # one process may have a large dataset to prepare
_ID_BYTES = 512


@contextmanager
def failing_together(stage: str) -> Iterator[None]:
    """Run a block on every process; where one meets bad input, all raise its error.

    Without it the others would wait for the one that ended. The block itself must not wait for
    other processes.

    Args:
      stage: a name, used once in a run.

    Yields:
      Nothing; all processes leave the block together.

    Raises:
      InputError: of the first process that has one.

    Example:
      >>> with failing_together("options"):
      ...     batch_size = 8
    """
    error = None
    try:
        yield
    except InputError as caught:
        error = caught
    if jax.process_count() > 1:
        # By the coordinator: collectives of devices give up where one process takes long.
        client = distributed.global_state.client
        assert client is not None, "several processes have a coordinator"
        client.key_value_set(f"mbu_jax/{stage}/{jax.process_index()}", f"{error or ''}\n")
        for process in range(jax.process_count()):
            said = client.blocking_key_value_get(f"mbu_jax/{stage}/{process}", _LONGEST_WAIT_MS)
            if error is None and said.strip():
                error = InputError(said.strip())
    if error is not None:
        raise error


def gather_ids(ids: Sequence[str] | np.ndarray) -> list[str]:
    """Collect the image ids of a batch from all processes, in the order of its rows.

    Args:
      ids: this process's, as many as every other process has.

    Returns:
      All ids.

    Example:
      >>> gather_ids(["a", "b"])
      ['a', 'b']
    """
    if jax.process_count() == 1:
        return [str(name) for name in ids]
    rows = np.zeros((len(ids), _ID_BYTES), np.uint8)
    for row, name in zip(rows, ids, strict=True):
        text = str(name).encode()[:_ID_BYTES]
        row[: len(text)] = np.frombuffer(text, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(rows, tiled=True))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in everyone]
