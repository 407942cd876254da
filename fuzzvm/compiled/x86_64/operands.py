"""Operands of x86_64 instructions, read from the disassembler's text in Intel syntax; other text is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from fuzzvm.compiled.x86_64.registers import PARTS


class OperandError(ValueError):
    """An instruction whose operands have a form that is not known."""


@dataclass(frozen=True, slots=True)
class Register:
    """A register, or a part of one: its slot, its size in bytes, and its first bit there."""

    slot: int
    size: int
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number; a branch target is the absolute address."""

    value: int


@dataclass(frozen=True, slots=True)
class Memory:
    """`size` bytes of memory (0: no access, for LEA) at the sum of its parts; `rip` adds where the next instruction is.

    `segment` is "gs", or "" for none that counts.
    """

    size: int
    segment: str = ""
    base: int | None = None
    index: int | None = None
    scale: int = 1
    displacement: int = 0
    rip: bool = False


Operand: TypeAlias = Register | Immediate | Memory

_SIZES = {"byte ptr ": 1, "word ptr ": 2, "dword ptr ": 4, "qword ptr ": 8, "": 0}
_NUMBER = re.compile(r"-?(?:0x[0-9a-f]+|\d+)")
_MEMORY = re.compile(r"((?:[a-z]+ ptr )?)(?:(\w\w):)?\[([^][]+)\]")
_TERM = re.compile(r"(?:^| ?([+-]) )(?:(\d)\*)?(\w+)(?:\*(\d))?")


def parse(text: str) -> tuple[Operand, ...]:
    """Return the operands that a text of the disassembler holds. Raises OperandError for text it does not know."""
    return tuple(map(_operand, text.split(", "))) if text else ()


@lru_cache(4096)
def _operand(text: str) -> Operand:
    if text in PARTS:
        return Register(*PARTS[text])
    if _NUMBER.fullmatch(text):
        return Immediate(int(text, 0))
    memory = _MEMORY.fullmatch(text)
    if memory is None or memory[1] not in _SIZES or memory[2] not in (None, "gs", "ds", "es", "ss", "cs"):
        raise OperandError(text)
    return _memory(_SIZES[memory[1]], "gs" if memory[2] == "gs" else "", memory[3])


def _memory(size: int, segment: str, text: str) -> Memory:
    base = index = None
    scale, displacement, rip, end = 1, 0, False, 0
    for term in _TERM.finditer(text):
        sign, _, name, times = term.groups()
        negative = sign == "-" or (not term.start() and text.startswith("-"))
        if term.start() != end:
            raise OperandError(text)
        end = term.end()
        if _NUMBER.fullmatch(name):
            displacement = -int(name, 0) if negative else int(name, 0)
        elif negative:
            raise OperandError(text)
        elif name == "rip":
            rip = True
        elif name not in PARTS or PARTS[name][1] != 8:
            raise OperandError(text)
        elif times is None and base is None:
            base = PARTS[name][0]
        elif index is None:
            index, scale = PARTS[name][0], int(times or 1)
        else:
            raise OperandError(text)
    if end != len(text):
        raise OperandError(text)
    return Memory(size, segment, base, index, scale, displacement, rip)
