"""The `bitsliced` engine in processes of one thread and two, and with other instructions."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mbu_jax.ops.bitsliced import library
from tests.ops.bitsliced_digest import answers, arguments, digest, head_of, stems
from tests.ops.test_bitsliced import write_pixels
from tests.oracles import convolution, packed_network

ROOT = Path(__file__).parents[2]


def read_pixels(planes: NDArray, width: int) -> NDArray:
    """[B, P, C, H, N] words to [B, H, W, C] codes."""
    bits = np.unpackbits(np.ascontiguousarray(planes).view(np.uint8), axis=-1, bitorder="little")
    weight = 2 ** np.arange(planes.shape[1])
    return np.einsum("bpchw,p->bhwc", bits[..., :width].astype(np.int64), weight)


def oracle_answers() -> Iterator[NDArray]:
    """What `answers` should give, in integers."""
    for layer, levels in stems():
        yield write_pixels(packed_network.stem(np.asarray(levels), layer), layer.activation_bits)
    for pair, layer, width in arguments():
        planes = np.concatenate([np.asarray(part) for part in pair], axis=2)
        codes = packed_network.convolved(read_pixels(planes, width), layer)
        bits = layer.activation_bits
        yield write_pixels(codes, bits)
        head = head_of(layer.out_channels)
        values = packed_network.values(codes, bits)
        yield (values @ np.asarray(head.weight) + np.asarray(head.bias)).astype(np.float32)
        if codes.shape[1] % 2 == codes.shape[2] % 2 == 0:
            yield write_pixels(convolution.max_pool2x2(codes), bits)


@pytest.fixture(scope="module")
def expected() -> str:
    return digest(oracle_answers())


def test_this_process_gives_the_integers() -> None:
    for number, (found, wanted) in enumerate(zip(answers(), oracle_answers(), strict=True)):
        np.testing.assert_array_equal(found, wanted, err_msg=f"answer {number}")


@pytest.mark.parametrize(
    ("instructions", "threads"),
    [(None, 1), (None, 2), ("avx512", 2), ("avx2", 2), ("portable", 2)],
)
def test_other_processes_give_the_integers(
    instructions: str | None, threads: int, expected: str
) -> None:
    widest = ("avx512vnni", "avx512", "avx2", "portable")
    if instructions and widest.index(instructions) <= widest.index(library.instructions()):
        pytest.skip(f"{instructions} is what this process runs, or this processor lacks it")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "NPROC": str(threads)}
    # Two devices would have two threads, whatever is asked for.
    del environment["XLA_FLAGS"]
    if instructions:
        environment["MBU_JAX_INSTRUCTIONS"] = instructions
    run = subprocess.run(
        [sys.executable, "-m", "tests.ops.bitsliced_digest"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [instructions or library.instructions(), expected, str(threads)]
