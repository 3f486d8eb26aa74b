"""The bit-sliced kernels' machine code: what one turn of an inner loop takes."""

from collections import Counter

import pytest

from tests.triton_kernels.compiled import TARGETS, Sass
from tests.triton_kernels.test_kernel_sass import assert_self_contained, sass
from triton_kernels import (
    bitsliced_conv3x3,
    bitsliced_lists,
    bitsliced_max_pool2x2,
    bitsliced_up_conv2x2,
)
from triton_kernels.bitsliced_tiles import Tile
from triton_kernels.launch import Launch

TYPES = ("uint32", "int32", "int32", "int32", "uint32")
BITS, LISTS = 11, 2


def conv3x3(planes: int, tile: Tile) -> Launch:
    words = 4 * tile.vector
    return bitsliced_conv3x3.launch(
        (2, planes, 64, 64, words),
        width=32 * words, plane_step=4096, entries=576, lists=LISTS, bits=BITS, tile=tile,
    )  # fmt: skip


def up_conv2x2(planes: int, tile: Tile) -> Launch:
    words = 4 * tile.vector
    return bitsliced_up_conv2x2.launch(
        (2, planes, 65, 64, words),
        channels=64, width=32 * words, entries=64, lists=LISTS, bits=BITS, tile=tile,
    )  # fmt: skip


def adding_loops(code: Sass) -> list[Counter[str]]:
    assert_self_contained(code)
    return [loop for loop in code.loops if loop["LDG"]]


def assert_sixteen_planes(loop: Counter[str], vector: int) -> None:
    """Fifteen adders of two operations a word, and ripples that compilers join in pairs."""
    # 16 planes, whose places are loaded four at a time.
    assert loop["LDG"] == 16 + 4
    slices = BITS - 4
    assert 30 + slices <= loop["LOP3"] / vector <= 30 + 2 * slices - 1
    # What adds bits adds hardly anything else: multipliers sum the addresses.
    assert loop["LEA"] + loop["IADD3"] + loop["IADD"] + loop["SHF"] <= 3
    assert loop.total() <= loop["LOP3"] + 20 + 16 + 10 + 4 * vector


@pytest.mark.parametrize("target", TARGETS)
def test_a_turn_of_the_convolution_adds_sixteen_planes(target: int) -> None:
    code = sass(conv3x3(1, Tile(16, 4)), TYPES, target)
    loops = adding_loops(code)
    assert len(loops) == LISTS
    for loop in loops:
        assert_sixteen_planes(loop, vector=4)


@pytest.mark.parametrize(("planes", "vector", "target"), [(2, 2, 90), (1, 1, 75)])
def test_a_thread_may_count_fewer_words(planes: int, vector: int, target: int) -> None:
    loops = adding_loops(sass(conv3x3(planes, Tile(8, vector)), TYPES, target))
    assert len(loops) == LISTS * planes
    for loop in loops:
        assert loop["LDG"] == 16 + 4
        assert loop["LOP3"] <= 41 * vector


@pytest.mark.parametrize("target", TARGETS)
def test_a_turn_of_the_transposed_convolution_adds_sixteen_planes(target: int) -> None:
    code = sass(up_conv2x2(1, Tile(16, 4)), TYPES, target)
    loops = adding_loops(code)
    assert len(loops) == 2 * LISTS
    for loop in loops:
        assert_sixteen_planes(loop, vector=4)


@pytest.mark.parametrize("lists", [2, 6])
def test_counters_of_many_slices_fit(lists: int) -> None:
    launch = bitsliced_conv3x3.launch(
        (1, 1, 64, 128, 4),
        width=128, plane_step=4096, entries=9216, lists=lists, bits=15, tile=Tile(16, 4),
    )  # fmt: skip
    assert launch.constants["VECTOR"] == 2
    assert launch.blocks == 4 * 8
    sass(launch, TYPES, 90)


@pytest.mark.parametrize("target", TARGETS)
def test_the_pool_takes_logic_alone(target: int) -> None:
    code = sass(bitsliced_max_pool2x2.launch((2, 2, 8, 64, 4), width=128), TYPES[:1] * 2, target)
    assert_self_contained(code)
    # A word a thread: of two rows, two words and two planes.
    assert code.opcodes["LDG"] == 2 * 2 * 2
    assert code.opcodes["LOP3"] >= 2 * 2 * 3 + 2 * 8
    assert not code.opcodes.keys() & {"POPC", "LDS", "STS", "BAR"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_lists_are_made_of_sums(target: int) -> None:
    launch = bitsliced_lists.launch((64, 2, 18), channel_step=8, zeros=512)
    code = sass(launch, ("uint32", "int32", "int32"), target)
    assert_self_contained(code)
    # Sums over the lanes of a warp, then over the warps.
    assert {"SHFL", "STS", "LDS", "BAR", "STG"} <= code.opcodes.keys()
