"""What one core can do at best, measured: the floor under the `bitsliced` engine's times."""

import ctypes
import dataclasses
import time
from collections.abc import Callable

import numpy as np

from mbu_jax.errors import InputError
from mbu_jax.ops.bitsliced import library

_ADDERS_PER_ROUND = 6  # as native/ceilings.h has them
_SECONDS = 0.02  # of one measurement
_REPEATS = 7
_L1_BYTES, _L2_BYTES = 16 << 10, 384 << 10  # the latter is what a tile of the engine takes


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Rates of one core, as non-zero multiply-accumulates a second.

    Each takes one full adder and one plane's vector from a cache, so none of these can be passed.

    Attributes:
      adders: if only adding took time.
      l1: if only reading planes from the first-level cache did.
      l2: if only reading planes from the second-level cache did.
    """

    adders: float
    l1: float
    l2: float


def measure_ceilings() -> Ceilings:
    """Measure them on the core that runs this, in about half a second.

    Returns:
      The rates; the best of several runs each, because other work only slows them.

    Raises:
      InputError: where the compiled library is missing.
    """
    missing = library.absent()
    if missing is not None:
        raise InputError(f"the bitsliced engine cannot run here: {missing}")
    loaded = library.load()
    vector_bytes = loaded.mbu_vector_bytes()
    bits = 8 * vector_bytes

    def reads(size: int) -> float:
        memory = np.ones(size + vector_bytes, np.uint8)
        aligned = -(-memory.ctypes.data // vector_bytes) * vector_bytes
        vectors, address = size // vector_bytes, ctypes.c_void_p(aligned)
        rate = _rate(lambda rounds: loaded.mbu_read_only(address, vectors, rounds))
        return rate * vectors * bits

    return Ceilings(
        adders=_rate(loaded.mbu_add_only) * _ADDERS_PER_ROUND * bits,
        l1=reads(_L1_BYTES),
        l2=reads(_L2_BYTES),
    )


def _rate(run: Callable[[int], int]) -> float:
    """Rounds a second, at best."""
    rounds, seconds = 1, 0.0
    while seconds < _SECONDS:
        rounds *= 2
        seconds = _seconds(run, rounds)
    return rounds / min(_seconds(run, rounds) for _ in range(_REPEATS))


def _seconds(run: Callable[[int], int], rounds: int) -> float:
    start = time.perf_counter()
    run(rounds)
    return time.perf_counter() - start
