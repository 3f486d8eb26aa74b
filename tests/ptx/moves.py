"""Moves between registers: mov, whole or in parts, and cvta."""

from __future__ import annotations

from tests.ptx.compiler import Compiler, Modifiers, dtype_of, opcode, unsigned
from tests.ptx.machine import Machine, Mask, Step
from tests.ptx.syntax import TYPE_BITS, Instruction, Vector


@opcode("mov")
def _mov(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    kind = m.type()
    if len(i.operands) != 2:
        raise i.error("expected 2 operands")
    destination, source = i.operands
    if isinstance(destination, Vector):
        return _unpack(c, i, kind)
    if isinstance(source, Vector):
        return _pack(c, i, kind)
    write, read = c.assign(i, destination, kind), c.source(i, source, kind)
    return lambda machine, mask: write(machine, mask, read(machine.registers))


def _part(i: Instruction, vector: Vector, kind: str) -> int:
    bits = TYPE_BITS[kind] // len(vector.items)
    if kind[0] != "b" or bits not in (8, 16, 32, 64) or bits * len(vector.items) != TYPE_BITS[kind]:
        raise i.error("the parts do not make up the whole")
    return bits


def _unpack(c: Compiler, i: Instruction, kind: str) -> Step:
    vector = i.operands[0]
    assert isinstance(vector, Vector)
    bits, read = _part(i, vector, kind), c.source(i, i.operands[1], kind)
    part = unsigned(bits)
    writes = [c.assign(i, item, f"b{bits}") for item in vector.items]

    def unpack(machine: Machine, mask: Mask) -> None:
        whole = read(machine.registers)
        for place, write in enumerate(writes):
            write(machine, mask, (whole >> whole.dtype.type(place * bits)).astype(part))

    return unpack


def _pack(c: Compiler, i: Instruction, kind: str) -> Step:
    vector = i.operands[1]
    assert isinstance(vector, Vector)
    bits, write = _part(i, vector, kind), c.assign(i, i.operands[0], kind)
    whole = dtype_of(kind)
    reads = [c.source(i, item, f"b{bits}") for item in vector.items]

    def pack(machine: Machine, mask: Mask) -> None:
        result = reads[0](machine.registers).astype(whole)
        for place, read in enumerate(reads[1:], 1):
            part = read(machine.registers).astype(whole)
            result = result | part << whole.type(place * bits)
        write(machine, mask, result)

    return pack


@opcode("cvta")
def _cvta(c: Compiler, i: Instruction, m: Modifiers) -> Step:
    """Generic addresses of global memory are its addresses."""
    m.take("to")
    m.need("global")
    kind = m.type("u64")
    return c.elementwise(i, kind, lambda a: a, kind)
