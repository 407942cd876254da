"""Which registers an instruction writes and reads, as far as its text says."""

from __future__ import annotations

from collections.abc import Collection

from fuzzvm.litmus.program import Instruction, Memory, Name, Operand, Thread

_NO_TARGET = frozenset({"B", "CBZ", "CBNZ", "NOP", "ISB", "DMB", "DSB", "DC", "IC", "STR", "STLR", "CMP"})
_FIRST = frozenset(
    {"LDR", "LDAR", "LDAPR", "LDXR", "LDAXR", "MOV", "MOVZ", "SXTW", "UXTW", "ADR", "CSEL", "CSINC", "CSET"}
    | {"ADD", "SUB", "AND", "ORR", "EOR", "BIC", "ORN", "EON", "LSL", "LSR", "CAS", "CASA", "CASL", "CASAL"}
    | {"STXR", "STLXR"}
)
_SECOND = frozenset({"SWP", "SWPA", "SWPL", "SWPAL"})
_BOTH = frozenset({"CAS", "CASA", "CASL", "CASAL"})
"""The first operand is read and written."""
_BRANCHES = frozenset({"B", "BL", "BLR", "BR", "CBZ", "CBNZ", "RET", "ERET"})


def written(instruction: Instruction) -> set[int]:
    """Return the registers that an instruction may write, or more."""
    mnemonic, _, _ = instruction.mnemonic.partition(".")
    operands = instruction.operands
    written = {
        _number(operand.base) for operand in operands if isinstance(operand, Memory) and _moves(operand, operands)
    }
    if mnemonic in _FIRST:
        written.add(_register(operands[0]))
    elif mnemonic in _SECOND:
        written.add(_register(operands[1]))
    elif mnemonic not in _NO_TARGET:
        written.update(map(_register, operands))
    return {number for number in written if number is not None}


def _moves(operand: Memory, operands: tuple[Operand, ...]) -> bool:
    """Return whether the base register is written back: `!` behind the brackets, or an offset after them."""
    return operand.writeback or operands[-1] is not operand


def _register(operand: Operand) -> int | None:
    return _number(operand.text) if isinstance(operand, Name) else None


def _number(text: str) -> int | None:
    return int(text[1:]) if text[:1].upper() in ("W", "X") and text[1:].isdigit() else None


def _read(instruction: Instruction) -> set[int]:
    """Return the registers that an instruction may read, or more."""
    operands: Collection[Operand] = instruction.operands
    if instruction.mnemonic in _FIRST - _BOTH:
        operands = instruction.operands[1:]
    named: set[int | None] = set()
    for operand in operands:
        named.add(_register(operand))
        if isinstance(operand, Memory):
            named.update((_number(operand.base), *map(_register, operand.rest)))
    return {number for number in named if number is not None}


def is_read_after(thread: Thread, index: int, register: int) -> bool:
    """Return whether what an instruction of a thread leaves in a register may be read, by an instruction."""
    places = set(thread.labels.values())
    for following in range(index + 1, len(thread.code)):
        instruction = thread.code[following]
        if following in places or instruction.mnemonic.partition(".")[0] in _BRANCHES:
            # what comes next may be decided by a branch, or by a patch of what is at the label
            return any(register in _read(other) for other in thread.code)
        if register in _read(instruction):
            return True
        if register in written(instruction):
            return False
    return False
