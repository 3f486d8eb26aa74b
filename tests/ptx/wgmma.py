"""`wgmma`: one-bit products of a warpgroup, with operands in shared memory."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Never

import numpy as np

from tests.ptx.compiler import Compiler, Modifiers, Source, opcode
from tests.ptx.errors import PtxError
from tests.ptx.machine import WARP, Array, Machine, Mask, Step
from tests.ptx.syntax import Instruction, Number, Vector

_GROUP_WARPS = 4
_GROUP = _GROUP_WARPS * WARP
_ROWS = 64
_COLUMNS = frozenset(
    [8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256]
)
_K_BYTES = 32

# Bytes of a row of each swizzle mode's pattern, by the mode's code in a descriptor.
_SWIZZLES = {0: 16, 1: 128, 2: 64, 3: 32}


class InFlight:
    """A register that a wgmma has not finished with: only another wgmma, or a move, may take it."""

    __array_ufunc__ = None

    def __init__(self, value: Array, columns: int) -> None:
        self.value = value
        self.columns = columns

    def __array__(self, *_: Any, **__: Any) -> Never:
        raise PtxError("uses a register that an unfinished wgmma writes")

    def __getattr__(self, name: str) -> Never:
        raise PtxError("uses a register that an unfinished wgmma writes")


@dataclass
class Product:
    """What an unfinished wgmma holds.

    Attributes:
      results: the registers it writes.
      reads: addresses and CTAs of the 16-byte rows that it reads.
      committed: number of `commit_group`s since it was issued.
    """

    results: list[InFlight]
    reads: list[tuple[Array, Array]]
    committed: int = 0


@opcode("wgmma")
def _wgmma(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    action = m.need("mma_async", "fence", "commit_group", "wait_group")
    m.need("sync")
    m.need("aligned")
    if action == "mma_async":
        return _product(c, i, m)
    if action == "fence":
        return _in_warpgroups(_fence)
    if action == "commit_group":
        return _in_warpgroups(_commit)
    number = i.operands[0]
    if not isinstance(number, Number) or not isinstance(number.value, int):
        raise i.error("expected an immediate")
    pending = number.value
    return _in_warpgroups(lambda machine, mask: _wait(machine, pending))


def _in_warpgroups(step: Step) -> Step:
    def checked(machine: Machine, mask: Mask) -> None:
        check_warpgroups(machine, mask)
        step(machine, mask)

    return checked


def check_warpgroups(machine: Machine, mask: Mask) -> None:
    """Demands that no warpgroup is at an instruction with only some of its threads."""
    if machine.threads % _GROUP:
        raise PtxError("a warpgroup is four warps")
    if mask is not None:
        here = machine.everywhere(mask).reshape(machine.ctas, -1, _GROUP)
        if (here.any(-1) != here.all(-1)).any():
            raise PtxError("only some threads of a warpgroup are at a .aligned instruction")


def _fence(machine: Machine, mask: Mask) -> None:
    machine.fenced = {id(value): value for value in machine.registers}


def _commit(machine: Machine, mask: Mask) -> None:
    for product in machine.products:
        product.committed += 1


def _wait(machine: Machine, pending: int) -> None:
    """The registers of all but the last `pending` groups can be used from here on."""
    done = [each for each in machine.products if each.committed > pending]
    machine.products = [each for each in machine.products if each.committed <= pending]
    still = {id(result) for each in machine.products for result in each.results}
    finished = {id(result) for each in done for result in each.results} - still
    for place, value in enumerate(machine.registers):
        if isinstance(value, InFlight) and id(value) in finished:
            machine.registers[place] = value.value
            machine.fenced[id(value.value)] = value.value
    machine.shared.release()
    for product in machine.products:
        for addresses, ctas in product.reads:
            machine.shared.hold(addresses, ctas)


def matrix_addresses(descriptor: Array, rows: int) -> Array:
    """Where the 16-byte pieces of a K-major matrix are in shared memory.

    Args:
      descriptor: uint64 `[ctas, groups]`.
      rows: number of rows, of 256 bits each.

    Returns:
      uint64 `[ctas, groups, rows, 2]`.

    Raises:
      PtxError: a base offset, or offsets that the swizzle's pattern does not allow.
    """
    if (descriptor >> np.uint64(49) & np.uint64(7)).any():
        raise PtxError("a matrix descriptor with a base offset")
    if (descriptor & np.uint64(0x3FF1_C000_C000_C000)).any():
        raise PtxError("a matrix descriptor with bits that mean nothing")
    modes = np.unique(descriptor >> np.uint64(62))
    if modes.size > 1:
        raise PtxError("matrix descriptors of different swizzle modes")
    pitch = _SWIZZLES[int(modes[0])]
    start, leading, stride = (
        ((descriptor >> np.uint64(shift) & np.uint64(0x3FFF)) << np.uint64(4))[..., None, None]
        for shift in (0, 16, 32)
    )
    row = np.arange(rows, dtype=np.uint64)[:, None]
    piece = np.arange(_K_BYTES // 16, dtype=np.uint64)
    along = piece * (leading if pitch == 16 else np.uint64(16))
    address = start + (row >> np.uint64(3)) * stride + (row & np.uint64(7)) * np.uint64(pitch)
    address = address + along
    if pitch == 16:
        return address
    if (start % np.uint64(8 * pitch) + np.uint64(_K_BYTES) > np.uint64(pitch)).any():
        raise PtxError("a matrix that does not begin in the first row of the swizzle's pattern")
    if (stride % np.uint64(8 * pitch)).any():
        raise PtxError("a stride that is no multiple of the swizzle's pattern")
    # Bits 4 and up, as many as the pitch has pieces, are changed by those from bit 7 up.
    mask = np.uint64(pitch // 16 - 1)
    return address ^ ((address >> np.uint64(7) & mask) << np.uint64(4))


class _Operand:
    """Matrix A or B in shared memory."""

    def __init__(self, descriptor: Source, rows: int) -> None:
        self.descriptor = descriptor
        self.rows = rows

    def read(self, machine: Machine, mask: Mask) -> tuple[Array, list[tuple[Array, Array]]]:
        """The matrix as uint64 `[ctas, groups, rows, 4]`, and where it was."""
        descriptor = machine.full(self.descriptor(machine.registers))
        of_groups = descriptor.reshape(machine.ctas, -1, _GROUP)
        here = machine.everywhere(mask).reshape(machine.ctas, -1, _GROUP)[..., 0]
        if ((of_groups != of_groups[..., :1]).any(-1) & here).any():
            raise PtxError("threads of a warpgroup name different matrix descriptors")
        ctas = np.nonzero(here)[0][:, None, None]
        addresses = matrix_addresses(of_groups[..., 0][here], self.rows)
        words = machine.shared.load_matrix(addresses, ctas)
        result = np.zeros((*here.shape, self.rows, 4), np.uint64)
        result[here] = words.reshape(-1, self.rows, 4)
        return result, [(addresses, ctas)]


class _Fragments:
    """Matrix A in registers: as that of `mma.m16n8k256`, a warp below the other."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sources

    def read(self, machine: Machine, mask: Mask) -> tuple[Array, list[tuple[Array, Array]]]:
        shape = (machine.ctas, machine.threads // _GROUP, _GROUP_WARPS, 8, 4)
        words = [machine.full(source(machine.registers)).reshape(shape) for source in self.sources]
        # Registers 0 and 2 are a row's words 0 to 3 and 4 to 7; 1 and 3 those 8 rows below.
        halves = [np.concatenate(words[half::2], axis=-1) for half in (0, 1)]
        rows = np.stack(halves, axis=3).reshape(*shape[:2], _ROWS, 8)
        return np.ascontiguousarray(rows).view(np.uint64), []


def _to_registers(machine: Machine, matrix: Array) -> list[Array]:
    """A matrix `[ctas, groups, 64, columns]` as the registers `[ctas, threads]` of accumulators."""
    blocks = matrix.shape[-1] // 8
    groups = machine.threads // _GROUP
    parts = matrix.reshape(machine.ctas, groups, _GROUP_WARPS, 2, 8, blocks, 4, 2)
    # Register 4 * block + 2 * half + side: column 8 * block + 2 * member + side, row + 8 * half.
    ordered = parts.transpose(5, 3, 7, 0, 1, 2, 4, 6)
    return list(np.ascontiguousarray(ordered).reshape(4 * blocks, *machine.shape))


def _ones_in_common(a: Array, b: Array) -> Array:
    """uint64 `[…, rows, 4]` and `[…, columns, 4]` to uint32 `[…, rows, columns]`."""
    total = np.zeros((1,), np.uint32)
    for word in range(a.shape[-1]):
        total = total + np.bitwise_count(a[..., :, None, word] & b[..., None, :, word])
    return total


def _product(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    shape = next((part for part in m.left if re.fullmatch(r"m64n\d+k256", part)), "m64n0k256")
    columns = int(shape[4:-4])
    if columns not in _COLUMNS:
        raise i.error("only .m64nNk256")
    m.take(shape)
    if m.take("row"):
        m.need("col")
    m.type("s32")
    for part in ("b1", "b1", "and", "popc"):
        m.need(part)
    d, of_a, of_b, scale = i.operands
    places = [c.register(i, item).number for item in c.items(i, d, columns // 2)]
    for item in c.items(i, d, columns // 2):
        c.assign(i, item, "s32")
    registers = (
        [c.source(i, item, "b32") for item in c.items(i, of_a, 4)]
        if isinstance(of_a, Vector)
        else []
    )
    left = _Fragments(registers) if registers else _Operand(c.source(i, of_a, "b64"), _ROWS)
    right = _Operand(c.source(i, of_b, "b64"), columns)
    accumulate = c.source(i, scale, "pred")

    def step(machine: Machine, mask: Mask) -> None:
        check_warpgroups(machine, mask)
        for each in registers:
            _check_fenced(machine, each(machine.registers))
        a, read_a = left.read(machine, mask)
        b, read_b = right.read(machine, mask)
        counts = _to_registers(machine, _ones_in_common(a, b))
        adding = _adding(machine, mask, accumulate(machine.registers))
        starts = [_start(machine, place, columns, adding) for place in places]
        values = [start + count for start, count in zip(starts, counts, strict=True)]
        if mask is not None:  # only where all threads run together is the wait looked after
            for place, start, value in zip(places, starts, values, strict=True):
                machine.registers[place] = np.where(mask, value, start)
            return
        results = [InFlight(value, columns) for value in values]
        for place, result in zip(places, results, strict=True):
            machine.registers[place] = result
        machine.products.append(Product(results, read_a + read_b))
        for addresses, ctas in read_a + read_b:
            machine.shared.hold(addresses, ctas)

    return step


def _adding(machine: Machine, mask: Mask, accumulate: Array) -> Array:
    """Where the products are added to what is there, uniform in a warpgroup."""
    if accumulate.size > 1:
        groups = machine.full(accumulate).reshape(machine.ctas, -1, _GROUP)
        here = machine.everywhere(mask).reshape(groups.shape)
        if ((groups != groups[..., :1]) & here).any():
            raise PtxError("threads of a warpgroup differ about accumulating")
    return accumulate


def _check_fenced(machine: Machine, value: Array) -> None:
    if id(value) not in machine.fenced:
        raise PtxError("a register of a wgmma is written with no wgmma.fence since")


def _start(machine: Machine, place: int, columns: int, adding: Array) -> Array:
    """What the products are added to in one register."""
    value = machine.registers[place]
    if isinstance(value, InFlight):
        if value.columns != columns:
            raise PtxError("an unfinished wgmma of another shape writes the same registers")
        value = value.value
    else:
        _check_fenced(machine, value)
    if adding.all():
        return value
    zero = np.zeros((1, 1), np.uint32)
    return np.where(adding, value, zero) if adding.any() else zero
