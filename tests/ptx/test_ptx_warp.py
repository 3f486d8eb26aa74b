"""Instructions of a warp together, against the ISA's own pseudocode, lane by lane."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, elementwise, kernel, program
from tests.ptx.program import launch

type Words = np.ndarray[Any, Any]

_THREADS = 96
FULL = "0xFFFFFFFF"


def execute(instruction: str, result: str, columns: list[Words]) -> list[list[int]]:
    """The results, warp by warp; warps read different columns."""
    text = elementwise(instruction, result, ["b32"] * len(columns))
    assemble([text])
    out = np.zeros(_THREADS, np.uint32)
    launch(program(text), (1,), [out, *columns], threads=_THREADS)
    return out.reshape(-1, 32).tolist()


def warps(column: Words) -> list[list[int]]:
    return column.reshape(-1, 32).tolist()


def shuffle(mode: str, a: list[int], b: list[int], c: list[int]) -> list[tuple[int, bool]]:
    """The ISA's pseudocode of shfl.sync."""
    results = []
    for lane in range(32):
        bval, cval, segmask = b[lane] & 31, c[lane] & 31, c[lane] >> 8 & 31
        max_lane = (lane & segmask) | (cval & ~segmask)
        min_lane = lane & segmask
        if mode == "up":
            j = lane - bval
            inside = j >= max_lane
        elif mode == "down":
            j = lane + bval
            inside = j <= max_lane
        elif mode == "bfly":
            j = lane ^ bval
            inside = j <= max_lane
        else:
            j = min_lane | (bval & ~segmask)
            inside = j <= max_lane
        results.append((a[j if inside else lane], inside))
    return results


@pytest.mark.parametrize("mode", ["idx", "up", "down", "bfly"])
@pytest.mark.parametrize("given", ["by lanes", "in common"])
def test_shuffles(mode: str, given: str) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2**32, _THREADS, np.uint32)
    for _ in range(6):
        clamp = 0 if mode == "up" else 31
        c = rng.choice(np.array([clamp, 0x1C00 | clamp, 0x1000 | clamp, 5], np.uint32), _THREADS)
        b = rng.integers(0, 40, _THREADS, np.uint32)
        if given == "in common":
            b[:], c[:] = b[0], c[0]
            operands = f"{b[0]}, {c[0]}"
            columns = [a]
        else:
            operands, columns = "b, c", [a, b, c]
        value = execute(f"shfl.sync.{mode}.b32 d|p, a, {operands}, -1;", "b32", columns)
        inside = execute(f"shfl.sync.{mode}.b32 a|p, a, {operands}, -1;", "pred", columns)
        for warp, parts in enumerate(zip(warps(a), warps(b), warps(c), strict=True)):
            expected = shuffle(mode, *parts)
            assert list(zip(value[warp], map(bool, inside[warp]), strict=True)) == expected


REDUCTIONS = {
    "add.u32": lambda values: sum(values) & 2**32 - 1,
    "min.u32": min,
    "max.u32": max,
    "and.b32": lambda values: int(np.bitwise_and.reduce(np.array(values))),
    "or.b32": lambda values: int(np.bitwise_or.reduce(np.array(values))),
    "xor.b32": lambda values: int(np.bitwise_xor.reduce(np.array(values))),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("halves", [False, True])
def test_reductions(name: str, halves: bool) -> None:
    a = np.random.default_rng(0).integers(0, 2**32, _THREADS, np.uint32)
    a[:32] |= 0x80000001
    lanes = np.arange(_THREADS) % 32
    # Lanes 0 to 9 form a group, the others one too.
    members = np.where(lanes < 10, 0x3FF, 0xFFFFFC00) if halves else np.full(_THREADS, 2**32 - 1)
    out = execute(f"redux.sync.{name} d, a, b;", "b32", [a, members.astype(np.uint32)])
    for warp, values in enumerate(warps(a)):
        if halves:
            expected = [REDUCTIONS[name](values[:10])] * 10 + [REDUCTIONS[name](values[10:])] * 22
        else:
            expected = [REDUCTIONS[name](values)] * 32
        assert out[warp] == expected


def test_signed_reductions() -> None:
    a = np.random.default_rng(0).integers(-(2**31), 2**31, _THREADS).astype(np.int32)
    for name, function in (("min", np.min), ("max", np.max), ("add", np.sum)):
        out = execute(f"redux.sync.{name}.s32 d, a, {FULL};", "b32", [a.view(np.uint32)])
        for warp, values in enumerate(warps(a)):
            assert out[warp] == [int(function(values)) & 2**32 - 1] * 32


def test_votes() -> None:
    a = np.random.default_rng(0).integers(0, 2, _THREADS, np.uint32)
    a[32:64], a[64:] = 1, 0
    to_predicate = "setp.ne.b32 q, a, 0;"
    ballot = execute(f"{to_predicate} vote.sync.ballot.b32 d, q, {FULL};", "b32", [a])
    every = execute(f"{to_predicate} vote.sync.all.pred p, q, {FULL};", "pred", [a])
    some = execute(f"{to_predicate} vote.sync.any.pred p, q, {FULL};", "pred", [a])
    same = execute(f"{to_predicate} vote.sync.uni.pred p, q, {FULL};", "pred", [a])
    nobody = execute(f"{to_predicate} vote.sync.any.pred p, !q, {FULL};", "pred", [a])
    for warp, values in enumerate(warps(a)):
        assert ballot[warp] == [sum(bit << lane for lane, bit in enumerate(values))] * 32
        assert every[warp] == [all(values)] * 32
        assert some[warp] == [any(values)] * 32
        assert same[warp] == [len(set(values)) == 1] * 32
        assert nobody[warp] == [not all(values)] * 32


def test_matches() -> None:
    a = np.random.default_rng(0).integers(0, 5, _THREADS, np.uint32)
    a[:32] = 3
    equal = execute(f"match.any.sync.b32 d, a, {FULL};", "b32", [a])
    whole = execute(f"match.all.sync.b32 d|p, a, {FULL};", "b32", [a])
    agreed = execute(f"match.all.sync.b32 a|p, a, {FULL};", "pred", [a])
    for warp, values in enumerate(warps(a)):
        masks = [sum((each == own) << lane for lane, each in enumerate(values)) for own in values]
        assert equal[warp] == masks
        assert whole[warp] == [2**32 - 1 if warp == 0 else 0] * 32
        assert agreed[warp] == [warp == 0] * 32


def test_lanes_that_are_here() -> None:
    lanes = np.arange(_THREADS, dtype=np.uint32)
    out = execute(
        "setp.lt.u32 p, a, 40; mov.b32 d, 0; @p activemask.b32 d;",
        "b32",
        [lanes],
    )
    assert out == [[2**32 - 1] * 32, [255] * 8 + [0] * 24, [0] * 32]
    out = execute("elect.sync d|p, 0xFFFFFFFF;", "pred", [lanes])
    assert out == [[1] + [0] * 31] * 3


def test_half_warps_shuffle_apart() -> None:
    """The halves of a warp come one after the other to two shuffles of their own."""
    lanes = np.arange(_THREADS, dtype=np.uint32)
    out = execute(
        """and.b32 b, a, 16; setp.ne.u32 p, b, 0; @p bra HIGH;
        shfl.sync.bfly.b32 d, a, 1, 31, 0xFFFF; bra JOIN;
        HIGH: shfl.sync.bfly.b32 d, a, 2, 31, 0xFFFF0000; JOIN:""",
        "b32",
        [lanes, lanes],
    )
    assert out == warps(np.where(lanes & 16, lanes ^ 2, lanes ^ 1))


WRONG = {
    "only some lanes come": (
        "setp.lt.u32 p, a, 16; @p shfl.sync.bfly.b32 d, a, 1, 31, -1;",
        "lanes of the membermask are not at this instruction",
    ),
    "a lane that is not named": (
        "shfl.sync.bfly.b32 d, a, 1, 31, 0xFFFF;",
        "a lane that is not in the membermask",
    ),
    "masks that differ": (
        "setp.lt.u32 p, a, 3; selp.b32 b, 0xFFFFFFFF, 0xFFFFFFFE, p; redux.sync.add.u32 d, a, b;",
        "different membermasks",
    ),
    "masks that differ in half a warp": (
        "setp.lt.u32 p, a, 3; selp.b32 b, 0x0000FFFF, 0x0000FFFE, p; setp.lt.u32 p, a, 16;"
        " @p redux.sync.add.u32 d, a, b;",
        "different membermasks",
    ),
    "a lane that has gone": (
        "setp.lt.u32 p, a, 16; @p shfl.sync.idx.b32 d, a, 20, 31, 0xFFFF;",
        "reads a lane that is not at this instruction",
    ),
    "a barrier of lanes that do not come": (
        "setp.lt.u32 p, a, 3; @p bar.warp.sync -1;",
        "not at this instruction",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_found(mistake: str) -> None:
    instruction, message = WRONG[mistake]
    lanes = np.arange(_THREADS, dtype=np.uint32) % 32
    with pytest.raises(PtxError, match=message):
        execute("mov.b32 d, 0; " + instruction, "b32", [lanes, lanes])


MATRICES = """
.reg .b32 tid, row, at32, w<4>; .reg .b64 base, at; .reg .pred p;
mov.u32 tid, %tid.x; ld.param.u64 base, [p1]; mad.wide.u32 at, tid, 16, base;
ld.global.v4.b32 {w0, w1, w2, w3}, [at]; mov.u32 at32, sm; mad.lo.u32 row, tid, 16, at32;
"""
SHARED = ".shared .align 16 .b8 sm[512];"


@pytest.mark.parametrize("transposed", ["", ".trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrices(transposed: str, count: int) -> None:
    registers = "{" + ", ".join(f"w{i}" for i in range(count)) + "}"
    out = "ld.param.u64 base, [p0]; mad.wide.u32 at, tid, 16, base;"
    everything = "mov.b32 w0, 0; mov.b32 w1, 0; mov.b32 w2, 0; mov.b32 w3, 0;"
    form = f"sync.aligned.m8n8.x{count}{transposed}.shared.b16"
    load = kernel(
        f"""{MATRICES} st.shared.v4.b32 [row], {{w0, w1, w2, w3}}; {everything}
        ldmatrix.{form} {registers}, [row]; {out} st.global.v4.b32 [at], {{w0, w1, w2, w3}};
        ret;""",
        ["u64", "u64"],
        shared=SHARED,
    )
    store = kernel(
        f"""{MATRICES} st.shared.v4.b32 [row], {{tid, tid, tid, tid}};
        stmatrix.{form} [row], {registers};
        ld.shared.v4.b32 {{w0, w1, w2, w3}}, [row]; {out}
        st.global.v4.b32 [at], {{w0, w1, w2, w3}}; ret;""",
        ["u64", "u64"],
        shared=SHARED,
    )
    assemble([load, store])
    x = np.random.default_rng(0).integers(0, 2**16, (4, 8, 8), np.uint16)
    # Lane t holds elements 2t and 2t + 1 of the row-major matrix, or of its transpose.
    inside = (x.transpose(0, 2, 1) if transposed else x).reshape(4, 32, 2)
    fragments = np.ascontiguousarray(inside).view(np.uint32)[..., 0].T.copy()
    fragments[:, count:] = 0
    loaded = np.zeros((32, 4), np.uint32)
    launch(program(load), (1,), [loaded, x], threads=32)
    np.testing.assert_array_equal(loaded, fragments)
    stored = np.zeros((4, 8, 8), np.uint16)
    launch(program(store), (1,), [stored, fragments], threads=32)
    np.testing.assert_array_equal(stored[:count], x[:count])
    rows = np.arange(8 * count, 32).repeat(4).astype(np.uint32).view(np.uint16)
    np.testing.assert_array_equal(stored[count:].ravel(), rows)
