"""What Triton compiles, executed: small kernels of each kind, on every architecture."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.program import Program, Run, launch
from tests.ptx.triton_ptx import compile_kernel

import triton  # isort: skip
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

type Array = np.ndarray[Any, Any]

CAPABILITIES = (75, 80, 90, 100, 120)
of_every_architecture = pytest.mark.parametrize("capability", CAPABILITIES)
of_two_architectures = pytest.mark.parametrize("capability", [75, 90])


def with_others(first: Any, *others: Any) -> Any:
    """One choice on every architecture, the others on one."""
    pairs = [(capability, first) for capability in CAPABILITIES] + [(90, each) for each in others]
    return pytest.mark.parametrize(("capability", "choice"), pairs)


def execute(
    kernel: Any,
    capability: int,
    grid: tuple[int, ...],
    signature: dict[str, str],
    constants: dict[str, Any],
    args: list[Any],
    **options: int,
) -> Run:
    compiled = compile_kernel(kernel, signature, constants, capability, **options)
    program = Program.parse(compiled.asm["ptx"])
    return launch(program, grid, args, shared_bytes=compiled.metadata.shared)


@triton.jit
def add_kernel(x, y, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    total = tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside, other=0)
    tl.store(out + i, total, mask=inside)


@with_others("i32", "i64", "i8", "fp32")
def test_masked_addition(capability: int, choice: str) -> None:
    size = 1000
    dtype = np.dtype(choice.replace("fp", "f").replace("i", "int").replace("f", "float"))
    rng = np.random.default_rng(0)
    x, y = rng.integers(-100, 100, (2, size)).astype(dtype)
    if choice == "fp32":
        x, y = x / np.float32(7), y / np.float32(11)
    out = np.zeros(size, dtype)
    pointer = f"*{choice}"
    signature = {"x": pointer, "y": pointer, "out": pointer, "size": "i32"}
    execute(add_kernel, capability, (4,), signature, {"BLOCK": 256}, [x, y, out, size])
    np.testing.assert_array_equal(out, x + y)


@triton.jit
def popcount_kernel(x, out, columns, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS,), tl.int32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        word = tl.load(x + row[:, None] * columns + column, mask=(column < columns)[None], other=0)
        total += tl.sum(
            tl.inline_asm_elementwise(
                "popc.b32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
            ),
            axis=1,
        )
    tl.store(out + row, total)


@with_others(4, 1)
def test_reduction_of_popcounts(capability: int, choice: int) -> None:
    words = np.random.default_rng(1).integers(0, 2**32, (48, 150), np.uint32)
    out = np.zeros(48, np.int32)
    execute(
        popcount_kernel,
        capability,
        (3,),
        {"x": "*i32", "out": "*i32", "columns": "i32"},
        {"BLOCK": 64, "ROWS": 16},
        [words, out, 150],
        num_warps=choice,
    )
    np.testing.assert_array_equal(out, np.bitwise_count(words).sum(axis=1))


@triton.jit
def transpose_kernel(x, out, height, width, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (row < height)[:, None] & (column < width)
    tile = tl.load(x + row[:, None] * width + column, mask=inside)
    tl.store(out + column[:, None] * height + row, tl.trans(tile), mask=tl.trans(inside))


@with_others("i32", "i16", "i8")
def test_transpose_through_shared_memory(capability: int, choice: str) -> None:
    x = np.random.default_rng(2).integers(-128, 128, (70, 45)).astype(choice.replace("i", "int"))
    out = np.zeros((45, 70), x.dtype)
    signature = {"x": f"*{choice}", "out": f"*{choice}", "height": "i32", "width": "i32"}
    execute(transpose_kernel, capability, (3, 2), signature, {"BLOCK": 32}, [x, out, 70, 45])
    np.testing.assert_array_equal(out, x.T)


@triton.jit
def window_kernel(x, out, height, width, stride, BLOCK: tl.constexpr):
    """Sums of 3x3 windows with zeros around, a row of the image a program."""
    row = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.int32)
    for down in range(-1, 2):
        if (row + down >= 0) & (row + down < height):
            for right in range(-1, 2):
                inside = (column + right >= 0) & (column + right < width)
                at = x + (row + down) * stride + column + right
                total += tl.load(at, mask=inside, other=0)
    tl.store(out + row * width + column, total, mask=column < width)


@of_every_architecture
def test_loops_over_a_window(capability: int) -> None:
    image = np.random.default_rng(3).integers(-1000, 1000, (5, 83)).astype(np.int32)
    out = np.zeros((5, 80), np.int32)
    execute(
        window_kernel,
        capability,
        (2, 5),
        {"x": "*i32", "out": "*i32", "height": "i32", "width": "i32", "stride": "i32"},
        {"BLOCK": 64},
        [image, out, 5, 80, 83],
    )
    padded = np.pad(image[:, :80], 1)
    expected = sum(padded[i : i + 5, j : j + 80] for i in range(3) for j in range(3))
    np.testing.assert_array_equal(out, expected)


@triton.jit
def histogram_kernel(x, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out + tl.load(x + i, mask=i < size, other=0), 1, mask=i < size)


@of_two_architectures
def test_atomics(capability: int) -> None:
    x = np.random.default_rng(4).integers(0, 7, 300).astype(np.int32)
    out = np.zeros(7, np.int32)
    signature = {"x": "*i32", "out": "*i32", "size": "i32"}
    execute(histogram_kernel, capability, (3,), signature, {"BLOCK": 128}, [x, out, 300])
    np.testing.assert_array_equal(out, np.bincount(x, minlength=7))


@triton.jit
def scan_kernel(x, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(out + i, tl.cumsum(tl.load(x + i), axis=1))


@of_two_architectures
def test_scan(capability: int) -> None:
    x = np.random.default_rng(5).integers(-9, 9, (16, 256)).astype(np.int32)
    out = np.zeros_like(x)
    constants = {"ROWS": 16, "COLUMNS": 256}
    execute(scan_kernel, capability, (1,), {"x": "*i32", "out": "*i32"}, constants, [x, out])
    np.testing.assert_array_equal(out, np.cumsum(x, axis=1))


@triton.jit
def pipelined_kernel(x, out, ROWS: tl.constexpr, STEPS: tl.constexpr):
    """A product whose operands come through shared memory, a few steps ahead (`cp.async`)."""
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)
    total = tl.zeros((ROWS, ROWS), tl.int32)
    for step in tl.range(0, STEPS, num_stages=3):
        a = tl.load(x + (step * ROWS + i) * ROWS + j)
        total += tl.trans(a) * (step + 1)
    tl.store(out + i * ROWS + j, total)


@of_every_architecture
def test_transposes_in_a_loop(capability: int) -> None:
    x = np.random.default_rng(6).integers(-99, 99, (5, 32, 32)).astype(np.int32)
    out = np.zeros((32, 32), np.int32)
    signature, constants = {"x": "*i32", "out": "*i32"}, {"ROWS": 32, "STEPS": 5}
    execute(pipelined_kernel, capability, (1,), signature, constants, [x, out])
    np.testing.assert_array_equal(out, (x * np.arange(1, 6)[:, None, None]).sum(0).T)


@gluon.jit
def binary_product_kernel(a, b, out, STEPS: gl.constexpr, M: gl.constexpr, N: gl.constexpr):
    """`out = popcount(a ^ b)` over K, tiles of 16x8 along the first axes and lanes on the last.

    a is `[STEPS, 16 M, 4]` and b `[STEPS, 8 N, 4]` 64-bit words; a lane's are the words 2t, 2t + 1.
    """
    layout: gl.constexpr = gl.BlockedLayout([M, N, 1], [1, 1, 32], [1, 1, 1], [2, 1, 0])  # pyrefly: ignore
    m = gl.arange(0, M, layout=gl.SliceLayout(1, gl.SliceLayout(2, layout)))[:, None, None]  # pyrefly: ignore
    n = gl.arange(0, N, layout=gl.SliceLayout(0, gl.SliceLayout(2, layout)))[None, :, None]  # pyrefly: ignore
    lane = gl.arange(0, 32, layout=gl.SliceLayout(0, gl.SliceLayout(1, layout)))[None, None, :]  # pyrefly: ignore
    group, member = lane // 4, lane % 4
    c0 = gl.zeros([M, N, 32], gl.int32, layout=layout)
    c1 = c0
    c2 = c0
    c3 = c0
    for step in range(STEPS):
        upper = gl.load(a + (step * 16 * M + m * 16 + group) * 4 + member)
        lower = gl.load(a + (step * 16 * M + m * 16 + 8 + group) * 4 + member)
        right = gl.load(b + (step * 8 * N + n * 8 + group) * 4 + member)
        c0, c1, c2, c3 = gl.inline_asm_elementwise(
            "{ .reg .b32 a0, a1, a2, a3, b0, b1;"
            " mov.b64 {a0, a2}, $4; mov.b64 {a1, a3}, $5; mov.b64 {b0, b1}, $6;"
            " mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.xor.popc"
            " {$0, $1, $2, $3}, {a0, a1, a2, a3}, {b0, b1}, {$0, $1, $2, $3}; }",
            "=r,=r,=r,=r,l,l,l,0,1,2,3",
            [upper, lower, right, c0, c1, c2, c3],
            dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
            is_pure=True,
            pack=1,
        )
    at = out + (m * 16 + group) * (8 * N) + n * 8 + member * 2
    gl.store(at, c0)
    gl.store(at + 1, c1)
    gl.store(at + 8 * (8 * N), c2)
    gl.store(at + 8 * (8 * N) + 1, c3)


@pytest.mark.parametrize("capability", CAPABILITIES[1:])
def test_gluon_with_inline_mma(capability: int) -> None:
    rng = np.random.default_rng(7)
    steps, m, n = 3, 2, 2
    a = rng.integers(0, 2**64, (steps, 16 * m, 4), np.uint64)
    b = rng.integers(0, 2**64, (steps, 8 * n, 4), np.uint64)
    out = np.zeros((16 * m, 8 * n), np.int32)
    execute(
        binary_product_kernel,
        capability,
        (1,),
        {"a": "*i64", "b": "*i64", "out": "*i32"},
        {"STEPS": steps, "M": m, "N": n},
        [a, b, out],
        num_warps=1,
    )
    expected = np.bitwise_count(a[:, :, None] ^ b[:, None]).sum(axis=(0, 3))
    np.testing.assert_array_equal(out, expected)


def warpgroup_product(words: int) -> str:
    """Inline PTX of `$0… = popcount($32 & $33)`, 64x64, with operands in shared memory.

    A row of an operand has `words` words, which fill a row of the swizzle's pattern.
    """
    mode = {32: 1, 16: 2, 8: 3}[words] << 62
    stride = 8 * 4 * words >> 4 << 32
    lines = ["{ .reg .b64 a, b; .reg .b32 at;", "wgmma.fence.sync.aligned;"]
    accumulators = ", ".join(f"${i}" for i in range(32))
    for step in range(words // 8):
        for name, origin in (("a", "$32"), ("b", "$33")):
            lines += [
                f"add.u32 at, {origin}, {32 * step}; shr.u32 at, at, 4;",
                f"cvt.u64.u32 {name}, at; or.b64 {name}, {name}, {mode | stride};",
            ]
        lines += [
            "wgmma.mma_async.sync.aligned.m64n64k256.s32.b1.b1.and.popc",
            f"{{{accumulators}}}, a, b, {min(step, 1)};",
        ]
    lines += ["wgmma.commit_group.sync.aligned;", "wgmma.wait_group.sync.aligned 0; }"]
    return "\n".join(lines)


@gluon.jit
def warpgroup_kernel(a, b, out, WORDS: gl.constexpr, ASYNC: gl.constexpr, PTX: gl.constexpr):
    tile: gl.constexpr = gl.BlockedLayout([1, 4], [8, 4], [4, 1], [1, 0])  # pyrefly: ignore
    shared: gl.constexpr = gl.NVMMASharedLayout(4 * WORDS, 32, rank=2)  # pyrefly: ignore
    sums: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 64, 8])  # pyrefly: ignore
    row = gl.arange(0, 64, layout=gl.SliceLayout(1, tile))[:, None]  # pyrefly: ignore
    word = gl.arange(0, WORDS, layout=gl.SliceLayout(0, tile))[None, :]  # pyrefly: ignore
    of_a = gl.allocate_shared_memory(gl.uint32, [64, WORDS], shared)
    of_b = gl.allocate_shared_memory(gl.uint32, [64, WORDS], shared)
    if ASYNC:
        async_copy.async_load(of_a, a + row * WORDS + word)
        async_copy.async_load(of_b, b + row * WORDS + word)
        async_copy.commit_group()
        async_copy.wait_group(0)
    else:
        of_a.store(gl.load(a + row * WORDS + word))
        of_b.store(gl.load(b + row * WORDS + word))
    fence_async_shared()
    gl.barrier()
    zeros = gl.zeros([64, 64], gl.int32, layout=sums)
    total = gl.inline_asm(PTX, ("=r", "r", "r"), [of_a, of_b], zeros.type, is_pure=False)
    row = gl.arange(0, 64, layout=gl.SliceLayout(1, sums))[:, None]  # pyrefly: ignore
    column = gl.arange(0, 64, layout=gl.SliceLayout(0, sums))[None, :]  # pyrefly: ignore
    gl.store(out + row * 64 + column, total)


@pytest.mark.parametrize(("words", "asynchronous"), [(8, 0), (16, 0), (16, 1), (32, 0)])
def test_gluon_with_inline_wgmma(words: int, asynchronous: int) -> None:
    """Triton's idea of the swizzles and of the accumulators' layout is the executor's."""
    a, b = np.random.default_rng(8).integers(0, 2**32, (2, 64, words), np.uint32)
    out = np.zeros((64, 64), np.int32)
    execute(
        warpgroup_kernel,
        90,
        (1,),
        {"a": "*u32", "b": "*u32", "out": "*i32"},
        {"WORDS": words, "ASYNC": asynchronous, "PTX": warpgroup_product(words)},
        [a, b, out],
    )
    np.testing.assert_array_equal(out, np.bitwise_count(a[:, None] & b).sum(axis=-1))
