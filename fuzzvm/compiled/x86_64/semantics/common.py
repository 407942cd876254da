"""What the semantics of all kinds of instructions share: operands, flags, conditions, accesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from fuzzvm.compiled.isa.effects import Assignment, Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Constant, Expression, Local, Response, Slot, apply
from fuzzvm.compiled.isa.slots import MASK64
from fuzzvm.compiled.x86_64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.x86_64.registers import AF, CF, FLAGS, GS_BASE, NAMES, OF, PF, SF, TEMP, UNDEFINED, ZF
from fuzzvm.machine.ops import Order


class At(NamedTuple):
    """Where an instruction stands, and where the next one does."""

    address: int
    following: int


Builder: TypeAlias = Callable[[tuple[Operand, ...], At], tuple[Effect, ...]]
"""Builds the effects of an instruction's steps. Raises OperandError."""

Flags: TypeAlias = Mapping[int, Expression]
"""The flags that an instruction writes."""

POISON = Constant(UNDEFINED)
ONE, ZERO = Constant(1), Constant(0)
_PARITY = sum((bin(byte).count("1") % 2 == 0) << byte for byte in range(256))
"""Bit n says whether n has an even number of bits."""


def mask(size: int) -> int:
    """Return the largest number of so many bytes."""
    return (1 << 8 * size) - 1


def named(name: str, value: Expression) -> Expression:
    """Return a value that is used more than once; `name` is unique within one instruction."""
    return value if isinstance(value, Constant | Slot) else Local(name, value)


def address(memory: Memory, at: At) -> Expression:
    """Return the address of a memory operand."""
    found: Expression = Constant((memory.displacement + (at.following if memory.rip else 0)) & MASK64)
    if memory.base is not None:
        found = _plus(Slot(memory.base), found)
    if memory.index is not None:
        index = Slot(memory.index)
        found = _plus(index if memory.scale == 1 else apply(f"{{0}} * {memory.scale}", index), found)
    return _plus(Slot(GS_BASE), found) if memory.segment else found


def _plus(first: Expression, second: Expression) -> Expression:
    return first if second == ZERO and isinstance(first, Slot) else apply(f"{{0}} + {{1}} & {MASK64:#x}", first, second)


def read(operand: Operand, size: int) -> Expression:
    """Return the value of a register or number of so many bytes. Raises OperandError for memory, and another size."""
    match operand:
        case Immediate(value):
            return Constant(value & mask(size))
        case Register(slot, bytes_, shift) if bytes_ == size:
            if size == 8:
                return Slot(slot)
            if shift:
                return apply(f"{{0}} >> {shift} & {mask(size):#x}", Slot(slot))
            return apply(f"{{0}} & {mask(size):#x}", Slot(slot))
    raise OperandError("operand")


def write(register: Register, value: Expression) -> Assignment:
    """Return the assignment of a value: 4 bytes clear the rest of the register, 1 and 2 leave it."""
    if register.size >= 4:
        return Assignment(register.slot, value)
    kept = MASK64 ^ mask(register.size) << register.shift
    shifted = f" << {register.shift}" if register.shift else ""
    return Assignment(register.slot, apply(f"{{0}} & {kept:#x} | {{1}}{shifted}", Slot(register.slot), value))


def assign_flags(flags: Flags) -> tuple[Assignment, ...]:
    """Return the assignments of flags."""
    return tuple(Assignment(slot, value) for slot, value in flags.items())


def load(memory: Memory, at: At) -> Request:
    """Return the load of a memory operand. Raises OperandError where the text does not say how large it is."""
    if not memory.size:
        raise OperandError("size")
    return Request(Kind.LOAD, address(memory, at), memory.size)


def store(memory: Memory, at: At, value: Expression) -> Request:
    """Return the store of a value."""
    if not memory.size:
        raise OperandError("size")
    return Request(Kind.STORE, address(memory, at), memory.size, values=(value,))


def locked(
    kind: Kind,
    memory: Memory,
    at: At,
    value: Expression,
    *,
    operation: str = "",
    expected: Expression | None = None,
    where: Expression | None = None,
) -> Request:
    """Return a locked access, which is a full barrier; `where` is its address if that is not the operand's."""
    return Request(
        kind,
        address(memory, at) if where is None else where,
        memory.size,
        values=(value,),
        expected=() if expected is None else (expected,),
        order=Order.ACQUIRE_RELEASE,
        operation=operation,
        full_barrier=True,
    )


def keep(memory: Memory, at: At) -> Effect:
    """Return the first step of an instruction that reads memory and accesses it again: the value is in TEMP then."""
    return Effect((Assignment(TEMP, Response()),), request=load(memory, at))


def width(*operands: Operand) -> int:
    """Return the size of an instruction's operands in bytes. Raises OperandError where they differ in it."""
    sizes = {one.size for one in operands if not isinstance(one, Immediate)}
    if len(sizes) != 1 or 0 in sizes:
        raise OperandError("operands of different width")
    return sizes.pop()


# flags


def result_flags(result: Expression, size: int) -> dict[int, Expression]:
    """Return the flags that follow from a result alone."""
    return {
        PF: apply(f"{_PARITY:#x} >> ({{0}} & 255) & 1", result),
        ZF: apply("0 if {0} else 1", result),
        SF: apply(f"{{0}} >> {8 * size - 1}", result),
    }


def sum_flags(left: Expression, right: Expression, total: Expression, result: Expression, size: int) -> Flags:
    """Return the flags of an addition; `total` is the sum as a number."""
    bits = 8 * size
    return {
        **result_flags(result, size),
        CF: apply(f"{{0}} >> {bits}", total),
        AF: apply("({0} ^ {1} ^ {2}) >> 4 & 1", left, right, result),
        OF: apply(f"(({{0}} ^ {{2}}) & ({{1}} ^ {{2}})) >> {bits - 1}", left, right, result),
    }


def difference_flags(left: Expression, right: Expression, total: Expression, result: Expression, size: int) -> Flags:
    """Return the flags of a subtraction; `total` is the difference as a number, which may be negative."""
    bits = 8 * size
    return {
        **result_flags(result, size),
        CF: apply(f"{{0}} >> {bits} & 1", total),
        AF: apply("({0} ^ {1} ^ {2}) >> 4 & 1", left, right, result),
        OF: apply(f"(({{0}} ^ {{1}}) & ({{0}} ^ {{2}})) >> {bits - 1}", left, right, result),
    }


def logic_flags(result: Expression, size: int) -> Flags:
    """Return the flags of AND, OR, XOR and TEST."""
    return {**result_flags(result, size), CF: ZERO, OF: ZERO, AF: POISON}


def flag(slot: int) -> Expression:
    """Return a flag; where it is undefined, reading it ends the run."""
    return apply(f"({{0}} if {{0}} < {UNDEFINED} else undefined_flag({NAMES[slot]!r}))", Slot(slot))


def every_flag(value: Expression) -> dict[int, Expression]:
    """Return all flags with one value."""
    return dict.fromkeys(FLAGS, value)


def _inverse(expression: Expression) -> Expression:
    return apply("{0} ^ 1", expression)


def _conditions() -> dict[str, Expression]:
    less = apply("{0} ^ {1}", flag(SF), flag(OF))
    found = {
        "o": flag(OF),
        "b": flag(CF),
        "e": flag(ZF),
        "be": apply("{0} | {1}", flag(CF), flag(ZF)),
        "s": flag(SF),
        "p": flag(PF),
        "l": less,
        "le": apply("{0} | {1}", flag(ZF), less),
    }
    opposites = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}
    return found | {name: _inverse(found[opposite]) for name, opposite in opposites.items()}


CONDITIONS = _conditions()
"""What the suffixes of Jcc, CMOVcc and SETcc stand for, 0 or 1 (Intel SDM vol. 1 appendix B)."""
