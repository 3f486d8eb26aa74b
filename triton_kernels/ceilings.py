# pyrefly: ignore-errors
"""Kernels that do one instruction and nothing else: the rates that no other kernel can pass.

Each takes seeds [T] uint32, one for each thread of a program, and gives y [programs, T] uint32,
so that nothing it computes can be left out. TURNS are those of its loop, WARPS those of a program.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared

from triton_kernels.launch import Launch
from triton_kernels.wgmma import counts_layout
from triton_kernels.wgmma_instructions import products, products_with, tied

LOP3_A_TURN, POPC_A_TURN, MMA_A_TURN, WGMMA_A_TURN = 48, 32, 8, 8
"""Instructions of a thread, of a warp or of a warpgroup for matrices, in one turn of the loop."""

MMA_MACS, WGMMA_MACS = 16 * 8 * 256, 64 * 128 * 256
"""Products of bits in one matrix instruction of a warp, and of a warpgroup."""

_WARPS = 8
_THREADS = 32 * _WARPS


@gluon.jit
def lop3_kernel(seeds, y, TURNS: gl.constexpr, WARPS: gl.constexpr):
    """Logic operations on three words; every result enters two others: none can be merged."""
    a = gl.load(seeds + _threads(WARPS))
    b, c, d, e, f = a * 3, a * 5, a * 7, a * 9, a * 11
    for _ in range(TURNS):
        for _ in gl.static_range(8):
            a, b, c = _chain(a, b, c)
            d, e, f = _chain(d, e, f)
    _store(y, a ^ b ^ c ^ d ^ e ^ f, WARPS)


@gluon.jit
def _chain(a, b, c):
    return gl.inline_asm_elementwise(
        "lop3.b32 $0, $3, $4, $5, 0x96; lop3.b32 $1, $4, $5, $0, 0xE8; "
        "lop3.b32 $2, $5, $0, $1, 0x96;",
        "=&r,=&r,=&r,r,r,r",
        [a, b, c],
        dtype=(gl.uint32, gl.uint32, gl.uint32),
        is_pure=True,
        pack=1,
    )


@gluon.jit
def popc_kernel(seeds, y, TURNS: gl.constexpr, WARPS: gl.constexpr):
    """Population counts of population counts, in four chains."""
    a = gl.load(seeds + _threads(WARPS))
    b, c, d = a * 3, a * 5, a * 7
    for _ in range(TURNS):
        for _ in gl.static_range(8):
            a, b, c, d = _popc(a), _popc(b), _popc(c), _popc(d)
    _store(y, a ^ b ^ c ^ d, WARPS)


@gluon.jit
def _popc(a):
    return gl.inline_asm_elementwise(
        "popc.b32 $0, $1;", "=r,r", [a], dtype=gl.uint32, is_pure=True, pack=1
    )


@gluon.jit
def bmma_kernel(seeds, y, TURNS: gl.constexpr, WARPS: gl.constexpr):
    """Products of one-bit matrices by AND, into eight tiles of counts."""
    a = gl.load(seeds + _threads(WARPS)).to(gl.int32, bitcast=True)
    words = (a, a * 3, a * 5, a * 7, a * 9, a * 11)
    counts = ()
    for i in gl.static_range(8):
        # Equal tiles would be counted once.
        counts += ((a + i, a - i, a * i, a | i),)
    for _ in range(TURNS):
        after = ()
        for i in gl.static_range(8):
            after += (_mma(counts[i], words),)
        counts = after
    total = a
    for i in gl.static_range(8):
        total ^= counts[i][0] ^ counts[i][1] ^ counts[i][2] ^ counts[i][3]
    _store(y, total.to(gl.uint32, bitcast=True), WARPS)


@gluon.jit
def _mma(counts, words):
    """One instruction; which words are multiplied does not matter."""
    return gl.inline_asm_elementwise(
        "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$0, $1, $2, $3};",
        "=r,=r,=r,=r,r,r,r,r,r,r,0,1,2,3",
        list(words + counts),
        dtype=(gl.int32, gl.int32, gl.int32, gl.int32),
        is_pure=True,
        pack=1,
    )


@gluon.jit
def wgmma_kernel(seeds, y, TURNS: gl.constexpr, WARPS: gl.constexpr):
    """Products of one-bit matrices by AND, of two warpgroups, 64 pixels by 128 channels each."""
    PIECES: gl.constexpr = 16
    WARPGROUPS: gl.constexpr = WARPS // 4
    GROUPS: gl.constexpr = 4
    linear: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    words: gl.constexpr = gl.BlockedLayout([4], [32], [WARPS], [0])
    text: gl.constexpr = products(1, 2, PIECES, 8, WARPGROUPS, GROUPS)
    wait: gl.constexpr = "wgmma.wait_group.sync.aligned 0;"
    # Of two warpgroups pixels take as many words as weights do.
    place = gl.arange(0, PIECES * 64 * WARPGROUPS * 4, layout=words)
    bits = gl.load(seeds + place % (32 * WARPS)).to(gl.int32, bitcast=True) * (2 * place + 1)
    pixels = gl.allocate_shared_memory(gl.int32, [PIECES * 64 * WARPGROUPS * 4], linear, bits)
    weights = gl.allocate_shared_memory(gl.int32, [PIECES * 32 * GROUPS * 4], linear, ~bits)
    fence_async_shared()
    gl.barrier()
    layout: gl.constexpr = counts_layout(WARPGROUPS, GROUPS)
    counts = gl.full([64 * WARPGROUPS, GROUPS, 32], 0, gl.int32, layout=layout)
    for _ in range(TURNS):
        counts = gl.inline_asm(
            text,
            products_with(2, GROUPS),
            [pixels, weights, gl.to_tensor(0), counts],
            counts.type,
            is_pure=False,
        )
        counts = gl.inline_asm(wait, tied(2, GROUPS), [counts], counts.type, is_pure=False)
    total = gl.sum(gl.sum(counts, 2), 1).to(gl.uint32, bitcast=True)
    of_pixel: gl.constexpr = gl.SliceLayout(1, gl.SliceLayout(2, layout))
    at = y + gl.program_id(0) * 32 * WARPS + gl.arange(0, 64 * WARPGROUPS, layout=of_pixel)
    gl.store(at, total)
    gl.store(at + 64 * WARPGROUPS, total)


@gluon.jit
def _threads(WARPS: gl.constexpr):
    """Numbers of a program's threads, one each."""
    return gl.arange(0, 32 * WARPS, layout=gl.BlockedLayout([1], [32], [WARPS], [0]))


@gluon.jit
def _store(y, results, WARPS: gl.constexpr):
    """Store a word of every thread."""
    gl.store(y + gl.program_id(0) * 32 * WARPS + _threads(WARPS), results)


def launch(kernel, *, blocks: int, turns: int) -> Launch:
    """Launch one of these kernels with an array (seeds), giving y.

    Args:
      kernel: the kernel.
      blocks: of the grid.
      turns: of its loop.

    Returns:
      The launch; seeds are [256] and y is [blocks, 256] uint32.
    """
    return Launch(
        kernel=kernel,
        blocks=blocks,
        sizes={},
        constants={"TURNS": turns, "WARPS": _WARPS},
        warps=_WARPS,
        registers=128,
    )


def threads() -> int:
    """Tell how many threads a program has.

    Returns:
      The number.
    """
    return _THREADS
