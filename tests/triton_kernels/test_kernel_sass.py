"""Every kernel's machine code on every architecture: the instructions it claims, and no spills."""

import itertools
from typing import Any

import pytest

from tests.triton_kernels.compiled import TARGETS, Sass, compiled
from triton_kernels import conv3x3, head, max_pool2x2, pack_bits, stem, up_conv2x2
from triton_kernels.launch import Launch
from triton_kernels.tiles import best_tile

CONV_TYPES = ("uint32", "uint32", "int32", "uint32")

of_every_target = pytest.mark.parametrize("target", TARGETS)


def sass(launch: Launch, types: tuple[str, ...], target: int) -> Sass:
    """Machine code, once it is fit: within its registers, without local memory."""
    kernel = compiled(
        launch.kernel,
        types,
        tuple(launch.sizes.items()),
        tuple(launch.constants.items()),
        tuple(launch.options.items()),
        target,
    )
    code = Sass(kernel)
    assert code.stack == 0
    assert code.registers <= launch.registers
    assert not code.calls_library
    return code


def assert_self_contained(code: Sass) -> None:
    assert not code.opcodes.keys() & {"CALL", "LDL", "STL"}, code.opcodes


def conv(module: Any, planes: int, weight_planes: int, words: int) -> tuple[Launch, int]:
    """A launch, and the words that a thread compares with one word of each plane of weights."""
    shape = (2, 64, 64, planes, words)
    tile = best_tile(shape, weight_planes)
    launch = module.launch(shape, weight_planes=weight_planes, groups=2, tile=tile)
    return launch, tile.rows * tile.columns * 32 // (32 * tile.warps) * tile.chunk * planes


KINDS = list(itertools.product((1, 2), (1, 2, 4)))


@pytest.mark.parametrize(
    ("planes", "weight_planes", "target"),
    [(1, 2, target) for target in TARGETS]
    + [(2, 4, 75)]
    + [(*kind, 90) for kind in KINDS if kind != (1, 2)],
)
def test_the_convolution_kernel_counts_two_words_for_three(
    planes: int, weight_planes: int, target: int
) -> None:
    launch, compared = conv(conv3x3, planes, weight_planes, words=16)
    code = sass(launch, CONV_TYPES, target)
    assert_self_contained(code)
    counted = compared * (3 if weight_planes == 4 else 1)
    assert code.opcodes["POPC"] == 2 * counted
    # Three agreements, their sum and carry; a tenth more for indices and borders.
    assert 5 * compared <= code.opcodes["LOP3"] < 1.1 * (2 * counted + 3 * counted) + 110


@of_every_target
def test_the_transposed_convolution_kernel_counts_every_word(target: int) -> None:
    launch, compared = conv(up_conv2x2, 1, 2, words=16)
    code = sass(launch, CONV_TYPES, target)
    assert_self_contained(code)
    assert code.opcodes["POPC"] == compared
    assert compared <= code.opcodes["LOP3"] < 2 * compared + 60


@of_every_target
def test_the_pool_kernel_takes_logic_alone(target: int) -> None:
    code = sass(max_pool2x2.launch((2, 64, 64, 2, 4)), ("uint32", "uint32"), target)
    assert_self_contained(code)
    # Four words a thread of two planes from four pixels, 16 bytes at a time.
    assert code.opcodes["LDG"] == 8
    assert code.opcodes["STG"] == 2
    assert code.opcodes["LOP3"] >= 4 * 3 * 3


@of_every_target
def test_the_head_kernel_adds_every_weight_once(target: int) -> None:
    launch = head.launch((2, 64, 64, 1, 1), classes=1)
    code = sass(launch, ("uint32", "float32", "float32", "float32"), target)
    assert_self_contained(code)
    assert code.opcodes["FADD"] >= 32
    assert code.opcodes["FSEL"] == 32


@of_every_target
def test_the_stem_kernel_multiplies_and_adds(target: int) -> None:
    launch = stem.launch((2, 64, 64, 3), planes=2, groups=2)
    code = sass(launch, ("uint8", "float32", "int32", "uint32"), target)
    assert_self_contained(code)
    image_channels, pixels_of_thread, channels_of_thread = 3, 8, 4
    products = code.opcodes["FFMA"] + 2 * code.opcodes["FFMA2"]
    assert products >= image_channels * pixels_of_thread * channels_of_thread


@of_every_target
def test_the_packing_kernel_fits(target: int) -> None:
    code = sass(pack_bits.launch((2, 64, 64, 40), planes=2), ("uint8", "uint32"), target)
    assert_self_contained(code)
