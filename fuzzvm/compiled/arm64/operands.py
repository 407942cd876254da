"""Operands of AArch64 instructions, read from the disassembler's text.

The text is what people check a disassembler by, and it does not change with the disassembler's internal tables. Text
that this grammar does not know is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from fuzzvm.compiled.arm64.registers import LINK, SP


class OperandError(ValueError):
    """An instruction whose operands have a form that is not known."""


@dataclass(frozen=True, slots=True)
class Register:
    """A general-purpose register. `slot` is its slot in the register file, or None for the zero register.

    `bits` is 32 or 64.
    """

    slot: int | None
    bits: int


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number; a branch target is the absolute address."""

    value: int


@dataclass(frozen=True, slots=True)
class Extension:
    """A shift or extension of the operand before it: `lsl #3`, `uxtw`."""

    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class Name:
    """A condition, a system register, a barrier's or a maintenance operation's name."""

    text: str


@dataclass(frozen=True, slots=True)
class Memory:
    """`[base, offset]`; `writeback` says that `!` follows."""

    base: Register
    offset: Immediate | Register | None
    extension: Extension | None
    writeback: bool


Operand: TypeAlias = Register | Immediate | Extension | Name | Memory

_REGISTER = re.compile(r"([wx])(\d{1,2}|zr)|(w?)sp")
_IMMEDIATE = re.compile(r"#(-?)(0x[0-9a-f]+|[0-9]+)")
_EXTENSION = re.compile(r"(lsl|lsr|asr|ror|[us]xt[bhwx])(?: #(\d+|0x[0-9a-f]+))?")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MEMORY = re.compile(r"\[([^\[\]]+)\](!?)")
_SEPARATOR = re.compile(r", (?![^\[]*\])")
"""A comma that is not between brackets."""


def parse(text: str) -> tuple[Operand, ...]:
    """Return the operands that a text of the disassembler holds. Raises OperandError for text it does not know."""
    return tuple(map(_operand, _SEPARATOR.split(text))) if text else ()


@lru_cache(4096)
def _operand(text: str) -> Operand:
    memory = _MEMORY.fullmatch(text)
    if memory is not None:
        return _memory(memory[1].split(", "), writeback=bool(memory[2]))
    register = _REGISTER.fullmatch(text)
    if register is not None:
        return _register(register)
    immediate = _IMMEDIATE.fullmatch(text)
    if immediate is not None:
        value = int(immediate[2], 0)
        return Immediate(-value if immediate[1] else value)
    extension = _EXTENSION.fullmatch(text)
    if extension is not None:
        return Extension(extension[1], int(extension[2] or "0", 0))
    if _NAME.fullmatch(text) is not None:
        return Name(text)
    raise OperandError(text)


def _register(match: re.Match[str]) -> Register:
    width, number, sp = match.groups()
    if number is None:
        return Register(SP, 32 if sp else 64)
    bits = 32 if width == "w" else 64
    if number == "zr":
        return Register(None, bits)
    if int(number) > LINK:
        raise OperandError(match[0])
    return Register(int(number), bits)


def _memory(parts: list[str], *, writeback: bool) -> Memory:
    base, *rest = map(_operand, parts)
    match rest:
        case []:
            offset, extension = None, None
        case [Immediate() | Register() as offset]:
            extension = None
        case [Register() as offset, Extension() as extension]:
            pass
        case _:
            raise OperandError(", ".join(parts))
    if not isinstance(base, Register) or base.slot is None or base.bits != 64:
        raise OperandError(", ".join(parts))
    return Memory(base, offset, extension, writeback)
