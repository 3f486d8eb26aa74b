"""Loads, stores, copies and atomics; and that every wrong access is found."""

from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, elementwise, kernel, program
from tests.ptx.program import launch

type Words = np.ndarray[Any, Any]

START = """
.reg .b32 tid, cta, n, i, d, e, f, g, h, own; .reg .b64 base, at, wide; .reg .pred p, q;
.reg .b16 s;
mov.u32 tid, %tid.x; mov.u32 cta, %ctaid.x; mov.u32 n, %ntid.x; mad.lo.u32 i, cta, n, tid;
ld.param.u64 base, [p0]; mov.u32 own, sm; mad.lo.u32 own, tid, 16, own;
"""
SHARED = ".extern .shared .align 16 .b8 sm[];"


def execute(body: str, *args: Any, ctas: int = 1, threads: int = 64, shared: int = 1024) -> None:
    kinds = ["u64" if isinstance(each, np.ndarray) else "u32" for each in args]
    text = kernel(START + body, kinds, shared=SHARED)
    assemble([text])
    launch(program(text), (ctas,), args, threads=threads, shared_bytes=shared)


@pytest.mark.parametrize("kind", ["b8", "u8", "s8", "b16", "s16", "b32", "f32", "b64", "f64"])
def test_widths(kind: str) -> None:
    """A narrow word is extended by its own kind in a wider register, and cut when stored."""
    bits = int(kind[1:])
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}")
    x = np.random.default_rng(0).integers(0, 256, 64 * bits // 8, np.uint8).view(dtype)
    wide, narrow = np.zeros(64, np.uint64), np.zeros_like(x)
    register = "wide" if bits == 64 else "d"
    extend = "" if bits == 64 else "cvt.u64.u32 wide, d;"
    execute(
        f"""mad.wide.u32 at, tid, {bits // 8}, base; ld.global.{kind} {register}, [at]; {extend}
        ld.param.u64 base, [p1]; mad.wide.u32 at, tid, 8, base; st.global.b64 [at], wide;
        ld.param.u64 base, [p2]; mad.wide.u32 at, tid, {bits // 8}, base;
        st.global.{kind} [at], {register}; ret;""",
        *(x, wide, narrow),
    )
    np.testing.assert_array_equal(narrow, x)
    in_register = x.astype(np.int32).view(np.uint32) if kind[0] == "s" else x
    np.testing.assert_array_equal(wide, in_register)


def test_vectors_and_hints() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, (64, 8), np.uint32)
    out = np.zeros_like(x)
    execute(
        """mad.wide.u32 at, tid, 32, base;
        ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {d, e, f, g}, [at];
        .reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0;
        ld.global.L1::evict_last.L2::cache_hint.v2.b64 {wide, base}, [at + 16], policy;
        mov.b64 {h, n}, wide; ld.param.u64 wide, [p1]; mad.wide.u32 at, tid, 32, wide;
        st.global.v4.b32 [at+16], {h, n, d, e}; st.global.v2.b32 [at], {f, g};
        st.global.cs.b64 [at+8], base; ret;""",
        *(x, out),
    )
    np.testing.assert_array_equal(out, x[:, [2, 3, 6, 7, 4, 5, 0, 1]])


def test_parts_of_registers() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 64, np.uint32)
    out = np.zeros(64, np.uint64)
    execute(
        """mad.wide.u32 at, tid, 4, base; ld.global.b32 d, [at]; .reg .b16 t; mov.b32 {s, t}, d;
        mov.b32 e, {t, s}; mov.b64 wide, {d, e}; .reg .b16 u, v; mov.b64 {u, v, _, _}, wide;
        mov.b64 wide, {v, u, s, t}; ld.param.u64 base, [p1]; mad.wide.u32 at, tid, 8, base;
        st.global.b64 [at], wide; ret;""",
        *(x, out),
    )
    expected = np.stack([x >> 16, x & 65535, x & 65535, x >> 16], axis=1).astype(np.uint16)
    np.testing.assert_array_equal(out, expected.view(np.uint64)[:, 0])


def test_arguments() -> None:
    out = np.zeros((3, 32), np.uint32)
    text = kernel(
        """.reg .b32 a, tid; .reg .b64 at, b; .reg .b32 c; .reg .b16 h; .reg .b64 t;
        mov.u32 tid, %tid.x; ld.param.u64 at, [p0]; mad.wide.u32 at, tid, 4, at;
        ld.param.s32 a, [p1]; st.global.b32 [at], a;
        ld.param.f32 c, [p2]; st.global.b32 [at + 128], c;
        ld.param.u64 b, [p3]; cvt.u32.u64 a, b; ld.param.u8 h, [p4]; cvt.u32.u16 c, h;
        add.u32 a, a, c; st.global.b32 [at + 256], a; ret;""",
        ["u64", "s32", "f32", "u64", "u8"],
    )
    assemble([text])
    launch(program(text), (1,), [out, -5, 1.5, None, 7], threads=32)
    assert (out[0] == 2**32 - 5).all()
    assert (out[1].view(np.float32) == 1.5).all()
    assert (out[2] == 7).all()
    for wrong, message in (
        ([out, 2**32, 1.5, None, 7], "p1 has 32 bits, too few"),
        ([out, out, 1.5, None, 7], "p1 is no pointer"),
        ([out, 1, 1.5, None], "5 parameters, but 4 arguments"),
        ([out.T, 1, 1.5, None, 7], "p0 is not contiguous"),
    ):
        with pytest.raises(PtxError, match=message):
            launch(program(text), (1,), wrong, threads=32)


def test_atomics_serve_one_thread_after_another() -> None:
    total, old = np.zeros(2, np.uint32), np.zeros((2, 64), np.uint32)
    execute(
        """atom.global.gpu.relaxed.add.u32 d, [base], 3; red.global.add.u32 [base + 4], tid;
        ld.param.u64 base, [p1]; mad.wide.u32 at, i, 4, base; st.global.b32 [at], d; ret;""",
        *(total, old),
        ctas=2,
    )
    assert total.tolist() == [3 * 128, 2 * sum(range(64))]
    assert sorted(old.ravel()) == list(range(0, 3 * 128, 3))


def test_other_atomics() -> None:
    cells = np.array([5, 0xFFFF, 0, 7, 2**31, 0], np.uint32)
    execute(
        """atom.global.min.s32 d, [base], -2; red.global.and.b32 [base + 4], 0xF0;
        red.global.or.b32 [base + 8], tid; atom.global.cas.b32 d, [base + 12], 7, 9;
        atom.global.exch.b32 d, [base + 20], tid; red.global.max.u32 [base + 16], tid;
        ret;""",
        cells,
        threads=32,
    )
    assert cells.tolist() == [2**32 - 2, 0xF0, 31, 9, 2**31, 31]


def test_atomics_in_shared_memory() -> None:
    out = np.zeros((2, 128), np.uint32)
    execute(
        """setp.ne.u32 p, tid, 0; mov.u32 own, sm; mov.b32 d, 0;
        @!p st.shared.b32 [own], d; bar.sync 0; atom.shared.add.u32 d, [own], 1; bar.sync 0;
        ld.shared.b32 e, [own]; mad.lo.u32 d, e, 1000, d; mad.wide.u32 at, i, 4, base;
        st.global.b32 [at], d; ret;""",
        out,
        ctas=2,
        threads=128,
    )
    assert np.sort(out, axis=1).tolist() == [[128_000 + k for k in range(128)]] * 2


COPY = """mad.wide.u32 at, tid, 16, base;
cp.async.cg.shared.global [own], [at], 16; cp.async.commit_group;
add.u32 own, own, 1024; setp.lt.u32 p, tid, 7; selp.b32 e, 4, 0, p;
cp.async.ca.shared.global.L2::128B [own], [at], 8, e; cp.async.commit_group;
"""
READ = """ld.param.u64 base, [p1]; mad.wide.u32 at, tid, 24, base;
sub.u32 own, own, 1024; ld.shared.v2.b32 {d, e}, [own + 8]; st.global.v2.b32 [at], {d, e};
ld.shared.v2.b32 {d, e}, [own]; st.global.v2.b32 [at + 8], {d, e};
add.u32 own, own, 1024; ld.shared.v2.b32 {d, e}, [own]; st.global.v2.b32 [at + 16], {d, e}; ret;
"""


@pytest.mark.parametrize("wait", ["cp.async.wait_group 0;", "cp.async.wait_all;"])
def test_asynchronous_copies(wait: str) -> None:
    x = np.random.default_rng(0).integers(0, 2**32, (64, 4), np.uint32)
    out = np.full((64, 6), 9, np.uint32)
    execute(COPY + wait + READ, x, out, shared=2048)
    np.testing.assert_array_equal(out[:, :4], x[:, [2, 3, 0, 1]])
    # 4 bytes for 7 threads, none for the others, and zeros for the rest.
    np.testing.assert_array_equal(out[:, 4], np.where(np.arange(64) < 7, x[:, 0], 0))
    assert not out[:, 5].any()


def test_copies_arrive_group_by_group() -> None:
    x, out = np.zeros((64, 4), np.uint32), np.zeros((64, 6), np.uint32)
    first = READ.split("add.u32")[0] + "ret;"
    execute(COPY + "cp.async.wait_group 1;" + first, x, out, shared=2048)
    with pytest.raises(PtxError, match="nothing has written"):
        execute(COPY + "cp.async.wait_group 1;" + READ, x, out, shared=2048)


def test_addresses_are_far_from_each_other() -> None:
    out, other = np.zeros(128, np.uint32), np.zeros(128, np.uint32)
    for offset, message in (
        (-4, r"bytes -4 to 508 of p0, which has 512 \(thread 0 of CTA 0\)"),
        (4, r"bytes 4 to 516 of p0, which has 512 \(thread 63 of CTA 1\)"),
    ):
        with pytest.raises(PtxError, match=rf"{message}; line \d+: st.global"):
            execute(
                f"mad.wide.u32 at, i, 4, base; st.global.b32 [at + {offset}], i; ret;",
                *(out, other),
                ctas=2,
            )
    assert not out.any()


WRONG = {
    "misaligned": ("ld.global.b32 d, [base + 2]; ret;", "not a multiple of 4"),
    "misaligned vector": ("ld.global.v4.b32 {d, e, f, g}, [base + 8]; ret;", "multiple of 16"),
    "a null pointer": ("mov.b64 at, 0; ld.global.b32 d, [at]; ret;", "in no buffer"),
    "past 32 bits": (
        "and.b64 at, base, 0xFFFFFFFF; ld.global.b32 d, [at]; ret;",
        "in no buffer",
    ),
    "shared memory never written": ("ld.shared.b32 d, [own]; ret;", "nothing has written"),
    "beyond shared memory": ("st.shared.b32 [own + 1016], tid; ret;", "of the shared memory"),
    "before shared memory": ("mov.u32 own, 0; st.shared.b32 [own], tid; ret;", "of the shared"),
    "two values at one address": ("st.global.b32 [base], tid; ret;", "two threads store"),
    "two values at one shared address": (
        "mov.u32 own, sm; st.shared.b32 [own], tid; ret;",
        "two threads store",
    ),
    "a half-written vector": (
        "st.shared.b32 [own], tid; ld.shared.v2.b32 {d, e}, [own]; ret;",
        "nothing has written",
    ),
    "another warp's words": (
        "st.shared.b32 [own], tid; xor.b32 e, tid, 32; mov.u32 own, sm;"
        " mad.lo.u32 own, e, 16, own; ld.shared.b32 d, [own]; ret;",
        "reads what another warp wrote",
    ),
    "another warp's bytes": (
        "cvt.u16.u32 s, tid; st.shared.b8 [own], s; xor.b32 e, tid, 32; mov.u32 own, sm;"
        " mad.lo.u32 own, e, 16, own; ld.shared.u8 s, [own]; ret;",
        "reads what another warp wrote",
    ),
    "words that another warp reads": (
        "st.shared.b32 [own], tid; bar.sync 0; ld.shared.b32 d, [own]; xor.b32 e, tid, 32;"
        " mov.u32 own, sm; mad.lo.u32 own, e, 16, own; st.shared.b32 [own], e; ret;",
        "overwrites what another warp reads",
    ),
    "words that all warps read": (
        "setp.eq.u32 p, tid, 0; mov.u32 own, sm; @p st.shared.b32 [own], tid; bar.sync 0;"
        " ld.shared.b32 d, [own]; @p st.shared.b32 [own], n; ret;",
        "overwrites what another warp reads",
    ),
    "words that all warps read, by the last": (
        "setp.eq.u32 p, tid, 63; mov.u32 own, sm; @p st.shared.b32 [own], tid; bar.sync 0;"
        " ld.shared.b32 d, [own]; @p st.shared.b32 [own], n; ret;",
        "overwrites what another warp reads",
    ),
    "words that a copy is about to write": (
        "st.shared.b32 [own], tid; cp.async.ca.shared.global [own], [base], 4;"
        " ld.shared.b32 d, [own]; cp.async.wait_all; ret;",
        "nothing has written",
    ),
    "another warp's words overwritten": (
        "setp.lt.u32 p, tid, 32; @p st.shared.b32 [own], tid; mov.u32 own, sm; xor.b32 e, tid, 32;"
        " mad.lo.u32 own, e, 16, own; @!p st.shared.b32 [own], tid; ret;",
        "overwrites what another warp wrote",
    ),
    "a copy over words that another warp reads": (
        "st.shared.b32 [own], tid; bar.sync 0; ld.shared.b32 d, [own]; xor.b32 e, tid, 32;"
        " mov.u32 own, sm; mad.lo.u32 own, e, 16, own; mov.b64 at, base;"
        " cp.async.ca.shared.global [own], [at], 4; ret;",
        "overwrites what another warp reads",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_accesses_are_found(mistake: str) -> None:
    body, message = WRONG[mistake]
    with pytest.raises(PtxError, match=rf"{message}.*; line \d+: "):
        execute(body, np.zeros(64, np.uint32))


def test_bytes_of_one_word_are_apart() -> None:
    """Different warps may write different bytes of a word."""
    out = np.zeros(256, np.uint8)
    execute(
        """mov.u32 own, sm; shl.b32 e, tid, 2; and.b32 e, e, 0xFC; shr.u32 f, tid, 6;
        add.u32 e, e, f; add.u32 own, own, e; cvt.u16.u32 s, tid; st.shared.b8 [own], s;
        ld.shared.u8 s, [own]; cvt.u64.u32 at, tid; add.u64 at, at, base; st.global.b8 [at], s;
        ret;""",
        out,
        threads=256,
    )
    np.testing.assert_array_equal(out, np.arange(256))


def test_equal_values_at_one_address_are_no_conflict() -> None:
    out = np.zeros(1, np.uint32)
    execute("st.global.b32 [base], n; ret;", out)
    assert out == 64


def test_read_only_arrays() -> None:
    array = np.zeros(64, np.uint32)
    array.setflags(write=False)
    with pytest.raises(PtxError, match="p0, which is read-only"):
        execute("mad.wide.u32 at, tid, 4, base; st.global.b32 [at], tid; ret;", array)


def test_one_array_twice_is_one_buffer() -> None:
    array = np.arange(64, dtype=np.uint32)
    execute(
        """mad.wide.u32 at, tid, 4, base; ld.global.b32 d, [at]; ld.param.u64 base, [p1];
        mad.wide.u32 at, tid, 4, base; add.u32 d, d, 1; st.global.b32 [at], d; ret;""",
        *(array, array),
    )
    np.testing.assert_array_equal(array, np.arange(64) + 1)


def test_the_launch_is_checked() -> None:
    text = kernel(START + "ret;", shared=SHARED)
    out = np.zeros(1, np.uint32)
    for change, message in (
        ({"threads": 48, "shared_bytes": 0}, "multiple of 32"),
        ({"shared_bytes": 0}, "pass threads="),
        ({"threads": 32}, "pass shared_bytes="),
    ):
        with pytest.raises(PtxError, match=message):
            launch(program(text), (1,), [out], **change)
    with pytest.raises(PtxError, match="no grid"):
        launch(program(text), (0,), [out], threads=32, shared_bytes=0)
    required = text.replace(".param .u64 p0)", ".param .u64 p0) .reqntid 64")
    assemble([required])
    with pytest.raises(PtxError, match=r"requires \(64, 1, 1\)"):
        launch(program(required), (1,), [out], threads=32, shared_bytes=0)
    launch(program(required), (1,), [out], shared_bytes=0)


def test_elements_of_narrow_arrays() -> None:
    a = np.arange(-40, 56, dtype=np.int8)
    out = np.zeros_like(a)
    text = elementwise("abs.s16 d, a;", "s8", ["s8"])
    launch(program(text), (1,), [out, a], threads=96)
    np.testing.assert_array_equal(out, np.abs(a))
