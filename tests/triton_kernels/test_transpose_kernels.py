"""The kernels between the two layouts, run as compiled PTX, and their machine code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mbu_jax.errors import InputError
from mbu_jax.ops.gpu import bitsliced
from mbu_jax.ops.transpose_bits.kernel import to_channels_kernel, to_pixels_kernel
from mbu_jax.packing import PackedHead, PackedStem
from tests.oracles import packed_network
from tests.triton_kernels.compiled import TARGETS, Sass
from tests.triton_kernels.simulated import gpu
from tests.triton_kernels.test_kernel_sass import assert_self_contained, sass
from triton_kernels import transpose_bits

RNG = np.random.default_rng(0)


def planes_of(codes: np.ndarray, bits: int) -> np.ndarray:
    """[B, P, C, H, N]: what `write_codes` does with channels, done with the pixels of a row."""
    rows = packed_network.write_codes(codes.transpose(0, 3, 1, 2), bits)
    return rows.transpose(0, 3, 1, 2, 4)


@pytest.mark.parametrize(
    ("size", "channels", "bits", "target"),
    [
        ((1, 1, 1), 1, 1, 75),
        ((2, 3, 33), 100, 2, 80),
        ((2, 17, 70), 40, 1, 86),
        ((1, 2, 16), 32, 1, 89),
        ((1, 5, 64), 290, 1, 90),
        ((3, 2, 31), 7, 2, 100),
        ((1, 4, 130), 64, 1, 120),
    ],
)
def test_the_kernels_turn_every_bit(
    size: tuple[int, ...], channels: int, bits: int, target: int
) -> None:
    codes = RNG.integers(0, 2**bits, (*size, channels)).astype(np.uint8)
    words, planes = packed_network.write_codes(codes, bits), planes_of(codes, bits)
    with gpu(target) as called:
        found = to_pixels_kernel(jnp.asarray(words), channels=channels)
        back = to_channels_kernel(jnp.asarray(planes), width=size[2])
    np.testing.assert_array_equal(found, planes)
    np.testing.assert_array_equal(back, words)
    kernels = {kernel.function: kernel for kernel in called}
    assert len(kernels) == 2
    for kernel in kernels.values():
        code = Sass(kernel.compiled(target))
        assert code.stack == 0
        assert code.registers <= 128


@pytest.mark.parametrize("target", TARGETS)
def test_a_thread_exchanges_its_words_in_registers(target: int) -> None:
    to_pixels = transpose_bits.launch_to_pixels((2, 64, 64, 1, 2), channels=64)
    to_channels = transpose_bits.launch_to_channels((2, 1, 64, 64, 2), width=64)
    for launch, scattered in ((to_pixels, "STG"), (to_channels, "LDG")):
        code = sass(launch, ("uint32", "uint32"), target)
        assert_self_contained(code)
        assert "SHFL" not in code.opcodes
        # Each word is put together from two in five steps.
        assert code.opcodes["LOP3"] >= 5 * 32
        assert code.opcodes[scattered] == 32


@pytest.mark.parametrize(
    ("shape", "run"),
    [
        ((1, 2**15, 2**15, 1, 2), lambda x: to_pixels_kernel(x, channels=64)),
        ((1, 1, 2**11, 2**15, 32), lambda x: to_channels_kernel(x, width=1024)),
    ],
)
def test_images_beyond_the_kernels_offsets_are_refused(shape: Any, run: Any) -> None:
    with pytest.raises(InputError, match=r"2147483648 words is too large.*smaller tiles"):
        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.uint32))


def test_the_bitsliced_engine_turns_the_stems_words_and_the_heads_planes() -> None:
    levels = RNG.integers(0, 256, (2, 3, 37, 3)).astype(np.uint8)
    weight = RNG.integers(-1000, 1000, (3, 3, 3, 40)).astype(np.int16)
    theta = np.sort(RNG.normal(0, 200_000, (3, 40)), axis=0).astype(np.int32)
    stem = PackedStem(jnp.asarray(weight), jnp.asarray(theta)).validate()
    head = PackedHead(
        jnp.asarray(RNG.integers(-999, 999, (40, 2)) / 256, jnp.float32), jnp.ones(2)
    ).validate(bits=2)
    with gpu(86):
        planes = bitsliced.stem(jnp.asarray(levels), stem, bitsliced.arrange_stem(levels, stem))
        arranged = bitsliced.arrange_head(planes, head, width=37)
        logits = bitsliced.head(planes, head, arranged, width=37)
    codes = packed_network.stem(levels, stem)
    np.testing.assert_array_equal(planes, planes_of(codes.astype(np.uint8), 2))
    expected = packed_network.logits(packed_network.values(codes, 2), head)
    np.testing.assert_array_equal(np.asarray(logits, np.float64), expected)
