"""`wgmma` on one-bit matrices against dense products; what it must wait for."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.ptx.errors import PtxError
from tests.ptx.handwritten import assemble, kernel, program
from tests.ptx.program import launch

type Words = np.ndarray[Any, Any]

BASE = 1024  # where the executor's shared memory begins
MODES = {"none": 0, "128": 1, "64": 2, "32": 3}


@dataclass(frozen=True)
class Case:
    """One product of `[64, 512]` and `[512, columns]` bits, in two steps along K."""

    columns: int
    swizzle: str
    a_in_registers: bool = False

    @property
    def name(self) -> str:
        return f"n{self.columns}-{self.swizzle}{'-registers' if self.a_in_registers else ''}"


CASES = [
    Case(columns, swizzle, registers)
    for columns, swizzle, registers in (
        (8, "none", False),
        (64, "none", False),
        (256, "none", False),
        (32, "128", False),
        (64, "64", False),
        (24, "32", False),
        (16, "128", True),
        (64, "32", True),
    )
]


def text(
    case: Case,
    *,
    fence: str = "wgmma.fence.sync.aligned;",
    proxy: str = "fence.proxy.async.shared::cta;",
    barrier: str = "bar.sync 0;",
    wait: str = "wgmma.wait_group.sync.aligned 0;",
    between: str = "",
) -> str:
    """Copies p1 (p2 words a CTA) to shared memory, multiplies, stores every register to p0.

    p3 and p4 are A's descriptors of the two steps, p5 and p6 B's; p7 holds A's registers.
    """
    count = case.columns // 2
    d = "{" + ", ".join(f"d{i}" for i in range(count)) + "}"
    lines = [
        ".reg .b32 tid, n, i, cta, word, at32, grid; .reg .b64 base, at, a0, a1, b0, b1;",
        ".reg .pred p, first; .reg .b32 w<8>;",
        f".reg .b32 d<{count}>;",
        "mov.u32 tid, %tid.x; mov.u32 cta, %ctaid.x; mov.u32 grid, %ntid.x;",
        "ld.param.u32 n, [p2]; ld.param.u64 base, [p1];",
        "mad.lo.u32 word, cta, n, tid; mad.wide.u32 base, word, 4, base;",
        "mov.u32 at32, sm; mad.lo.u32 at32, tid, 4, at32; mov.u32 i, tid;",
        "LOOP: setp.ge.u32 p, i, n; @p bra DONE;",
        "ld.global.b32 word, [base]; st.shared.b32 [at32], word;",
        "add.u64 base, base, 512; add.u32 at32, at32, 512; add.u32 i, i, 128; bra LOOP;",
        f"DONE: {proxy} {barrier}",
        "ld.param.u64 a0, [p3]; ld.param.u64 a1, [p4];",
        "ld.param.u64 b0, [p5]; ld.param.u64 b1, [p6];",
        "mad.lo.u32 i, cta, grid, tid; ld.param.u64 at, [p7]; mad.wide.u32 at, i, 32, at;",
        *(f"ld.global.b32 w{k}, [at + {4 * k}];" for k in range(8)),
        # The first product is not added to anything: what is there does not matter.
        *(f"mov.b32 d{k}, 77;" for k in range(count)),
        "setp.ne.u32 first, n, n;",
        fence,
    ]
    for step, scale in enumerate(("first", "1")):
        a = "{" + ", ".join(f"w{4 * step + k}" for k in range(4)) + "}"
        lines += [
            f"wgmma.mma_async.sync.aligned.m64n{case.columns}k256.s32.b1.b1.and.popc"
            f" {d}, {a if case.a_in_registers else f'a{step}'}, b{step}, {scale};"
        ]
    lines += ["wgmma.commit_group.sync.aligned;", between, wait]
    lines += [f"ld.param.u64 at, [p0]; mad.wide.u32 at, i, {4 * count}, at;"]
    lines += [f"st.global.b32 [at + {4 * k}], d{k};" for k in range(count)]
    return kernel(
        "\n".join([*lines, "ret;"]),
        ["u64", "u64", "u32", *["u64"] * 5],
        shared=".extern .shared .align 1024 .b8 sm[];",
    )


def test_the_texts_are_ptx() -> None:
    assemble(text(case) for case in CASES)


def place(row: int, piece: int, rows: int, swizzle: str) -> int:
    """Byte of piece 0 to 3 (128 bits each) of a row, and of its step's descriptor with row 0."""
    if swizzle == "none":
        # 8x1 bricks of 16-byte pieces; bricks of one row of bricks follow each other.
        return (row // 8 * 4 + piece) * 128 + row % 8 * 16
    pitch = int(swizzle)
    per_row = pitch // 16
    # An atom is 8 rows of `pitch` bytes; what K has beyond its width is in another atom.
    atom = piece // per_row * (rows // 8) + row // 8
    # The pattern repeats after 8, 4 or 2 of the 128-byte lines that the atom fills.
    line = row % 8 * pitch // 128
    return atom * 8 * pitch + row % 8 * pitch + (piece % per_row ^ line % per_row) * 16


def size(rows: int, swizzle: str) -> int:
    """Bytes that a matrix takes: a row has 64, which do not fill those of the widest pattern."""
    return rows * (128 if swizzle == "128" else 64)


def image(bits: Words, swizzle: str) -> Words:
    """`[rows, 512]` bits as shared memory has them."""
    rows = len(bits)
    pieces = np.packbits(bits, axis=-1, bitorder="little").reshape(rows, 4, 16)
    memory = np.zeros(size(rows, swizzle), np.uint8)
    for row in range(rows):
        for piece in range(4):
            start = place(row, piece, rows, swizzle)
            memory[start : start + 16] = pieces[row, piece]
    return memory


def descriptors(start: int, rows: int, swizzle: str) -> list[int]:
    """Of the two steps of 256 bits."""
    pitch = 0 if swizzle == "none" else int(swizzle)
    leading, stride = (128, 512) if swizzle == "none" else (16, 8 * pitch)
    offsets = [0, 256] if swizzle == "none" else [0, place(0, 2, rows, swizzle)]
    return [
        (start + offset & 0x3FFFF) >> 4
        | leading >> 4 << 16
        | stride >> 4 << 32
        | MODES[swizzle] << 62
        for offset in offsets
    ]


def fragments(bits: Words) -> Words:
    """A `[64, 512]` as registers `[128, 8]`, by the ISA's formula."""
    words = np.packbits(bits, axis=-1, bitorder="little").view(np.uint32)
    result = np.zeros((128, 8), np.uint32)
    for thread in range(128):
        warp, lane = thread // 32, thread % 32
        for register in range(8):
            step, i = divmod(register, 4)
            row = 16 * warp + (lane >> 2) + (8 if i % 2 else 0)
            result[thread, register] = words[row, 8 * step + lane % 4 + (4 if i >= 2 else 0)]
    return result


def execute(case: Case, ptx: str, ctas: int = 3) -> tuple[Words, Words]:
    """The registers `[ctas, 128, columns / 2]`, and what they must be."""
    rng = np.random.default_rng(case.columns)
    a = rng.integers(0, 2, (ctas, 64, 512), np.uint8)
    b = rng.integers(0, 2, (ctas, case.columns, 512), np.uint8)
    a[0, 0], b[0, 0] = 1, 1  # the largest count
    memory = np.stack(
        [
            np.concatenate([image(a[k], case.swizzle), image(b[k], case.swizzle)])
            for k in range(ctas)
        ]
    )
    registers = np.stack([fragments(a[k]) for k in range(ctas)])
    out = np.zeros((ctas, 128, case.columns // 2), np.uint32)
    args = [
        out,
        memory,
        memory.shape[1] // 4,
        *descriptors(BASE, 64, case.swizzle),
        *descriptors(BASE + size(64, case.swizzle), case.columns, case.swizzle),
        registers,
    ]
    launch(program(ptx), (ctas,), args, threads=128, shared_bytes=memory.shape[1])
    product = a.astype(np.int64) @ b.transpose(0, 2, 1).astype(np.int64)
    expected = np.zeros_like(out)
    for thread in range(128):
        warp, lane = thread // 32, thread % 32
        for i in range(case.columns // 2):
            row = 16 * warp + (lane >> 2) + (8 if i % 4 >= 2 else 0)
            expected[:, thread, i] = product[:, row, 8 * (i // 4) + lane % 4 * 2 + (i & 1)]
    return out, expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_the_dense_product(case: Case) -> None:
    out, expected = execute(case, text(case))
    np.testing.assert_array_equal(out, expected)


SMALL = Case(8, "128")
MISTAKES = {
    "registers written since": (
        {"fence": "", "between": ""},
        r"written with no wgmma.fence since; line \d+: wgmma.mma_async",
    ),
    "memory not fenced": ({"proxy": ""}, "no fence.proxy.async since; line .* wgmma.mma_async"),
    "no barrier": ({"barrier": ""}, "without a barrier between them; line .* wgmma.mma_async"),
    "no wait": ({"wait": ""}, "a register that an unfinished wgmma writes; line .* st.global"),
    "not waited long enough": (
        {"wait": "wgmma.wait_group.sync.aligned 1;"},
        "a register that an unfinished wgmma writes; line .* st.global",
    ),
    "used before the wait": (
        {"between": "add.s32 d0, d0, 1;"},
        "a register that an unfinished wgmma writes; line .* add.s32",
    ),
    "memory overwritten": (
        {"between": "bar.sync 0; mov.u32 at32, sm; st.shared.b32 [at32], tid;"},
        "overwrites what an unfinished wgmma may still read; line .* st.shared",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str) -> None:
    changes, message = MISTAKES[mistake]
    with pytest.raises(PtxError, match=message):
        execute(SMALL, text(SMALL, **changes))


def test_operands_in_registers_are_fenced_too() -> None:
    case = Case(16, "128", a_in_registers=True)
    late = "wgmma.fence.sync.aligned; add.s32 w5, w5, 0;"
    with pytest.raises(
        PtxError, match=r"written with no wgmma.fence since; line .* wgmma.mma_async"
    ):
        execute(case, text(case, fence=late))


def test_a_wait_without_a_commit_waits_for_nothing() -> None:
    ptx = text(SMALL).replace("wgmma.commit_group.sync.aligned;", "")
    with pytest.raises(PtxError, match="a register that an unfinished wgmma writes"):
        execute(SMALL, ptx)


def test_a_move_may_take_an_unfinished_register() -> None:
    between = ".reg .b32 e; mov.b32 e, d0; mov.b32 d0, d1; mov.b32 d1, e;"
    after = "mov.b32 e, d0; mov.b32 d0, d1; mov.b32 d1, e;"
    wait = f"wgmma.wait_group.sync.aligned 0; {after}"
    out, expected = execute(SMALL, text(SMALL, between=between, wait=wait))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (1 << 49, "base offset"),
        (1 << 14, "bits that mean nothing"),
        (16 << 32 + 0, "multiple of the swizzle's pattern"),
        (8, "first row of the swizzle's pattern"),
    ],
)
def test_wrong_descriptors_are_errors(
    change: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = descriptors
    monkeypatch.setitem(
        globals(), "descriptors", lambda *args: [each ^ change for each in right(*args)]
    )
    with pytest.raises(PtxError, match=message):
        execute(SMALL, text(SMALL))
