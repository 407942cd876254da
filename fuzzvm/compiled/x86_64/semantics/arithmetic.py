"""Arithmetic and logic: results, and flags as exact as the architecture has them (Intel SDM vol. 2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from fuzzvm.compiled.isa.effects import Effect, Kind
from fuzzvm.compiled.isa.expressions import Choose, Constant, Expression, Local, Response, Slot, apply
from fuzzvm.compiled.x86_64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.x86_64.registers import AF, CF, OF, RAX, RCX, RDX, TEMP
from fuzzvm.compiled.x86_64.semantics.common import (
    ONE,
    POISON,
    ZERO,
    At,
    Builder,
    Flags,
    address,
    assign_flags,
    difference_flags,
    every_flag,
    flag,
    keep,
    load,
    locked,
    logic_flags,
    mask,
    named,
    read,
    result_flags,
    store,
    sum_flags,
    width,
    write,
)

Binary = Callable[[Expression, Expression, int], tuple[Expression, Flags]]
"""Returns result and flags, given two operands and their size in bytes."""
Unary = Callable[[Expression, int], tuple[Expression, Flags]]


def _add(left: Expression, right: Expression, size: int) -> tuple[Expression, Flags]:
    return _counted(left, right, apply("{0} + {1}", left, right), size, sum_flags)


def _adc(left: Expression, right: Expression, size: int) -> tuple[Expression, Flags]:
    return _counted(left, right, apply("{0} + {1} + {2}", left, right, flag(CF)), size, sum_flags)


def _sub(left: Expression, right: Expression, size: int) -> tuple[Expression, Flags]:
    return _counted(left, right, apply("{0} - {1}", left, right), size, difference_flags)


def _sbb(left: Expression, right: Expression, size: int) -> tuple[Expression, Flags]:
    return _counted(left, right, apply("{0} - {1} - {2}", left, right, flag(CF)), size, difference_flags)


def _counted(
    left: Expression,
    right: Expression,
    total: Expression,
    size: int,
    flags: Callable[[Expression, Expression, Expression, Expression, int], Flags],
) -> tuple[Expression, Flags]:
    total = named("total", total)
    result = named("result", apply(f"{{0}} & {mask(size):#x}", total))
    return result, flags(left, right, total, result, size)


def _logic(left: Expression, right: Expression, size: int, *, operator: str) -> tuple[Expression, Flags]:
    result = named("result", apply(f"{{0}} {operator} {{1}}", left, right))
    return result, logic_flags(result, size)


_BINARY: dict[str, Binary] = {
    "add": _add,
    "adc": _adc,
    "sub": _sub,
    "sbb": _sbb,
    "and": partial(_logic, operator="&"),
    "or": partial(_logic, operator="|"),
    "xor": partial(_logic, operator="^"),
}
_TESTS: dict[str, Binary] = {"cmp": _sub, "test": partial(_logic, operator="&")}
"""What writes flags only."""
_ATOMIC = {"add": "add", "sub": "add", "and": "and", "or": "set", "xor": "eor"}
"""What the locked form of an instruction asks of the memory system."""


def _same(operands: tuple[Operand, ...]) -> bool:
    """Return whether the result depends on no operand: XOR and SUB of a register with itself."""
    return len(operands) == 2 and operands[0] == operands[1]


def _binary(operands: tuple[Operand, ...], at: At, *, name: str, writes: bool) -> tuple[Effect, ...]:
    compute = (_BINARY if writes else _TESTS)[name]
    size = width(*operands)
    result: Expression
    flags: Flags
    match operands:
        case [Register() as target, Register() | Immediate() as source]:
            if name in ("xor", "sub") and _same(operands):
                result, flags = ZERO, {**logic_flags(ZERO, size), AF: POISON if name == "xor" else ZERO}
            else:
                left, right = named("lhs", read(target, size)), named("rhs", read(source, size))
                result, flags = compute(left, right, size)
            return (Effect((*((write(target, result),) if writes else ()), *assign_flags(flags))),)
        case [Register() as target, Memory() as source]:
            result, flags = compute(named("lhs", read(target, size)), Response(), size)
            changed = (write(target, result),) if writes else ()
            return (Effect((*changed, *assign_flags(flags)), request=load(source, at)),)
        case [Memory() as target, Register() | Immediate() as source]:
            right = named("rhs", read(source, size))
            if not writes:
                _, flags = compute(Response(), right, size)
                return (Effect(assign_flags(flags), request=load(target, at)),)
            result, flags = compute(Slot(TEMP), right, size)
            return keep(target, at), Effect(assign_flags(flags), request=store(target, at, result))
    raise OperandError("operands")


def _locked(operands: tuple[Operand, ...], at: At, *, name: str) -> tuple[Effect, ...]:
    match operands:
        case [Memory() as target, Register() | Immediate() as source]:
            size = width(*operands)
            right = named("rhs", read(source, size))
            _, flags = _BINARY[name](Response(), right, size)
            operand = apply(f"-{{0}} & {mask(size):#x}", right) if name == "sub" else right
            request = locked(Kind.ATOMIC, target, at, operand, operation=_ATOMIC[name])
            return (Effect(assign_flags(flags), request=request),)
    raise OperandError("operands")


# one operand


def _inc(value: Expression, size: int) -> tuple[Expression, Flags]:
    result, flags = _add(value, ONE, size)
    return result, {slot: each for slot, each in flags.items() if slot != CF}


def _dec(value: Expression, size: int) -> tuple[Expression, Flags]:
    result, flags = _sub(value, ONE, size)
    return result, {slot: each for slot, each in flags.items() if slot != CF}


def _neg(value: Expression, size: int) -> tuple[Expression, Flags]:
    return _sub(ZERO, value, size)


def _not(value: Expression, size: int) -> tuple[Expression, Flags]:
    return apply(f"{{0}} ^ {mask(size):#x}", value), {}


def modify(target: Operand, at: At, compute: Unary) -> tuple[Effect, ...]:
    """Return the effects of an instruction that changes one operand. Raises OperandError."""
    match target:
        case Register(size=size):
            result, flags = compute(named("lhs", read(target, size)), size)
            return (Effect((write(target, result), *assign_flags(flags))),)
        case Memory(size=size) if size:
            result, flags = compute(Slot(TEMP), size)
            return keep(target, at), Effect(assign_flags(flags), request=store(target, at, result))
    raise OperandError("operands")


def _unary(operands: tuple[Operand, ...], at: At, *, compute: Unary) -> tuple[Effect, ...]:
    match operands:
        case [target]:
            return modify(target, at, compute)
    raise OperandError("operands")


def _locked_step(operands: tuple[Operand, ...], at: At, *, compute: Unary, step: int) -> tuple[Effect, ...]:
    match operands:
        case [Memory(size=size) as target] if size:
            _, flags = compute(Response(), size)
            request = locked(Kind.ATOMIC, target, at, Constant(step & mask(size)), operation="add")
            return (Effect(assign_flags(flags), request=request),)
    raise OperandError("operands")


# shifts


def _shift(operands: tuple[Operand, ...], at: At, *, name: str) -> tuple[Effect, ...]:
    match operands:
        case [target, Immediate(value)] if not isinstance(target, Immediate):
            count = value & (63 if target.size == 8 else 31)
            if count >= 8 * target.size:
                raise OperandError("count")
            return modify(target, at, partial(_shifted, count=Constant(count), name=name))
        case [target]:
            return modify(target, at, partial(_shifted, count=ONE, name=name))
        case [target, Register(slot=slot, size=1, shift=0)] if slot == RCX and not isinstance(target, Immediate):
            if target.size < 4:
                raise OperandError("count")
            count_mask = 63 if target.size == 8 else 31
            by = Local("count", apply(f"{{0}} & {count_mask}", Slot(RCX)))
            return modify(target, at, partial(_shifted, count=by, name=name))
    raise OperandError("operands")


def _shifted(value: Expression, size: int, *, count: Expression, name: str) -> tuple[Expression, Flags]:
    """Return what SHL, SHR or SAR makes of a value; by 0 no flag changes, and OF is defined for 1 only."""
    bits = 8 * size
    signed = named("number", apply(f"signed({{0}}, {bits})", value)) if name == "sar" else value
    if name == "shl":
        result = named("result", apply(f"{{0}} << {{1}} & {mask(size):#x}", value, count))
        carry = apply(f"{{0}} >> ({bits} - {{1}}) & 1", value, count)
        overflow = apply(f"({{0}} >> {bits - 1}) ^ {{1}}", result, carry)
    else:
        result = named("result", apply(f"{{0}} >> {{1}} & {mask(size):#x}", signed, count))
        carry = apply("{0} >> ({1} - 1) & 1", signed, count) if count != ZERO else ZERO
        overflow = ZERO if name == "sar" else apply(f"{{0}} >> {bits - 1}", value)
    if count == ZERO:
        return result, {}
    flags: dict[int, Expression] = {**result_flags(result, size), CF: carry, AF: POISON}
    if isinstance(count, Constant):
        return result, {**flags, OF: overflow if count.value == 1 else POISON}
    flags[OF] = Choose(apply("{0} == 1", count), overflow, POISON)
    return result, {slot: Choose(count, each, Slot(slot)) for slot, each in flags.items()}


# products


def _imul(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, source]:
            left: Expression = read(target, target.size)
        case [Register() as target, source, Immediate() as factor]:
            left = read(factor, target.size)
        case _:
            raise OperandError("operands")
    size = width(target, source)
    if size == 1:
        raise OperandError("width")
    right = Response() if isinstance(source, Memory) else read(source, size)
    bits = 8 * size
    product = named("product", apply(f"signed({{0}}, {bits}) * signed({{1}}, {bits})", left, right))
    result = named("result", apply(f"{{0}} & {mask(size):#x}", product))
    lost = apply(f"0 if signed({{0}}, {bits}) == {{1}} else 1", result, product)
    flags = {**every_flag(POISON), CF: lost, OF: lost}
    request = load(source, at) if isinstance(source, Memory) else None
    return (Effect((write(target, result), *assign_flags(flags)), request=request),)


def _wide(operands: tuple[Operand, ...], at: At, *, divides: bool) -> tuple[Effect, ...]:
    """Return the effect of MUL, into RDX and RAX, or of DIV by an operand."""
    match operands:
        case [Register() | Memory() as source] if source.size >= 4:
            size = source.size
        case _:
            raise OperandError("operands")
    bits = 8 * size
    low, high = Register(RAX, size), Register(RDX, size)
    value = Response() if isinstance(source, Memory) else read(source, size)
    request = load(source, at) if isinstance(source, Memory) else None
    flags: Flags
    if divides:
        dividend = named("whole", apply(f"{{0}} << {bits} | {{1}}", read(high, size), read(low, size)))
        first = named("result", apply(f"quotient({{0}}, {{1}}, {bits})", dividend, value))
        second = apply("{0} - {1} * {2}", dividend, first, value)
        flags = every_flag(POISON)
    else:
        whole = named("whole", apply("{0} * {1}", read(low, size), value))
        first, second = apply(f"{{0}} & {mask(size):#x}", whole), named("result", apply(f"{{0}} >> {bits}", whole))
        lost = apply("1 if {0} else 0", second)
        flags = {**every_flag(POISON), CF: lost, OF: lost}
    return (Effect((write(low, first), write(high, second), *assign_flags(flags)), request=request),)


def _extend_accumulator(
    operands: tuple[Operand, ...], at: At, *, target: int, size: int, half: int
) -> tuple[Effect, ...]:
    """Return the effect of CBW, CWDE, CDQE (into RAX) and of CDQ, CQO (the sign into RDX)."""
    if operands:
        raise OperandError("operands")
    value = apply(f"{{0}} & {mask(half):#x}", Slot(RAX)) if half < 8 else Slot(RAX)
    shift = f" >> {8 * half}" if target == RDX else ""
    wide = apply(f"signed({{0}}, {8 * half}){shift} & {mask(size):#x}", value)
    return (Effect((write(Register(target, size), wide),)),)


def _lea(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, Memory(segment="") as memory] if target.size >= 2:
            value = address(memory, at)
            return (
                Effect(
                    (write(target, value if target.size == 8 else apply(f"{{0}} & {mask(target.size):#x}", value)),)
                ),
            )
    raise OperandError("operands")


BUILDERS: dict[str, Builder] = {
    **{name: partial(_binary, name=name, writes=True) for name in _BINARY},
    **{name: partial(_binary, name=name, writes=False) for name in _TESTS},
    **{f"lock {name}": partial(_locked, name=name) for name in _ATOMIC},
    **{
        name: partial(_unary, compute=compute)
        for name, compute in (("inc", _inc), ("dec", _dec), ("neg", _neg), ("not", _not))
    },
    "lock inc": partial(_locked_step, compute=_inc, step=1),
    "lock dec": partial(_locked_step, compute=_dec, step=-1),
    **{name: partial(_shift, name=name) for name in ("shl", "shr", "sar")},
    "sal": partial(_shift, name="shl"),
    "imul": _imul,
    "mul": partial(_wide, divides=False),
    "div": partial(_wide, divides=True),
    "cbw": partial(_extend_accumulator, target=RAX, size=2, half=1),
    "cwde": partial(_extend_accumulator, target=RAX, size=4, half=2),
    "cdqe": partial(_extend_accumulator, target=RAX, size=8, half=4),
    "cdq": partial(_extend_accumulator, target=RDX, size=4, half=4),
    "cqo": partial(_extend_accumulator, target=RDX, size=8, half=8),
    "lea": _lea,
}
