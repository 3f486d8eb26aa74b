"""Turns instructions into Python closures; each opcode's module adds itself to `OPCODES`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import itemgetter

import numpy as np

from tests.ptx.errors import PtxError
from tests.ptx.machine import SPECIAL_REGISTERS, Array, Machine, Mask, Step
from tests.ptx.syntax import (
    TYPE_BITS,
    Address,
    Instruction,
    Module,
    Name,
    Negated,
    Number,
    Operand,
    Register,
    Vector,
)

type Source = Callable[[list[Array]], Array]
type Assign = Callable[[Machine, Mask, Array], None]

SHARED_BASE = 1024  # null is no shared address, and the alignment that wgmma's swizzles assume


@cache
def unsigned(bits: int) -> np.dtype:
    return np.dtype(bool) if bits == 1 else np.dtype(f"u{bits // 8}")


@cache
def dtype_of(type_name: str) -> np.dtype:
    """NumPy's dtype of a PTX type; bits without a meaning are unsigned."""
    bits = TYPE_BITS[type_name]
    if type_name[0] in "sf":
        return np.dtype(f"{'i' if type_name[0] == 's' else 'f'}{bits // 8}")
    return unsigned(bits)


class Modifiers:
    """What follows an opcode; every part must be taken by somebody."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.left = list(instruction.modifiers)

    def take(self, *options: str) -> str | None:
        """The first of `options` that is there."""
        for option in options:
            if option in self.left:
                self.left.remove(option)
                return option
        return None

    def need(self, *options: str) -> str:
        found = self.take(*options)
        if found is None:
            raise self.instruction.error(f"expected one of .{', .'.join(options)}")
        return found

    def types(self) -> list[str]:
        """All types, in order."""
        found = [part for part in self.left if part in TYPE_BITS]
        self.left = [part for part in self.left if part not in TYPE_BITS]
        return found

    def type(self, *allowed: str) -> str:
        """The only type."""
        found = self.types()
        if len(found) != 1 or (allowed and found[0] not in allowed):
            raise self.instruction.error(f"unsupported type {'.'.join(found) or '(none)'}")
        return found[0]

    def end(self) -> None:
        if self.left:
            raise self.instruction.error(f"unknown modifier .{'.'.join(self.left)}")


type Handler = Callable[["Compiler", Instruction, Modifiers], Step]
OPCODES: dict[str, Handler] = {}


def opcode(*names: str) -> Callable[[Handler], Handler]:
    """Enters a function as the compiler of these opcodes."""

    def enter(handler: Handler) -> Handler:
        OPCODES.update(dict.fromkeys(names, handler))
        return handler

    return enter


class Compiler:
    """Resolves the operands of one kernel.

    Attributes:
      fixed: values of the register file's places past the declared registers: immediates and
        addresses of variables.
      special: places of the special registers that the kernel reads.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.fixed: dict[int, Array] = {}
        self.special: dict[str, int] = {}
        self.places = len(module.registers)
        self.parameters = {each.name: i for i, each in enumerate(module.parameters)}
        self.shared: dict[str, int] = {}
        self.static_shared_bytes = 0
        self._lay_out_shared()
        self._immediates: dict[tuple[bytes, str], int] = {}

    def _lay_out_shared(self) -> None:
        dynamic = []
        for variable in self.module.shared:
            if variable.bytes is None:
                dynamic.append(variable)
                continue
            start = -(-self.static_shared_bytes // variable.align) * variable.align
            self.shared[variable.name] = SHARED_BASE + start
            self.static_shared_bytes = start + variable.bytes
        for variable in dynamic:
            align = max(variable.align, 16)
            start = -(-self.static_shared_bytes // align) * align
            self.static_shared_bytes = start
            self.shared[variable.name] = SHARED_BASE + start
        self.dynamic_shared = bool(dynamic)

    def _place(self) -> int:
        self.places += 1
        return self.places - 1

    def _constant(self, value: int | float, dtype: np.dtype) -> int:
        if dtype.kind in "ui" and isinstance(value, int):
            value &= (1 << 8 * dtype.itemsize) - 1
            array = np.full((1, 1), value, unsigned(8 * dtype.itemsize)).view(dtype)
        else:
            array = np.full((1, 1), value, dtype)
        key = (array.tobytes(), dtype.str)
        if key not in self._immediates:
            place = self._place()
            array.setflags(write=False)
            self._immediates[key], self.fixed[place] = place, array
        return self._immediates[key]

    def register(self, instruction: Instruction, operand: Operand) -> Register:
        found = instruction.scope.register(operand.text) if isinstance(operand, Name) else None
        if found is None:
            raise instruction.error(f"{operand} is not a declared register")
        return found

    def source(self, instruction: Instruction, operand: Operand, type_name: str) -> Source:
        """A function of the register file that gives an operand's values in a type's dtype."""
        wanted = dtype_of(type_name)
        if isinstance(operand, Number):
            return itemgetter(self._immediate(instruction, operand, wanted))
        if isinstance(operand, Negated) and type_name == "pred":
            place = self._named(instruction, operand.name, wanted)
            return lambda r: ~r[place]
        if not isinstance(operand, Name):
            raise instruction.error(f"{operand} cannot be read here")
        return self._typed(instruction, operand, wanted)

    def _immediate(self, instruction: Instruction, number: Number, wanted: np.dtype) -> int:
        if number.float_bits is not None:
            if wanted.itemsize * 8 != number.float_bits:
                raise instruction.error("a float of another width")
            bits = np.array(number.value, unsigned(number.float_bits))
            return self._constant(bits.view(wanted).item(), wanted)
        if isinstance(number.value, float) and wanted.kind != "f":
            raise instruction.error("a decimal fraction where an integer is wanted")
        if wanted.kind == "b":
            return self._constant(bool(number.value), wanted)
        return self._constant(number.value, wanted)

    def _named(self, instruction: Instruction, name: Name, wanted: np.dtype) -> int:
        """The place of a name whose width is exactly the wanted one."""
        register = instruction.scope.register(name.text)
        if register is not None:
            if unsigned(TYPE_BITS[register.type]).itemsize != wanted.itemsize or (
                (register.type == "pred") != (wanted.kind == "b")
            ):
                raise instruction.error(f"{name.text} is .{register.type}, not {wanted}")
            return register.number
        if name.text in SPECIAL_REGISTERS:
            if wanted.itemsize != 4:
                raise instruction.error(f"{name.text} has 32 bits")
            if name.text not in self.special:
                self.special[name.text] = self._place()
            return self.special[name.text]
        if name.text in self.shared:
            return self._constant(self.shared[name.text], unsigned(8 * wanted.itemsize))
        raise instruction.error(f"unknown name {name.text}")

    def _typed(self, instruction: Instruction, name: Name, wanted: np.dtype) -> Source:
        place = self._named(instruction, name, wanted)
        if wanted.kind in "ub":
            return itemgetter(place)
        return lambda r: r[place].view(wanted)

    def narrow_source(self, instruction: Instruction, operand: Operand, type_name: str) -> Source:
        """As `source`, of registers that may be wider than the type: the low bits."""
        wanted = dtype_of(type_name)
        register = instruction.scope.register(operand.text) if isinstance(operand, Name) else None
        if register is None or TYPE_BITS[register.type] <= 8 * wanted.itemsize:
            return self.source(instruction, operand, type_name)
        place, low = register.number, unsigned(8 * wanted.itemsize)
        if register.type == "pred":
            raise instruction.error("a predicate is no number")
        return lambda r: r[place].astype(low).view(wanted)

    def assign(self, instruction: Instruction, operand: Operand, type_name: str) -> Assign:
        """A function that writes a register, of exactly the type's width, under a mask."""
        if isinstance(operand, Name) and operand.text == "_":
            return lambda machine, mask, value: None
        register = self.register(instruction, operand)
        dtype = dtype_of(type_name)
        own = unsigned(TYPE_BITS[register.type])
        if own != unsigned(TYPE_BITS[type_name]):
            raise instruction.error(f"a .{register.type} register for a .{type_name}")
        return _assign(register.number, dtype, own)

    def wide_assign(self, instruction: Instruction, operand: Operand, type_name: str) -> Assign:
        """As `assign`, to registers that may be wider than the type: extended by its sign."""
        if isinstance(operand, Name) and operand.text == "_":
            return lambda machine, mask, value: None
        register = self.register(instruction, operand)
        if TYPE_BITS[register.type] == TYPE_BITS[type_name]:
            return self.assign(instruction, operand, type_name)
        if TYPE_BITS[register.type] < TYPE_BITS[type_name] or type_name[0] == "f":
            raise instruction.error(f"a .{register.type} register for a .{type_name}")
        own = unsigned(TYPE_BITS[register.type])
        extended = np.dtype(f"i{own.itemsize}") if type_name[0] == "s" else own
        write = _assign(register.number, extended, own)
        return lambda machine, mask, value: write(machine, mask, value.astype(extended))

    def elementwise(
        self,
        instruction: Instruction,
        type_name: str,
        function: Callable[..., Array],
        *source_types: str,
    ) -> Step:
        """Compiles `d = function(a, b, …)`, thread by thread."""
        if len(instruction.operands) != 1 + len(source_types):
            raise instruction.error(f"expected {1 + len(source_types)} operands")
        destination, *operands = instruction.operands
        write = self.assign(instruction, destination, type_name)
        sources = [
            self.source(instruction, operand, kind)
            for operand, kind in zip(operands, source_types, strict=True)
        ]
        return elementwise_step(write, function, sources)

    def address(self, instruction: Instruction, operand: Operand) -> Source:
        """A function of the register file that gives 64-bit addresses."""
        if not isinstance(operand, Address):
            raise instruction.error(f"{operand} is not an address")
        base, offset = operand.base, operand.offset
        if isinstance(base, Number):
            if not isinstance(base.value, int):
                raise instruction.error("an address that is not an integer")
            return itemgetter(self._constant(base.value + offset, np.dtype(np.uint64)))
        if base.text in self.shared:
            return itemgetter(self._constant(self.shared[base.text] + offset, np.dtype(np.uint64)))
        register = self.register(instruction, base)
        place = register.number
        if TYPE_BITS[register.type] == 64:
            if offset == 0:
                return itemgetter(place)
            step = np.full((1, 1), offset & (2**64 - 1), np.uint64)
            return lambda r: r[place] + step
        if TYPE_BITS[register.type] == 32:
            narrow = np.full((1, 1), offset & (2**32 - 1), np.uint32)
            return lambda r: (r[place] + narrow).astype(np.uint64)
        raise instruction.error(f"a .{register.type} register is no address")

    def items(self, instruction: Instruction, operand: Operand, count: int) -> list[Operand]:
        """The parts of a vector operand; a vector of one may lack its braces."""
        parts = list(operand.items) if isinstance(operand, Vector) else [operand]
        if len(parts) != count:
            raise instruction.error(f"expected a vector of {count}")
        return parts


def _assign(place: int, dtype: np.dtype, own: np.dtype) -> Assign:
    view = dtype != own
    zero = np.zeros((1, 1), own)

    def assign(machine: Machine, mask: Mask, value: Array) -> None:
        if view:
            value = value.view(own)
        if mask is not None:
            old = machine.registers[place]
            value = np.where(mask, value, zero if old is None else old)
        machine.registers[place] = value

    return assign


def elementwise_step(write: Assign, function: Callable[..., Array], sources: list[Source]) -> Step:
    match sources:
        case [a]:
            return lambda machine, mask: write(machine, mask, function(a(machine.registers)))
        case [a, b]:

            def two(machine: Machine, mask: Mask) -> None:
                r = machine.registers
                write(machine, mask, function(a(r), b(r)))

            return two
        case [a, b, c]:

            def three(machine: Machine, mask: Mask) -> None:
                r = machine.registers
                write(machine, mask, function(a(r), b(r), c(r)))

            return three

    def several(machine: Machine, mask: Mask) -> None:
        r = machine.registers
        write(machine, mask, function(*(source(r) for source in sources)))

    return several


def guarded(compiler: Compiler, instruction: Instruction, step: Step) -> Step:
    """Runs a step only in the threads whose guard holds."""
    if instruction.guard is None:
        return step
    place = compiler.register(instruction, instruction.guard).number
    negated = instruction.guard_negated

    def run(machine: Machine, mask: Mask) -> None:
        chosen = machine.registers[place]
        if negated:
            chosen = ~chosen
        if mask is not None:
            chosen = chosen & mask
        if chosen.all():
            step(machine, mask)
        elif chosen.any():
            step(machine, chosen)

    return run


def compile_instruction(compiler: Compiler, instruction: Instruction) -> Step:
    handler = OPCODES.get(instruction.opcode)
    if handler is None:
        raise instruction.error(f"unknown opcode {instruction.opcode}")
    modifiers = Modifiers(instruction)
    try:
        step = handler(compiler, instruction, modifiers)
    except PtxError:
        raise
    except (ValueError, IndexError, KeyError) as error:
        raise instruction.error(f"not understood ({error})") from error
    modifiers.end()
    return guarded(compiler, instruction, step)
