"""How fast GPUs are said to be: what predictions rest on until a device has been measured."""

import dataclasses

LAUNCH = 2e-6
"""Seconds from one kernel's start to the next one's where neither has work; assumed."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device does in a second, all of its multiprocessors together.

    Attributes:
      multiprocessors: how many it has.
      logic: three-input logic operations, or additions, on 32 bits.
      popcount: counts of a word's bits.
      multiply_add: multiply-adds in float32.
      bmma: one-bit multiply-accumulates on Tensor Cores, by the instruction of one warp
        (``mma.sync``); 0 where they are emulated.
      wgmma: those by the instruction of four warps; 0 where there is none.
      cache_bytes: bytes from the first-level cache or shared memory, which are one.
      memory_bytes: bytes from and to memory.
      launch: seconds that a kernel takes beside its work.
    """

    multiprocessors: int
    logic: float
    popcount: float
    multiply_add: float
    bmma: float
    wgmma: float
    cache_bytes: float
    memory_bytes: float
    launch: float = LAUNCH


@dataclasses.dataclass(frozen=True)
class _Device:
    """A common device, and what one multiprocessor does in a clock cycle."""

    name: str
    multiprocessors: int
    clock: float
    memory_bytes: float
    logic: int = 64
    popcount: int = 16
    multiply_add: int = 128
    bmma: int = 0
    wgmma: int = 0
    cache_bytes: int = 128


# Logic, popcount and multiply-add are of the table "Throughput of Native Arithmetic Instructions"
# of the CUDA C++ Programming Guide; the 12.x have twice the integer units after NVIDIA's whitepaper
# on GeForce Blackwell. Multiprocessors, boost clocks and memory are of the data sheets.
#
# One-bit products are published for the A100 alone: 4,992 TOPS in its whitepaper, eight times its
# 8-bit rate. All others are assumed to have that ratio to their own 8-bit rate, the H100 by
# `wgmma`, and by `mma.sync` half of it. The rates of its one-bit AND are published nowhere.
#
# None of these figures was measured, and the documents were not at hand to check them.
_DEVICES = {
    75: _Device("T4", 40, 1.59e9, 320e9, multiply_add=64, bmma=8192, cache_bytes=64),
    80: _Device("A100", 108, 1.41e9, 2039e9, multiply_add=64, bmma=16384),
    86: _Device("A10", 72, 1.695e9, 600e9, bmma=8192),
    87: _Device("Orin", 16, 1.3e9, 204.8e9, bmma=16384),
    89: _Device("GeForce RTX 4090", 128, 2.52e9, 1008e9, bmma=8192),
    90: _Device("H100 SXM", 132, 1.83e9, 3350e9, bmma=16384, wgmma=32768),
    100: _Device("B200", 148, 1.85e9, 8000e9),
    103: _Device("B300", 148, 1.85e9, 8000e9),
    120: _Device("GeForce RTX 5090", 170, 2.407e9, 1792e9, logic=128),
    121: _Device("GB10", 48, 2.4e9, 273e9, logic=128),
}


def typical_device(capability: int) -> str:
    """Name the device whose published rates stand for a compute capability.

    Args:
      capability: major version times ten plus the minor.

    Returns:
      The name; of an unknown capability that of the last one before it.

    Example:
      >>> typical_device(90)
      'H100 SXM'
    """
    return _typical(capability).name


def published_rates(capability: int) -> Rates:
    """Look up what a device of a compute capability does in a second.

    Args:
      capability: major version times ten plus the minor.

    Returns:
      Rates of `typical_device`.

    Example:
      >>> published_rates(80).bmma / 1e12  # half of 4,992: a multiply-accumulate is two operations
      2494.9...
    """
    device = _typical(capability)
    cycles = device.multiprocessors * device.clock
    return Rates(
        multiprocessors=device.multiprocessors,
        logic=device.logic * cycles,
        popcount=device.popcount * cycles,
        multiply_add=device.multiply_add * cycles,
        bmma=device.bmma * cycles,
        wgmma=device.wgmma * cycles,
        cache_bytes=device.cache_bytes * cycles,
        memory_bytes=device.memory_bytes,
    )


def _typical(capability: int) -> _Device:
    known = [number for number in _DEVICES if number <= capability]
    return _DEVICES[max(known, default=min(_DEVICES))]
