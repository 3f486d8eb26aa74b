"""What a PTX text consists of: one kernel's parameters, variables, registers, instructions."""

from dataclasses import dataclass, field

from tests.ptx.errors import PtxError

TYPE_BITS = {
    "pred": 1,
    **{f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 16,
    "f32": 32,
    "f64": 64,
    "b128": 128,
}


@dataclass(frozen=True)
class Register:
    """A declared register; `number` is its place in the register file."""

    number: int
    type: str


@dataclass(frozen=True)
class Name:
    """A register, a label, a special register or a variable, as written."""

    text: str


@dataclass(frozen=True)
class Number:
    """An immediate: an integer, or a float given by its bits or in decimals."""

    value: int | float
    float_bits: int | None = None


@dataclass(frozen=True)
class Address:
    """`[base + offset]`."""

    base: Name | Number
    offset: int


@dataclass(frozen=True)
class Vector:
    """`{a, b, …}`."""

    items: "tuple[Operand, ...]"


@dataclass(frozen=True)
class Pair:
    """`a|b`: a destination and its predicate."""

    first: Name
    second: Name


@dataclass(frozen=True)
class Negated:
    """`!p`, a source predicate."""

    name: Name


type Operand = Name | Number | Address | Vector | Pair | Negated


def names_in(operand: Operand) -> list[str]:
    """The names that an operand holds."""
    match operand:
        case Name(text):
            return [text]
        case Address(base, _):
            return names_in(base)
        case Vector(items):
            return [name for item in items for name in names_in(item)]
        case Pair(first, second):
            return [first.text, second.text]
        case Negated(name):
            return [name.text]
    return []


@dataclass
class Scope:
    """What the braces around an instruction declare."""

    parent: "Scope | None"
    registers: dict[str, Register] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def register(self, name: str) -> Register | None:
        found = self.registers.get(name)
        return found if found or self.parent is None else self.parent.register(name)

    def label(self, name: str) -> int | None:
        found = self.labels.get(name)
        return found if found is not None or self.parent is None else self.parent.label(name)


@dataclass(frozen=True)
class Instruction:
    """One instruction with its guard, as written on a line of the text."""

    line: int
    text: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Name | None
    guard_negated: bool
    scope: Scope

    def error(self, message: str) -> PtxError:
        return PtxError(f"line {self.line}: {message}: {self.text}")


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter; `count` is that of an array, 1 otherwise."""

    name: str
    type: str
    pointer: bool
    count: int


@dataclass(frozen=True)
class SharedVariable:
    """An array in shared memory; `bytes` is None where the launch gives it."""

    name: str
    bytes: int | None
    align: int


@dataclass
class Module:
    """One kernel of a PTX text."""

    target: str
    name: str
    parameters: list[Parameter]
    threads: tuple[int, int, int] | None
    shared: list[SharedVariable]
    registers: list[Register]
    instructions: list[Instruction]
