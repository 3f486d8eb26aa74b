"""`mma` on one-bit matrices against dense products, by the ISA's formulas of the fragments."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, kernel, program
from tests.ptx.program import launch

type Words = np.ndarray[Any, Any]

SHAPES = {
    "m8n8k128": (8, 128, 1, 1, 2),
    "m16n8k128": (16, 128, 2, 1, 4),
    "m16n8k256": (16, 256, 4, 2, 4),
}
PRODUCTS = {"xor": np.not_equal, "and": np.logical_and}
CASES = [(shape, product) for shape in SHAPES for product in PRODUCTS]


def text(shape: str, product: str, guard: str = "") -> str:
    """Thread t of the grid reads its registers from rows t of A, B and C, and writes D."""
    _, _, of_a, of_b, of_c = SHAPES[shape]
    lines = [
        ".reg .b32 tid, cta, n; .reg .b64 base, at; .reg .pred p;",
        ".reg .b32 a<4>, b<2>, c<4>, d<4>;",
        "mov.u32 tid, %tid.x; mov.u32 cta, %ctaid.x; mov.u32 n, %ntid.x;",
        "mad.lo.u32 tid, cta, n, tid; setp.ge.u32 p, tid, 16;",
    ]
    for number, (name, count) in enumerate((("a", of_a), ("b", of_b), ("c", of_c)), 1):
        lines += [f"ld.param.u64 base, [p{number}]; mad.wide.u32 at, tid, {4 * count}, base;"]
        lines += [f"ld.global.b32 {name}{i}, [at + {4 * i}];" for i in range(count)]
    a, b, c, d = (
        "{" + ", ".join(f"{name}{i}" for i in range(count)) + "}"
        for name, count in (("a", of_a), ("b", of_b), ("c", of_c), ("d", of_c))
    )
    lines += [
        f"{guard} mma.sync.aligned.{shape}.row.col.s32.b1.b1.s32.{product}.popc {d}, {a}, {b}, {c};"
    ]
    lines += [f"ld.param.u64 base, [p0]; mad.wide.u32 at, tid, {4 * of_c}, base;"]
    lines += [f"st.global.b32 [at + {4 * i}], d{i};" for i in range(of_c)]
    return kernel("\n".join([*lines, "ret;"]), ["u64"] * 4, target="sm_80")


def test_the_texts_are_ptx() -> None:
    assemble(text(shape, product) for shape, product in CASES)


def a_bits(words: Words, rows: int, depth: int) -> Words:
    """Fragment `[32, registers]` to the matrix `[rows, depth]`: element i of a lane's is bit i."""
    matrix = np.zeros((rows, depth), bool)
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(32 * words.shape[1]):
            if rows == 8 or depth == 128:
                row = group + 8 * (i // 32)
                column = member * 32 + (i & 31)
            else:
                row = group if i < 32 or 64 <= i < 96 else group + 8
                column = member * 32 + (i & 31) + (128 if i >= 64 else 0)
            matrix[row, column] = words[lane, i // 32] >> (i & 31) & 1
    return matrix


def b_bits(words: Words, depth: int) -> Words:
    matrix = np.zeros((depth, 8), bool)
    for lane in range(32):
        group, member = lane >> 2, lane % 4
        for i in range(32 * words.shape[1]):
            row = member * 32 + (i & 31) + (128 if i >= 32 else 0)
            matrix[row, group] = words[lane, i // 32] >> (i & 31) & 1
    return matrix


def c_place(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (8 if i >= 2 else 0), (lane % 4) * 2 + (i & 1)


@pytest.mark.parametrize(("shape", "product"), CASES)
def test_is_the_dense_product(shape: str, product: str) -> None:
    rows, depth, of_a, of_b, of_c = SHAPES[shape]
    rng = np.random.default_rng(0)
    warps = 6
    a, b, c = (
        rng.integers(0, 2**32, (warps, 32, count), np.uint32) for count in (of_a, of_b, of_c)
    )
    a[0], b[0] = 2**32 - 1, 0  # every product of xor is 1: the largest count
    a[1], b[1] = 2**32 - 1, 2**32 - 1
    d = np.zeros_like(c)
    launch(program(text(shape, product)), (3,), [d, a, b, c], threads=64)
    for warp in range(warps):
        left, right = a_bits(a[warp], rows, depth), b_bits(b[warp], depth)
        counts = PRODUCTS[product](left[:, :, None], right[None]).sum(1).astype(np.uint32)
        for lane in range(32):
            for i in range(of_c):
                assert d[warp, lane, i] == np.add(c[warp, lane, i], counts[c_place(lane, i)])


def test_demands_the_whole_warp() -> None:
    arrays = [np.zeros((32, count), np.uint32) for count in (4, 4, 2, 4)]
    with pytest.raises(PtxError, match=r"only some threads of a warp.*; line \d+: @p mma"):
        launch(program(text("m16n8k256", "xor", "@p")), (1,), arrays, threads=32)
