"""Integer and bit instructions against the PTX ISA's own words, in Python's integers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, elementwise, program, width
from tests.ptx.program import launch

type Words = np.ndarray[Any, Any]

_THREADS = 256


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def of_type(value: int, kind: str) -> int:
    bits = 8 * width(kind)
    return signed(value, bits) if kind[0] == "s" else value & ((1 << bits) - 1)


def random_column(rng: np.random.Generator, kind: str) -> Words:
    """One value a thread: all edges, small numbers, and any."""
    bits = 8 * width(kind)
    top = (1 << bits) - 1
    edges = [0, 1, 2, 31, 32, 33, 63, 64, 65, 255, 1 << bits - 1, (1 << bits - 1) - 1, top]
    any_number = rng.integers(0, top, _THREADS, np.uint64, endpoint=True)
    small = rng.integers(0, 40, _THREADS, np.uint64)
    edge = rng.choice(np.array(edges, np.uint64), _THREADS)
    which = rng.integers(0, 3, _THREADS)
    return np.choose(which, [any_number, small, edge]).astype(f"u{width(kind)}")


def stored_type(result: str) -> str:
    return "u32" if result == "pred" else result


def execute(text: str, result: str, columns: Sequence[Words]) -> Words:
    out = np.zeros(_THREADS, f"u{width(stored_type(result))}")
    launch(program(text), (1,), [out, *columns], threads=_THREADS)
    return out


def shifted(value: int, amount: int, kind: str, left: bool) -> int:
    amount = min(amount, 8 * width(kind))
    return value << amount if left else value >> amount


def truncated_quotient(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def extract(a: int, b: int, c: int, bits: int, is_signed: bool) -> int:
    start, length, top = b & 255, c & 255, bits - 1
    a &= (1 << bits) - 1
    sign = 0 if not is_signed or length == 0 else a >> min(start + length - 1, top) & 1
    result = 0
    for i in range(bits):
        inside = i < length and start + i <= top
        result |= (a >> start + i & 1 if inside else sign) << i
    return result


def insert(a: int, b: int, c: int, d: int, bits: int) -> int:
    start, length = c & 255, d & 255
    for i in range(length):
        if start + i < bits:
            b = b & ~(1 << start + i) | (a >> i & 1) << start + i
    return b


def permute(a: int, b: int, selector: int) -> int:
    source = (b << 32 | a).to_bytes(8, "little")
    result = []
    for nibble in (selector >> 4 * i & 15 for i in range(4)):
        byte = source[nibble & 7]
        result.append((255 if byte & 128 else 0) if nibble & 8 else byte)
    return int.from_bytes(bytes(result), "little")


def funnel(a: int, b: int, c: int, left: bool, wrap: bool) -> int:
    n = c & 31 if wrap else min(c, 32)
    if left:
        return b << n | a >> 32 - n
    return b << 32 - n | a >> n


def dot4(a: int, b: int, c: int, of_a: bool, of_b: bool) -> int:
    def parts(word: int, is_signed: bool) -> list[int]:
        return [signed(word >> 8 * i, 8) if is_signed else word >> 8 * i & 255 for i in range(4)]

    return c + sum(x * y for x, y in zip(parts(a, of_a), parts(b, of_b), strict=True))


def leading(a: int, kind: str) -> int:
    """bfind."""
    if kind[0] == "s" and a < 0:
        a = ~a
    return a.bit_length() - 1


type Case = tuple[str, str, tuple[str, ...], Callable[..., int]]
CASES: list[Case] = []

for kind in ("u32", "s32", "u64", "s64", "u16", "s16"):
    bits = 8 * width(kind)
    CASES += [
        (f"add.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a + b),
        (f"sub.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a - b),
        (f"mul.lo.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a * b),
        (f"mul.hi.{kind} d, a, b;", kind, (kind, kind), lambda a, b, n=bits: a * b >> n),
        (f"min.{kind} d, a, b;", kind, (kind, kind), min),
        (f"max.{kind} d, a, b;", kind, (kind, kind), max),
        (f"mad.lo.{kind} d, a, b, c;", kind, (kind,) * 3, lambda a, b, c: a * b + c),
        (f"shr.{kind} d, a, b;", kind, (kind, "u32"), lambda a, b, k=kind: shifted(a, b, k, False)),
    ]
    if bits < 64:
        wide = f"{kind[0]}{2 * bits}"
        CASES += [
            (f"mul.wide.{kind} d, a, b;", wide, (kind, kind), lambda a, b: a * b),
            (f"mad.wide.{kind} d, a, b, c;", wide, (kind, kind, wide), lambda a, b, c: a * b + c),
        ]
    if bits > 16:
        CASES += [
            (
                f"bfe.{kind} d, a, b, c;",
                kind,
                (kind, "u32", "u32"),
                lambda a, b, c, n=bits, s=kind[0] == "s": extract(a, b, c, n, s),
            ),
            (f"bfind.{kind} d, a;", "u32", (kind,), lambda a, k=kind: leading(a, k)),
            (
                f"bfind.shiftamt.{kind} d, a;",
                "u32",
                (kind,),
                lambda a, k=kind, n=bits: -1 if leading(a, k) < 0 else n - 1 - leading(a, k),
            ),
            (
                f"mad.hi.{kind} d, a, b, c;",
                kind,
                (kind,) * 3,
                lambda a, b, c, n=bits: (a * b >> n) + c,
            ),
            (f"sad.{kind} d, a, b, c;", kind, (kind,) * 3, lambda a, b, c: c + abs(a - b)),
        ]
for kind in ("b16", "b32", "b64"):
    bits = 8 * width(kind)
    CASES += [
        (f"and.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a & b),
        (f"or.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a | b),
        (f"xor.{kind} d, a, b;", kind, (kind, kind), lambda a, b: a ^ b),
        (f"not.{kind} d, a;", kind, (kind,), lambda a: ~a),
        (f"cnot.{kind} d, a;", kind, (kind,), lambda a: int(a == 0)),
        (f"shl.{kind} d, a, b;", kind, (kind, "u32"), lambda a, b, k=kind: shifted(a, b, k, True)),
        (f"shr.{kind} d, a, b;", kind, (kind, "u32"), lambda a, b, k=kind: shifted(a, b, k, False)),
    ]
    if bits > 16:
        CASES += [
            (f"popc.{kind} d, a;", "u32", (kind,), int.bit_count),
            (f"clz.{kind} d, a;", "u32", (kind,), lambda a, n=bits: n - a.bit_length()),
            (f"brev.{kind} d, a;", kind, (kind,), lambda a, n=bits: int(f"{a:0{n}b}"[::-1], 2)),
            *(
                (
                    f"bfi.{kind} d, a, b, {start}, c;",
                    kind,
                    (kind, kind, "u32"),
                    lambda a, b, c, s=start, n=bits: insert(a, b, s, c, n),
                )
                for start in (0, 5, 31, 40, 255)
            ),
        ]
for kind in ("s16", "s32", "s64"):
    CASES += [
        (f"neg.{kind} d, a;", kind, (kind,), lambda a: -a),
        (f"abs.{kind} d, a;", kind, (kind,), abs),
    ]
for left in (True, False):
    for wrap in (True, False):
        name = f"shf.{'l' if left else 'r'}.{'wrap' if wrap else 'clamp'}.b32"
        CASES.append(
            (
                f"{name} d, a, b, c;",
                "b32",
                ("b32", "b32", "u32"),
                lambda a, b, c, le=left, w=wrap: funnel(a, b, c, le, w),
            )
        )
for of_a in ("u32", "s32"):
    for of_b in ("u32", "s32"):
        total = "s32" if "s32" in (of_a, of_b) else "u32"
        CASES.append(
            (
                f"dp4a.{of_a}.{of_b} d, a, b, c;",
                total,
                ("b32", "b32", total),
                lambda a, b, c, x=of_a == "s32", y=of_b == "s32": dot4(a, b, c, x, y),
            )
        )
CASES.append(("prmt.b32 d, a, b, c;", "b32", ("b32",) * 3, permute))
# The ISA's tables of the named modes, from the highest byte of the result to the lowest.
MODES = {
    "f4e": ((3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (6, 5, 4, 3)),
    "b4e": ((5, 6, 7, 0), (6, 7, 0, 1), (7, 0, 1, 2), (0, 1, 2, 3)),
    "rc8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ecl": ((3, 2, 1, 0), (3, 2, 1, 1), (3, 2, 2, 2), (3, 3, 3, 3)),
    "ecr": ((0, 0, 0, 0), (1, 1, 1, 0), (2, 2, 1, 0), (3, 2, 1, 0)),
    "rc16": ((1, 0, 1, 0), (3, 2, 3, 2), (1, 0, 1, 0), (3, 2, 3, 2)),
}
for mode, table in MODES.items():
    CASES.append(
        (
            f"prmt.b32.{mode} d, a, b, c;",
            "b32",
            ("b32",) * 3,
            lambda a, b, c, t=table: int.from_bytes(
                bytes((b << 32 | a).to_bytes(8, "little")[i] for i in t[c & 3]), "big"
            ),
        )
    )
for compared in ("u32", "s32", "u64", "s64", "u16", "s16"):
    for name, holds in {
        "eq": int.__eq__,
        "ne": int.__ne__,
        "lt": int.__lt__,
        "le": int.__le__,
        "gt": int.__gt__,
        "ge": int.__ge__,
    }.items():
        CASES.append((f"setp.{name}.{compared} p, a, b;", "pred", (compared,) * 2, holds))
for name, holds in {"lo": int.__lt__, "ls": int.__le__, "hi": int.__gt__, "hs": int.__ge__}.items():
    CASES.append((f"setp.{name}.u32 p, a, b;", "pred", ("u32", "u32"), holds))
CASES += [
    ("set.lt.u32.s32 d, a, b;", "u32", ("s32", "s32"), lambda a, b: -(a < b)),
    (
        "setp.lt.s32 q, b, c; setp.ge.or.u32 p, a, 7, q;",
        "pred",
        ("u32", "s32", "s32"),
        lambda a, b, c: a >= 7 or b < c,
    ),
    (
        "setp.lt.s32 q, b, c; setp.ge.and.u32 p, a, 7, !q;",
        "pred",
        ("u32", "s32", "s32"),
        lambda a, b, c: a >= 7 and not b < c,
    ),
    ("setp.lt.s32 q|p, a, b;", "pred", ("s32", "s32"), lambda a, b: not a < b),
    (
        "setp.lt.s32 q, a, b; setp.eq.xor.s32 q|p, a, 1, q;",
        "pred",
        ("s32", "s32"),
        lambda a, b: (a != 1) != (a < b),
    ),
    (
        "setp.ne.b32 p, c, 0; selp.b32 d, a, b, p;",
        "b32",
        ("b32",) * 3,
        lambda a, b, c: a if c else b,
    ),
    ("add.s32 d, a, -3;", "s32", ("s32",), lambda a: a - 3),
    ("add.u32 d, a, 0xFFFFFFF0;", "u32", ("u32",), lambda a: a - 16),
    ("and.b32 d, a, 0b1011; xor.b32 d, d, 017;", "b32", ("b32",), lambda a: (a & 11) ^ 15),
]
for target in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
    for source in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
        # Registers have 16 bits at least: a narrow result is extended to them.
        held = f"{target[0]}{max(16, 8 * width(target))}"
        CASES.append(
            (f"cvt.{target}.{source} d, a;", held, (source,), lambda a, t=target: of_type(a, t))
        )
CASES += [
    ("cvt.sat.u8.s32 d, a;", "u16", ("s32",), lambda a: min(max(a, 0), 255)),
    ("cvt.sat.s16.s32 d, a;", "s16", ("s32",), lambda a: min(max(a, -(2**15)), 2**15 - 1)),
    ("cvt.sat.s32.u32 d, a;", "s32", ("u32",), lambda a: min(a, 2**31 - 1)),
    ("cvt.sat.u64.s64 d, a;", "u64", ("s64",), lambda a: max(a, 0)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_instruction(case: Case) -> None:
    instruction, result, kinds, reference = case
    rng = np.random.default_rng(len(instruction))
    columns = [random_column(rng, kind) for kind in kinds]
    out = execute(elementwise(instruction, result, kinds), result, columns)
    kind = f"u{8 * width(stored_type(result))}"
    for thread, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        typed = [of_type(value, kind) for value, kind in zip(row, kinds, strict=True)]
        assert out[thread] == of_type(int(reference(*typed)), kind), typed


def test_the_texts_are_ptx() -> None:
    assemble(elementwise(*case[:3]) for case in CASES)


@pytest.mark.parametrize("table", range(0, 256, 5))
def test_lop3_is_its_truth_table(table: int) -> None:
    rng = np.random.default_rng(table)
    a, b, c = (rng.integers(0, 2**32, 32, np.uint32) for _ in range(3))
    out = np.zeros(32, np.uint32)
    text = elementwise(f"lop3.b32 d, a, b, c, {table};", "b32", ("b32",) * 3)
    launch(program(text), (1,), [out, a, b, c], threads=32)
    expected = np.zeros(32, np.uint32)
    for row in range(8):
        if table >> row & 1:
            x, y, z = (
                each if row >> place & 1 else ~each for each, place in ((a, 2), (b, 1), (c, 0))
            )
            expected |= x & y & z
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_division_is_towards_zero(kind: str) -> None:
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{width(kind)}")
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype)
    a = rng.integers(limits.min, limits.max, 32, dtype, endpoint=True)
    b = rng.integers(-9 if kind[0] == "s" else 1, 9, 32).astype(dtype)
    a[:8] = np.arange(8)
    b[b == 0] = 5
    quotient, rest = np.zeros_like(a), np.zeros_like(a)
    for out, name in ((quotient, "div"), (rest, "rem")):
        text = elementwise(f"{name}.{kind} d, a, b;", kind, (kind, kind))
        launch(program(text), (1,), [out, a, b], threads=32)
    expected = [truncated_quotient(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(quotient, np.array(expected, dtype))
    np.testing.assert_array_equal(rest, a - np.array(expected, dtype) * b)


def test_division_by_zero_is_an_error() -> None:
    text = elementwise("div.u32 d, a, b;", "u32", ("u32", "u32"))
    a, b = np.ones(32, np.uint32), np.ones(32, np.uint32)
    b[3] = 0
    with pytest.raises(PtxError, match=r"division by zero; line \d+: div\.u32"):
        launch(program(text), (1,), [np.zeros_like(a), a, b], threads=32)


@pytest.mark.parametrize(
    ("permutation", "expected"),
    [
        ("prmt.b32 d, a, e, 0x3120", 0x44223311),
        ("prmt.b32 d, e, a, 0x7564", 0x44223311),
        ("prmt.b32.f4e d, a, e, 0", 0x44332211),
    ],
)
def test_a_permutation_leaves_a_register_unread(permutation: str, expected: int) -> None:
    text = elementwise(f"{{ .reg .b32 e; {permutation}; }}", "b32", ("b32",))
    out, a = np.zeros(32, np.uint32), np.full(32, 0x44332211, np.uint32)
    launch(program(text), (1,), [out, a], threads=32)
    assert (out == expected).all()


@pytest.mark.parametrize(
    "permutation",
    ["prmt.b32 d, a, e, 0x3124", "prmt.b32 d, e, a, 0x3654", "prmt.b32.f4e d, a, e, 1"],
)
def test_a_permutation_of_bytes_never_written_is_an_error(permutation: str) -> None:
    text = elementwise(f"{{ .reg .b32 e; {permutation}; }}", "b32", ("b32",))
    out, a = np.zeros(32, np.uint32), np.full(32, 0x44332211, np.uint32)
    with pytest.raises(PtxError, match="reads e, which nothing has written"):
        launch(program(text), (1,), [out, a], threads=32)


def test_a_permutation_reads_what_a_thread_takes_from() -> None:
    text = elementwise("{ .reg .b32 e; prmt.b32 d, a, e, b; }", "b32", ("b32", "b32"))
    out, a = np.zeros(32, np.uint32), np.full(32, 0x44332211, np.uint32)
    selector = np.full(32, 0x0123, np.uint32)
    launch(program(text), (1,), [out, a, selector], threads=32)
    assert (out == 0x11223344).all()
    selector[7] = 0x4123
    with pytest.raises(PtxError, match="reads e, which nothing has written"):
        launch(program(text), (1,), [out, a, selector], threads=32)
