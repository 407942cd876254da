"""Operands of AArch64 instructions: registers, immediates, extended registers, addresses."""

from __future__ import annotations

import re
from collections.abc import Callable

from fuzzvm.litmus.encoding import MASK32, MASK64, is_address
from fuzzvm.litmus.entries import is_entry
from fuzzvm.litmus.program import Immediate, Instruction, LitmusError, Memory, Name, Operand, Shift
from fuzzvm.litmus.state import LINK, ZERO, Register, ThreadRun

_REGISTER = re.compile(r"([WX])(\d{1,2}|ZR)", re.ASCII)


def unsupported(instruction: Instruction) -> LitmusError:
    """Return the error that refuses an instruction."""
    return LitmusError(f"unsupported instruction {instruction}", instruction.line)


def register(operand: Operand, instruction: Instruction) -> tuple[int | None, int]:
    """Return (number, mask) of a register operand; the number of WZR and XZR is None."""
    if isinstance(operand, Name):
        match = _REGISTER.fullmatch(operand.text.upper())
        if match is not None:
            mask = MASK32 if match[1] == "W" else MASK64
            if match[2] == "ZR":
                return None, mask
            if int(match[2]) <= LINK:
                return int(match[2]), mask
    raise unsupported(instruction)


def check_widths(operands: tuple[Operand, ...], instruction: Instruction) -> None:
    """Raise LitmusError where operands that are bare registers are not all of one width."""
    names = [operand.text.upper() for operand in operands if isinstance(operand, Name)]
    if len({name[0] for name in names if _REGISTER.fullmatch(name)}) > 1:
        raise unsupported(instruction)


def read(number: int | None, mask: int, instruction: Instruction) -> Callable[[ThreadRun], Register]:
    """Return a function that reads a register for an instruction.

    The function raises LitmusError where 32 bits of an address are asked for: what they are is not known.
    """
    if number is None:
        return lambda run: ZERO
    if mask == MASK64:
        return lambda run: run.registers[number]

    def read32(run: ThreadRun) -> Register:
        value, view, pick = run.registers[number]
        if value > mask and (is_address(value) or is_entry(value)):
            raise LitmusError(f"{instruction} takes 32 bits of an address", instruction.line)
        return value & mask, view, pick

    return read32


def extend(kind: str, amount: int, instruction: Instruction) -> Callable[[int], int]:
    """Return the function of an extension or shift of a register operand."""
    bits = {"SXTW": 32, "SXTH": 16, "SXTB": 8}
    masks = {"UXTW": MASK32, "UXTH": 0xFFFF, "UXTB": 0xFF, "LSL": MASK64, "UXTX": MASK64, "SXTX": MASK64}
    if kind in bits:
        sign = 1 << (bits[kind] - 1)
        low = (sign << 1) - 1
        return lambda value: (((value & low) ^ sign) - sign << amount) & MASK64
    if kind in masks:
        mask = masks[kind]
        return lambda value: ((value & mask) << amount) & MASK64
    if kind == "LSR":
        return lambda value: value >> amount
    raise unsupported(instruction)


def source(operands: tuple[Operand, ...], instruction: Instruction) -> Callable[[ThreadRun], Register]:
    """Return the reader of a last operand: immediate, register, or register with extension."""
    first = operands[0]
    number = first.value if isinstance(first, Immediate) else None
    if number is not None:
        if len(operands) == 2 and isinstance(operands[1], Shift) and operands[1].kind == "LSL":
            number <<= operands[1].amount
        elif len(operands) > 1:
            raise unsupported(instruction)
        if is_address(number & MASK64):
            raise LitmusError(f"a number of {instruction} stands for an address here", instruction.line)
        constant = (number & MASK64, 0, 0)
        return lambda run: constant
    get = read(*register(first, instruction), instruction)
    if len(operands) == 1:
        return get
    if len(operands) > 2:
        raise unsupported(instruction)
    modifier = operands[1]
    if isinstance(modifier, Shift):
        change = extend(modifier.kind, modifier.amount, instruction)
    elif isinstance(modifier, Name):
        change = extend(modifier.text.upper(), 0, instruction)
    else:
        raise unsupported(instruction)

    def extended(run: ThreadRun) -> Register:
        value, view, pick = get(run)
        return change(value), view, pick

    return extended


def base(operand: Operand, instruction: Instruction) -> Callable[[ThreadRun], Register]:
    """Return the reader of an address operand without offset, as atomics and exclusives have it."""
    if isinstance(operand, Memory) and not operand.writeback and operand.rest in ((), (Immediate(0),)):
        number, mask = register(Name(operand.base), instruction)
        if mask == MASK64:
            return read(number, mask, instruction)
    raise unsupported(instruction)


def address(
    operands: tuple[Operand, ...], instruction: Instruction
) -> tuple[Callable[[ThreadRun], Register], Callable[[ThreadRun], None] | None]:
    """Return the reader of a load's or store's address, and what writes the base register back, if anything does."""
    memory = operands[0]
    if not isinstance(memory, Memory):
        raise unsupported(instruction)
    number, mask = register(Name(memory.base), instruction)
    if mask != MASK64:
        raise unsupported(instruction)
    get = read(number, mask, instruction)
    if len(operands) > 2 or (len(operands) == 2 and (memory.rest or memory.writeback)):
        raise unsupported(instruction)
    if len(operands) == 2:
        return get, _write_back(number, operands[1], instruction)
    if not memory.rest:
        return get, None
    offset = source(memory.rest, instruction)

    def indexed(run: ThreadRun) -> Register:
        a, view, pick = get(run)
        b, view2, pick2 = offset(run)
        return (a + b) & MASK64, max(view, view2), max(pick, pick2)

    return indexed, _write_back(number, memory.rest[0], instruction) if memory.writeback else None


def _write_back(number: int | None, operand: Operand, instruction: Instruction) -> Callable[[ThreadRun], None]:
    if not isinstance(operand, Immediate) or number is None:
        raise unsupported(instruction)
    amount = operand.value

    def write_back(run: ThreadRun) -> None:
        value, view, pick = run.registers[number]
        run.registers[number] = ((value + amount) & MASK64, view, pick)

    return write_back
