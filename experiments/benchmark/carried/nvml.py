"""What the driver tells of the GPU, through NVML: name, memory, energy."""

import contextlib
import ctypes
import os
import time
from typing import Any

_SUCCESS = 0
_LIBRARY = "libnvidia-ml.so.1"


class Nvml:
    """A GPU, by the driver's own library; no Python package is needed.

    Args:
      device: its number in the order of the PCI bus, or its UUID.

    Raises:
      OSError: where there is no driver or no such GPU.
    """

    def __init__(self, device: int | str = 0) -> None:
        self._library = ctypes.CDLL(_LIBRARY)
        self._call("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        if isinstance(device, int):
            self._call("nvmlDeviceGetHandleByIndex_v2", device, ctypes.byref(self._device))
        else:
            uuid = device.encode()
            self._call("nvmlDeviceGetHandleByUUID", uuid, ctypes.byref(self._device))

    def describe(self) -> dict[str, Any]:
        """Name it.

        Returns:
          ``name``, ``driver``, ``memory_bytes``, ``compute_capability`` (90 for an H100), and
          ``power_limit_watts`` and ``clocks_mhz`` where the driver tells them.
        """
        name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(80)
        self._call("nvmlDeviceGetName", self._device, name, len(name))
        self._call("nvmlSystemGetDriverVersion", driver, len(driver))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call(
            "nvmlDeviceGetCudaComputeCapability",
            self._device,
            ctypes.byref(major),
            ctypes.byref(minor),
        )
        found: dict[str, Any] = {
            "name": name.value.decode(),
            "driver": driver.value.decode(),
            "memory_bytes": self._memory()[0],
            "compute_capability": 10 * major.value + minor.value,
        }
        with contextlib.suppress(OSError):
            limit = self._number("nvmlDeviceGetEnforcedPowerLimit", ctypes.c_uint)
            found["power_limit_watts"] = limit / 1000
        with contextlib.suppress(OSError):
            found["clocks_mhz"] = {
                kind: self._number("nvmlDeviceGetMaxClockInfo", ctypes.c_uint, number)
                for kind, number in (("sm", 1), ("memory", 2))
            }
        return found

    def joules(self) -> float:
        """Read the energy that the GPU has taken since the driver was loaded.

        Returns:
          Joules.

        Raises:
          OSError: where this GPU does not count it.
        """
        total = self._number("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return total / 1000

    def free_bytes(self) -> int:
        """Read how much memory no process holds.

        Returns:
          Bytes.
        """
        return self._memory()[1]

    def watts_over(self, seconds: float) -> float:
        """Measure power while nothing of ours runs.

        Args:
          seconds: to wait.

        Returns:
          Mean power.
        """
        before, began = self.joules(), time.perf_counter()
        time.sleep(seconds)
        return (self.joules() - before) / (time.perf_counter() - began)

    def _memory(self) -> tuple[int, int]:
        found = (ctypes.c_ulonglong * 3)()  # total, free, used
        self._call("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(found))
        return found[0], found[1]

    def _number(self, function: str, kind: Any, *arguments: Any) -> int:
        value = kind()
        self._call(function, self._device, *arguments, ctypes.byref(value))
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code != _SUCCESS:
            raise OSError(f"{function} gave {code}")


def first_gpu() -> Nvml | None:
    """Find the GPU that programs run on.

    Returns:
      The first one that ``CUDA_VISIBLE_DEVICES`` lets them see, or None where there is none.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    try:
        return Nvml(int(visible) if visible.isdecimal() else visible)
    except OSError:
        return None
