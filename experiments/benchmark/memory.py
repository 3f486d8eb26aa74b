"""Memory of this process and of the machine, as Linux tells it."""

import ctypes
import re
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MACHINE = Path("/proc/meminfo")


def resident_bytes() -> int | None:
    """Read the memory that this process holds now.

    Returns:
      Bytes, or None where the system does not tell.
    """
    return _read(_STATUS, "VmRSS")


def peak_bytes() -> int | None:
    """Read the most that this process has held since `reset_peak`.

    Returns:
      Bytes, or None where the system does not tell.
    """
    return _read(_STATUS, "VmHWM")


def reset_peak() -> bool:
    """Give freed memory back to the system, and start the peak from what is held now.

    Returns:
      Whether the system lets the peak be reset; it otherwise counts from the process's start.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def available_bytes() -> int | None:
    """Read how much memory processes may take before the machine runs short.

    Returns:
      Bytes, or None where the system does not tell.
    """
    return _read(_MACHINE, "MemAvailable")


def _read(path: Path, name: str) -> int | None:
    if not path.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return None if found is None else 1024 * int(found[1])
