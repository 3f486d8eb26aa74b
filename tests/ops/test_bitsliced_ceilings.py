"""The ceilings do what they are named for, and the engine stays below them."""

import ctypes
import time

import jax
import numpy as np

from mbu_jax.ops.bitsliced import library, pixels
from mbu_jax.ops.bitsliced.ceilings import measure_ceilings
from mbu_jax.ops.specs import ConvSpec
from mbu_jax.packing import channels_to_pixels


def test_reading_reads_every_vector() -> None:
    assert library.absent() is None
    words = library.load().mbu_vector_bytes() // 4
    memory = np.zeros((8, words), np.uint32)
    memory[:, 0] = 1 << np.arange(8)
    address = memory.ctypes.data_as(ctypes.c_void_p)
    assert library.load().mbu_read_only(address, 8, 3) == 255
    assert library.load().mbu_read_only(address, 4, 1) == 15


def test_adding_adds() -> None:
    mask, plane = 2**32 - 1, 0x12345678
    for rounds in (0, 1, 5):
        expected = 0
        for start in range(6):
            counter, carry = 0, rounds * start & mask
            for _ in range(rounds):
                total = [counter, carry, plane]
                counter = total[0] ^ total[1] ^ total[2]
                carry = total[0] & total[1] | total[0] & total[2] | total[1] & total[2]
            expected ^= counter ^ carry
        assert library.load().mbu_add_only(rounds) == expected


def test_the_engine_is_slower_than_any_ceiling() -> None:
    spec = ConvSpec("", (1, 128, 256), (64,), 64, "masked", density=0.1)
    words, layer = spec.arguments(seed=0)
    planes = channels_to_pixels(words, 64)
    run = jax.jit(lambda x: pixels.CONV((x, x[:, :, :0]), layer, width=256))
    run(planes).block_until_ready()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run(planes).block_until_ready()
        seconds.append(time.perf_counter() - start)
    rate = spec.macs * layer.density / min(seconds)
    ceilings = measure_ceilings()
    threads = 2  # of the pool that tests have
    assert 0 < rate < threads * min(ceilings.adders, ceilings.l1, ceilings.l2)
