"""Divergence, loops, barriers and guards, in programs whose results are easily foreseen."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, kernel, program
from tests.ptx.program import Program, launch

type Words = np.ndarray[Any, Any]

START = """
.reg .b32 tid, cta, n, i, d, e; .reg .b64 base, at; .reg .pred p, q;
mov.u32 tid, %tid.x; mov.u32 cta, %ctaid.x; mov.u32 n, %ntid.x; mad.lo.u32 i, cta, n, tid;
ld.param.u64 base, [p0]; mad.wide.u32 at, i, 4, base; mov.b32 d, 0;
"""
STORE = "st.global.b32 [at], d; ret;"
SHARED = ".shared .align 16 .b8 sm[1024];"

TEXTS = {
    # Collatz: every thread of every CTA loops as often as it likes.
    "loop": START
    + """
mov.b32 e, i; add.u32 e, e, 1;
LOOP: setp.eq.u32 p, e, 1; @p bra DONE;
and.b32 n, e, 1; setp.ne.u32 q, n, 0; @q bra ODD;
shr.u32 e, e, 1; bra.uni NEXT;
ODD: mad.lo.u32 e, e, 3, 1;
NEXT: add.u32 d, d, 1; bra LOOP;
DONE: """
    + STORE,
    # Branches in branches, with an early end.
    "branches": START
    + """
and.b32 e, tid, 3; setp.eq.u32 p, e, 0; @p bra ZERO; setp.eq.u32 q, e, 1; @q bra ONE;
setp.eq.u32 q, e, 2; @q ret; mov.b32 d, 33; bra JOIN;
ZERO: mov.b32 d, 10; setp.gt.u32 q, cta, 0; @!q bra JOIN; add.u32 d, d, 100; bra JOIN;
ONE: mov.b32 d, 21;
JOIN: add.u32 d, d, 1; """
    + STORE,
    # Guards on instructions that are no branches.
    "guards": START
    + """
setp.lt.u32 p, tid, 5; @p mov.b32 d, 7; @!p add.u32 d, d, tid; @p st.global.b32 [at], d;
@p bra END; mov.b32 e, d; @!p st.global.b32 [at], e;
END: ret;""",
    # Every thread reads what its neighbour wrote, in a loop with two barriers.
    "barriers": START
    + """
.reg .b32 own, other, k; mov.b32 own, sm; mad.lo.u32 other, tid, 4, own;
add.u32 e, tid, 1; rem.u32 e, e, n; mad.lo.u32 own, e, 4, own; mov.b32 d, i; mov.b32 k, 0;
LOOP: st.shared.b32 [other], d; bar.sync 0; ld.shared.b32 d, [own]; barrier.sync 0;
add.u32 k, k, 1; setp.lt.u32 p, k, 3; @p bra LOOP; """
    + STORE,
    # Half of the threads of a CTA meet at a barrier of their own.
    "named barrier": START
    + """
.reg .b32 own; mov.b32 own, sm; mad.lo.u32 own, tid, 4, own; mov.b32 d, tid;
setp.ge.u32 p, tid, 64; @p bra REST; st.shared.b32 [own], d; bar.sync 1, 64;
xor.b32 e, tid, 32; mov.b32 own, sm; mad.lo.u32 own, e, 4, own; ld.shared.b32 d, [own];
REST: """
    + STORE,
    # Registers and labels of braces are their own, twice.
    "braces": START
    + """
{ .reg .b32 d0; mov.b32 d0, 5; SKIP: add.u32 d, d, d0; setp.lt.u32 p, d, 15; @p bra SKIP; }
{ .reg .b64 d0; mov.b64 d0, 2; bra SKIP; add.u32 d, d, 900; SKIP: cvt.u32.u64 e, d0; }
add.u32 d, d, e; """
    + STORE,
}


def execute(name: str, ctas: int, threads: int, **options: int) -> Words:
    out = np.zeros((ctas, threads), np.uint32)
    ptx = kernel(TEXTS[name], shared=SHARED)
    launch(program(ptx), (ctas,), [out], threads=threads, **options)
    return out


def test_the_texts_are_ptx() -> None:
    assemble(kernel(text, shared=SHARED) for text in TEXTS.values())


@pytest.mark.parametrize("together", [64, 256, 1 << 15])
def test_threads_loop_as_often_as_they_like(together: int) -> None:
    def collatz(n: int) -> int:
        steps = 0
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            steps += 1
        return steps

    out = execute("loop", 5, 64, batch_threads=together)
    assert out.ravel().tolist() == [collatz(i + 1) for i in range(5 * 64)]


def test_branches_meet_again_and_threads_end_early() -> None:
    out = execute("branches", 2, 64)
    thread, cta = np.arange(64) % 4, np.arange(2)[:, None]
    expected = np.select([thread == 0, thread == 1, thread == 3], [11 + 100 * cta, 22, 34])
    np.testing.assert_array_equal(out, expected)


def test_guards() -> None:
    out = execute("guards", 2, 32)
    np.testing.assert_array_equal(
        out, np.tile(np.where(np.arange(32) < 5, 7, np.arange(32)), (2, 1))
    )


def test_barriers_in_a_loop() -> None:
    out = execute("barriers", 3, 128)
    expected = [(np.arange(128) + 3) % 128 + 128 * cta for cta in range(3)]
    np.testing.assert_array_equal(out, expected)


def test_a_barrier_of_some_threads() -> None:
    out = execute("named barrier", 2, 128)
    thread = np.arange(128)
    np.testing.assert_array_equal(out[1], np.where(thread < 64, thread ^ 32, thread))


def test_names_in_braces() -> None:
    assert (execute("braces", 1, 32) == 17).all()


@pytest.mark.parametrize("missing", ["bar.sync 0;", "barrier.sync 0;"])
def test_a_missing_barrier_is_a_race(missing: str) -> None:
    assert missing in TEXTS["barriers"]
    ptx = kernel(TEXTS["barriers"].replace(missing, ""), shared=SHARED)
    with pytest.raises(
        PtxError, match=r"without a barrier between them; line \d+: (ld|st)\.shared"
    ):
        launch(program(ptx), (1,), [np.zeros(128, np.uint32)], threads=128)


def test_one_warp_needs_no_barrier() -> None:
    ptx = kernel(TEXTS["barriers"].replace("bar.sync 0;", ""), shared=SHARED)
    out = np.zeros(32, np.uint32)
    launch(program(ptx), (1,), [out], threads=32)
    np.testing.assert_array_equal(out, (np.arange(32) + 3) % 32)


MISTAKES = {
    "one warp does not come to the barrier": (
        "setp.lt.u32 p, tid, 32; @p bra END; bar.sync 0; END: " + STORE,
        "32 threads of CTA 0 wait at barrier 0",
    ),
    "half a warp is at an aligned barrier": (
        "setp.lt.u32 p, tid, 16; @p bra END; bar.sync 0; END: " + STORE,
        r"only some threads of a warp .*; line \d+: bar.sync 0",
    ),
    "too many threads for the barrier": (
        "bar.sync 1, 32; " + STORE,
        "more threads than 32 at barrier 1",
    ),
    "the end is missing": ("add.u32 d, d, 1;", "past the kernel's end"),
    "a register is never written": ("add.u32 d, e, 1; " + STORE, "reads e, which nothing has"),
    "a trap": ("setp.gt.u32 p, tid, 3; @p trap; " + STORE, "trap; line"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str) -> None:
    body, message = MISTAKES[mistake]
    out = np.full(64, 9, np.uint32)
    with pytest.raises(PtxError, match=message):
        launch(program(kernel(START + body)), (1,), [out], threads=64)
    assert (out == 9).all()


UNKNOWN = {
    "add.sat.s32 d, d, d;": r"line \d+: unknown modifier \.sat: add\.sat",
    "frobnicate.b32 d, e;": r"line \d+: unknown opcode frobnicate",
    "add.u32 d, e;": "expected 3 operands",
    "add.u32 d, d, nothing;": "unknown name nothing",
    "add.u64 d, d, d;": r"a \.b32 register for a \.u64",
    "bra NOWHERE;": "an unknown label",
    "mov.u32 d, %clock;": "unknown name %clock",
    "ld.global.b32 d, [at], e, e;": "expected 2 operands",
    "ld.const.b32 d, [at];": "expected one of",
    "ld.param.u32 d, [p7];": "unknown parameter p7",
    "add.f16 d, d, d;": "unsupported type f16",
    "mad.lo.u32 d, d, d, 1.5;": "decimal fraction",
    ".local .b8 x[16];": r"line \d+: unknown directive",
    "call f;": "unknown opcode call",
}


@pytest.mark.parametrize("instruction", UNKNOWN)
def test_what_is_not_known_is_an_error(instruction: str) -> None:
    with pytest.raises(PtxError, match=UNKNOWN[instruction]):
        Program.parse(kernel(START + instruction + STORE))


def test_a_loop_without_end_is_found() -> None:
    text = kernel(START + "LOOP: add.u32 d, d, 1; bra LOOP;")
    with pytest.raises(PtxError, match="no end after 1000 instructions"):
        launch(program(text), (1,), [np.zeros(32)], threads=32, instruction_limit=1000)


def test_special_registers() -> None:
    lines = [".reg .b32 v, k, i, n, c; .reg .b64 at; .reg .pred p;"]
    names = [f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"]
    names += [
        "%laneid",
        "%warpid",
        *(f"%lanemask_{which}" for which in ("eq", "lt", "le", "gt", "ge")),
    ]
    # The thread's place in the grid, x fastest.
    for axis in "zyx":
        lines += [f"mov.u32 n, %nctaid.{axis}; mov.u32 k, %ctaid.{axis};"]
        lines += ["mov.u32 c, k;" if axis == "z" else "mad.lo.u32 c, c, n, k;"]
    for axis in "zyx":
        lines += [f"mov.u32 n, %ntid.{axis}; mov.u32 k, %tid.{axis};"]
        lines += ["mad.lo.u32 i, c, n, k;" if axis == "z" else "mad.lo.u32 i, i, n, k;"]
    lines += [f"ld.param.u64 at, [p0]; mad.wide.u32 at, i, {4 * len(names)}, at;"]
    for place, name in enumerate(names):
        lines += [f"mov.u32 v, {name}; st.global.u32 [at + {4 * place}], v;"]
    text = kernel("\n".join([*lines, "ret;"]))
    assemble([text])
    grid, shape = (3, 2, 2), (8, 4, 2)
    out = np.zeros((12, 64, len(names)), np.uint32)
    launch(program(text), grid, [out], threads=shape)
    for cta in range(12):
        for thread in range(64):
            lane = thread % 32
            assert out[cta, thread].tolist() == [
                *(thread % 8, thread // 8 % 4, thread // 32),
                *shape,
                *(cta % 3, cta // 3 % 2, cta // 6),
                *grid,
                lane,
                thread // 32,
                1 << lane,
                (1 << lane) - 1,
                (2 << lane) - 1,
                2**32 - (2 << lane),
                2**32 - (1 << lane),
            ]
