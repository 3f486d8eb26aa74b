"""Which rows are alive at once, so that the GPU's memory holds them."""

from collections.abc import Sequence
from typing import Any

_SHARE_OF_MEMORY = 0.85  # that processes may fill
_PROCESS_BYTES = 6e8  # of any of them: the driver's and the libraries' own


def divide(
    rows: Sequence[dict[str, Any]], pixels: int, memory: int | None
) -> list[list[dict[str, Any]]]:
    """Divide rows into shifts, in the order in which they are given.

    Args:
      rows: from the manifest; ``bytes_per_pixel`` is what each is expected to take.
      pixels: of a batch.
      memory: of the GPU, or None for no limit.

    Returns:
      The shifts. A row is in the first one with room, or alone in one.

    Example:
      >>> rows = [{"name": n, "bytes_per_pixel": b} for n, b in (("a", 9), ("b", 8), ("c", 1))]
      >>> [[row["name"] for row in shift] for shift in divide(rows, 10**9, 16 * 10**9)]
      [['a', 'c'], ['b']]
    """
    if memory is None:
        return [list(rows)]
    room = _SHARE_OF_MEMORY * memory
    found: list[list[dict[str, Any]]] = []
    taken: list[float] = []
    for row in rows:
        need = _PROCESS_BYTES + pixels * row["bytes_per_pixel"]
        for index, shift in enumerate(found):
            if taken[index] + need <= room:
                shift.append(row)
                taken[index] += need
                break
        else:
            found.append([row])
            taken.append(need)
    return found
