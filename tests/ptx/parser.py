"""Reads PTX text as LLVM's back-end and inline assembly write it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tests.ptx.errors import PtxError
from tests.ptx.syntax import (
    TYPE_BITS,
    Address,
    Instruction,
    Module,
    Name,
    Negated,
    Number,
    Operand,
    Pair,
    Parameter,
    Register,
    Scope,
    SharedVariable,
    Vector,
)


@dataclass(frozen=True)
class Statement:
    """A piece of text between semicolons; `{`, `}` and labels stand alone."""

    line: int
    text: str


_IGNORED_LINE = re.compile(r"^[ \t]*\.(loc|file)\b[^\n]*", re.MULTILINE)
_SECTION = re.compile(r"^[ \t]*\.section\b[^{]*\{[^}]*\}", re.MULTILINE)
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_LABEL = re.compile(r"([A-Za-z_$%][\w$]*)\s*:(?!:)")
_SOMETHING = re.compile(r"\S")
_MODULE_DIRECTIVE = re.compile(r"\.(version|target|address_size)\b[^\n]*")
_HEADER = re.compile(r"(\.visible\s+|\.weak\s+)?\.(entry|func)\b[^{]*")
_IDENTIFIER = r"[A-Za-z_$%][\w$]*(?:\.[xyzw])?"


def _blank(match: re.Match[str]) -> str:
    """Nothing, on as many lines: the lines that follow keep their numbers."""
    return "\n" * match.group().count("\n")


def _statements(text: str) -> Iterator[Statement]:
    """The statements of PTX text that has lost its comments and debug sections."""
    position, line, counted = 0, 1, 0
    while True:
        found = _SOMETHING.search(text, position)
        if found is None:
            return
        position = found.start()
        line += text.count("\n", counted, position)
        counted = position
        if text[position] in "{}":
            yield Statement(line, text[position])
            position += 1
        elif label := _LABEL.match(text, position):
            yield Statement(line, label.group(1) + ":")
            position = label.end()
        elif directive := _MODULE_DIRECTIVE.match(text, position):
            yield Statement(line, directive.group().strip())
            position = directive.end()
        elif header := _HEADER.match(text, position):
            yield Statement(line, " ".join(header.group().split()))
            position = header.end()
        else:
            end = text.find(";", position)
            if end < 0:
                raise PtxError(f"line {line}: a statement without end: {text[position:][:60]!r}")
            if body := " ".join(text[position:end].split()):
                yield Statement(line, body)
            position = end + 1


_BITS = re.compile(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})")
_INTEGER = re.compile(r"-?(0[xX][0-9A-Fa-f]+|0[bB][01]+|\d+)U?")
_OCTAL = re.compile(r"-?0[0-7]+")
_DECIMAL = re.compile(r"-?(\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _number(text: str) -> Number | None:
    if match := _BITS.fullmatch(text):
        single, double = match.groups()
        return Number(int(single or double, 16), float_bits=32 if single else 64)
    if _INTEGER.fullmatch(text):
        digits = text.rstrip("U")
        return Number(int(digits, 8) if _OCTAL.fullmatch(digits) else int(digits, 0))
    return Number(float(text)) if _DECIMAL.fullmatch(text) else None


def _split(text: str) -> list[str]:
    """The operands of a list, with braces and brackets kept together."""
    if "{" not in text and "[" not in text:
        return [part.strip() for part in text.split(",")] if text else []
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[") - (character in "}]")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip() or parts:
        parts.append(current.strip())
    return parts


@lru_cache(maxsize=1 << 14)
def _simple(text: str) -> Name | Number | None:
    """A name or a number; kernels repeat theirs."""
    return Name(text) if re.fullmatch(_IDENTIFIER, text) else _number(text)


def _operand(text: str, line: int) -> Operand:
    if (simple := _simple(text)) is not None:
        return simple
    if text.startswith("{") and text.endswith("}"):
        return Vector(tuple(_operand(part, line) for part in _split(text[1:-1])))
    if text.startswith("[") and text.endswith("]"):
        return _address(text[1:-1].strip(), line)
    if match := re.fullmatch(rf"({_IDENTIFIER})\s*\|\s*({_IDENTIFIER})", text):
        return Pair(Name(match.group(1)), Name(match.group(2)))
    if match := re.fullmatch(rf"!\s*({_IDENTIFIER})", text):
        return Negated(Name(match.group(1)))
    raise PtxError(f"line {line}: not an operand: {text!r}")


def _address(text: str, line: int) -> Address:
    match = re.fullmatch(r"([^\s+]+)\s*(?:\+\s*(-?\s*\w+))?", text)
    base = _operand(match.group(1), line) if match else None
    offset = _number((match.group(2) or "0").replace(" ", "")) if match else None
    if not isinstance(base, Name | Number) or offset is None or not isinstance(offset.value, int):
        raise PtxError(f"line {line}: not an address: [{text}]")
    return Address(base, offset.value)


_GUARD = re.compile(rf"@\s*(!?)\s*({_IDENTIFIER})\s*")
_OPCODE = re.compile(r"([a-z][a-z0-9_]*)((?:\.[A-Za-z0-9_]+(?:::[A-Za-z0-9_]+)*)*)\s*")


def _instruction(statement: Statement, scope: Scope) -> Instruction:
    text = statement.text
    guard, negated = None, False
    if text[0] == "@" and (match := _GUARD.match(text)):
        guard, negated = Name(match.group(2)), bool(match.group(1))
        text = text[match.end() :]
    match = _OPCODE.match(text)
    if not match:
        raise PtxError(f"line {statement.line}: not an instruction: {statement.text}")
    operands = tuple(_operand(part, statement.line) for part in _split(text[match.end() :]))
    return Instruction(
        statement.line,
        statement.text,
        match.group(1),
        tuple(match.group(2).split(".")[1:]),
        operands,
        guard,
        negated,
        scope,
    )


def _parameters(statement: Statement) -> list[Parameter]:
    inside = re.search(r"\((.*)\)", statement.text)
    parameters = []
    for text in _split(inside.group(1)) if inside else []:
        match = re.fullmatch(
            r"\.param(?: \.align \d+)? \.(\w+)( \.ptr(?: \.\w+)?(?: \.align \d+)?)?"
            r" ([\w$%]+)(?:\[(\d+)\])?",
            text,
        )
        if not match or match.group(1) not in TYPE_BITS:
            raise PtxError(f"line {statement.line}: not a parameter: {text}")
        kind, pointer, name, count = match.groups()
        parameters.append(Parameter(name, kind, pointer is not None, int(count or 1)))
    return parameters


def _threads(statement: Statement) -> tuple[int, int, int] | None:
    match = re.search(r"\.reqntid (\d+)(?:, ?(\d+))?(?:, ?(\d+))?", statement.text)
    if not match:
        return None
    x, y, z = (int(part or 1) for part in match.groups())
    return x, y, z


def _shared_variable(statement: Statement) -> SharedVariable | None:
    match = re.fullmatch(
        r"(?:\.extern |\.visible )*\.shared(?: \.align (\d+))? \.(\w+) ([\w$%]+)(?:\[(\d*)\])?",
        statement.text,
    )
    if not match or match.group(2) not in TYPE_BITS:
        return None
    align, kind, name, count = match.groups()
    item = TYPE_BITS[kind] // 8
    size = None if count == "" else item * int(count or 1)
    return SharedVariable(name, size, int(align or item))


class _Body:
    """Reads the statements between a kernel's outer braces."""

    def __init__(self) -> None:
        self.registers: list[Register] = []
        self.instructions: list[Instruction] = []
        self.shared: list[SharedVariable] = []
        self.scope = Scope(None)
        self.depth = 0

    def declare(self, statement: Statement) -> None:
        match = re.fullmatch(r"\.reg \.(\w+) (.*)", statement.text)
        if not match or match.group(1) not in TYPE_BITS:
            raise PtxError(f"line {statement.line}: not a register declaration: {statement.text}")
        kind, names = match.groups()
        for name in _split(names):
            several = re.fullmatch(rf"({_IDENTIFIER})<(\d+)>", name)
            if several:
                written = [f"{several.group(1)}{i}" for i in range(int(several.group(2)))]
            else:
                written = [name]
            for each in written:
                if each in self.scope.registers:
                    raise PtxError(f"line {statement.line}: {each} is declared twice")
                register = Register(len(self.registers), kind)
                self.registers.append(register)
                self.scope.registers[each] = register

    def read(self, statement: Statement) -> bool:
        """Takes one statement; False once the kernel's last brace is closed."""
        text = statement.text
        if text == "{":
            self.depth += 1
            self.scope = Scope(self.scope)
        elif text == "}":
            self.depth -= 1
            self.scope = self.scope.parent or self.scope
        elif text.endswith(":"):
            if text[:-1] in self.scope.labels:
                raise PtxError(f"line {statement.line}: label {text[:-1]} is there twice")
            self.scope.labels[text[:-1]] = len(self.instructions)
        elif text.startswith(".reg "):
            self.declare(statement)
        elif variable := _shared_variable(statement):
            self.shared.append(variable)
        elif text.startswith(".pragma "):
            pass
        elif text.startswith("."):
            raise PtxError(f"line {statement.line}: unknown directive: {text}")
        else:
            self.instructions.append(_instruction(statement, self.scope))
        return self.depth > 0


def parse(text: str) -> Module:
    """Reads the one kernel of a PTX text.

    Args:
      text: PTX as LLVM's back-end prints it.

    Returns:
      the kernel; names are not resolved yet.

    Raises:
      PtxError: what is not understood, with its line.
    """
    for pattern in (_COMMENT, _SECTION, _IGNORED_LINE):
        text = pattern.sub(_blank, text)
    target, header, body = "", None, _Body()
    shared, finished = [], False
    for statement in _statements(text):
        words = statement.text
        if header is not None and not finished:
            finished = not body.read(statement)
        elif match := re.match(r"\.target (\w+)", words):
            target = match.group(1)
        elif words.startswith((".version", ".address_size")):
            if words.startswith(".address_size") and words.split()[1] != "64":
                raise PtxError(f"line {statement.line}: only 64-bit addresses: {words}")
        elif variable := _shared_variable(statement):
            shared.append(variable)
        elif match := re.match(r"(?:\.visible |\.weak )?\.entry ([\w$]+)", words):
            if finished:
                raise PtxError(f"line {statement.line}: a second kernel: {match.group(1)}")
            header = statement
        else:
            raise PtxError(f"line {statement.line}: unknown directive: {words}")
    if header is None or not finished:
        raise PtxError("no kernel in this PTX, or its end is missing")
    name = re.search(r"\.entry ([\w$]+)", header.text)
    assert name is not None
    return Module(
        target,
        name.group(1),
        _parameters(header),
        _threads(header),
        shared + body.shared,
        body.registers,
        body.instructions,
    )
