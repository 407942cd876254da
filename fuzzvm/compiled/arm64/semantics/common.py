"""What the semantics of all kinds of instructions share: reading and writing registers, masks, conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from fuzzvm.compiled.arm64.operands import Extension, Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import FLAGS, MASK32, MASK64
from fuzzvm.compiled.isa.effects import Assignment, Effect
from fuzzvm.compiled.isa.expressions import ZERO, Constant, Expression, Slot, apply

Builder: TypeAlias = Callable[[tuple[Operand, ...], int], Effect]
"""Builds an effect from operands and the address of the instruction. Raises OperandError."""

_CONDITIONS = ("eq", "hs", "mi", "vs", "hi", "ge", "gt", "al")
_INVERSES = {"ne": "eq", "lo": "hs", "pl": "mi", "vc": "vs", "ls": "hi", "lt": "ge", "le": "gt"}


def _holds(name: str, flags: int) -> bool:
    """Return whether one of `_CONDITIONS` holds (Arm ARM C1.2.4)."""
    n, z, c, v = (bool(flags & bit) for bit in (8, 4, 2, 1))
    values = {"eq": z, "hs": c, "mi": n, "vs": v, "hi": c and not z, "ge": n == v, "gt": n == v and not z, "al": True}
    return values[name]


TRUTH = {name: sum(_holds(name, flags) << flags for flags in range(16)) for name in _CONDITIONS}
"""For each condition the integer whose bit n says whether it holds with flags n."""
TRUTH |= {inverse: TRUTH[name] ^ 0xFFFF for inverse, name in _INVERSES.items()}
# "never" is executed as "always" (Arm ARM C1.2.4)
TRUTH["nv"] = TRUTH["al"]


def condition(name: str, *, inverted: bool = False) -> Expression:
    """Return the expression of a condition, 0 or 1. Raises OperandError if there is none of that name.

    `inverted`: the opposite condition, as aliases such as CSET stand for it.
    """
    if name not in TRUTH or (inverted and name in ("al", "nv")):
        raise OperandError(name)
    return apply(f"{TRUTH[name] ^ (0xFFFF if inverted else 0):#x} >> {{0}} & 1", Slot(FLAGS))


def mask(bits: int) -> int:
    """Return the largest number of so many bits."""
    return (1 << bits) - 1


def read(register: Register) -> Expression:
    """Return what an instruction reads from a register: 0 from the zero register, the low half of a W register."""
    if register.slot is None:
        return ZERO
    value = Slot(register.slot)
    return value if register.bits == 64 else apply(f"{{0}} & {MASK32:#x}", value)


def read_low(register: Register, bits: int) -> Expression:
    """Return the low bits of a register."""
    if register.slot is None:
        return ZERO
    value = Slot(register.slot)
    return value if bits == 64 else apply(f"{{0}} & {mask(bits):#x}", value)


def write(register: Register, value: Expression) -> tuple[Assignment, ...]:
    """Return the assignments of a value that fits the register's width; none for the zero register."""
    return () if register.slot is None else (Assignment(register.slot, value),)


def assign(register: Register, value: Expression) -> Effect:
    """Return the effect of an instruction that only writes one register."""
    return Effect(write(register, value))


def same_width(*registers: Register) -> int:
    """Return the width of registers in bits. Raises OperandError if they differ in it."""
    (bits,) = widths if len(widths := {register.bits for register in registers}) == 1 else (0,)
    if not bits:
        raise OperandError("registers of different width")
    return bits


def shifted(value: Expression, extension: Extension, bits: int) -> Expression:
    """Return a value of so many bits, shifted as an operand's `lsl`, `lsr`, `asr` or `ror` says."""
    kind, amount = extension.kind, extension.amount
    if not 0 <= amount < bits:
        raise OperandError(f"{kind} #{amount}")
    if kind == "lsl":
        return apply(f"{{0}} << {amount} & {mask(bits):#x}", value)
    if kind == "lsr":
        return apply(f"{{0}} >> {amount}", value)
    if kind == "asr":
        sign = 1 << (bits - 1)
        return apply(f"({{0}} ^ {sign:#x}) - {sign:#x} >> {amount} & {mask(bits):#x}", value)
    if kind == "ror":
        return apply(f"({{0}} >> {amount} | {{0}} << {bits - amount}) & {mask(bits):#x}", value)
    raise OperandError(kind)


def extended(register: Register, extension: Extension, bits: int) -> Expression:
    """Return a register extended to so many bits and shifted left, as `uxtb` to `sxtx` with an amount say."""
    sizes = {"b": 8, "h": 16, "w": 32, "x": 64}
    if extension.kind[1:-1] != "xt" or not 0 <= extension.amount <= 4:
        raise OperandError(extension.kind)
    low = min(sizes[extension.kind[-1]], bits)
    if (low == 64) != (register.bits == 64):
        raise OperandError(extension.kind)
    value = read_low(register, low)
    if extension.kind[0] == "s" and low < bits:
        sign = 1 << (low - 1)
        return apply(f"({{0}} ^ {sign:#x}) - {sign:#x} << {extension.amount} & {mask(bits):#x}", value)
    return apply(f"{{0}} << {extension.amount} & {mask(bits):#x}", value) if extension.amount else value


def address(memory: Memory, size: int) -> Expression:
    """Return the address of a memory operand, `size` bytes being accessed.

    A register offset is shifted by nothing or by the logarithm of the size; other forms raise OperandError.
    """
    assert memory.base.slot is not None
    base = Slot(memory.base.slot)
    match memory.offset:
        case None:
            return base
        case Immediate(value):
            return offset(base, value)
        case Register() as register:
            kind = memory.extension or Extension("lsl", 0)
            if 1 << kind.amount not in (1, size):
                raise OperandError(f"{kind.kind} #{kind.amount}")
            if kind.kind == "lsl" and register.bits == 64:
                index = shifted(read(register), kind, 64)
            elif kind.kind in ("uxtw", "sxtw", "sxtx"):
                index = extended(register, kind, 64)
            else:
                raise OperandError(kind.kind)
            return apply(f"{{0}} + {{1}} & {MASK64:#x}", base, index)


def offset(base: Expression, value: int) -> Expression:
    """Return base plus a constant, modulo 2**64."""
    return apply(f"{{0}} + {{1}} & {MASK64:#x}", base, Constant(value)) if value else base
