"""Moves, exchanges and string instructions (Intel SDM vol. 2)."""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.isa.effects import Assignment, Branch, Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Choose, Constant, Response, Slot, apply
from fuzzvm.compiled.isa.slots import MASK64
from fuzzvm.compiled.x86_64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.x86_64.registers import RAX, RCX, RDI, RSI, TEMP
from fuzzvm.compiled.x86_64.semantics.common import (
    At,
    Builder,
    assign_flags,
    difference_flags,
    load,
    locked,
    mask,
    named,
    read,
    store,
    sum_flags,
    width,
    write,
)


def _mov(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, Register() | Immediate() as source]:
            return (Effect((write(target, read(source, width(*operands))),)),)
        case [Register() as target, Memory() as source] if target.size == source.size:
            return (Effect((write(target, Response()),), request=load(source, at)),)
        case [Memory() as target, Register() | Immediate() as source]:
            return (Effect(request=store(target, at, read(source, width(*operands)))),)
    raise OperandError("operands")


def _movabs(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register(size=8), Immediate()]:
            return _mov(operands, at)
    raise OperandError("operands")


def _extend(operands: tuple[Operand, ...], at: At, *, signed: bool) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, Register() | Memory() as source] if 0 < source.size < target.size:
            value = Response() if isinstance(source, Memory) else read(source, source.size)
            if signed:
                value = apply(f"signed({{0}}, {8 * source.size}) & {mask(target.size):#x}", value)
            request = load(source, at) if isinstance(source, Memory) else None
            return (Effect((write(target, value),), request=request),)
    raise OperandError("operands")


def _xchg(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register() as first, Register() as second]:
            size = width(first, second)
            if first.slot == second.slot:
                raise OperandError("operands")
            return (Effect((write(first, read(second, size)), write(second, read(first, size)))),)
        case [Memory() as memory, Register() as register] | [Register() as register, Memory() as memory]:
            # locked, with the prefix and without
            value = read(register, width(memory, register))
            request = locked(Kind.ATOMIC, memory, at, value, operation="swp")
            return (Effect((write(register, Response()),), request=request),)
    raise OperandError("operands")


def _xadd(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Memory() as memory, Register() as register]:
            size = width(memory, register)
            right = named("rhs", read(register, size))
            total = named("total", apply("{0} + {1}", Response(), right))
            result = named("result", apply(f"{{0}} & {mask(size):#x}", total))
            flags = sum_flags(Response(), right, total, result, size)
            request = locked(Kind.ATOMIC, memory, at, right, operation="add")
            return (Effect((write(register, Response()), *assign_flags(flags)), request=request),)
    raise OperandError("operands")


def _cmpxchg(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Memory() as memory, Register() as register]:
            size = width(memory, register)
            accumulator = Register(RAX, size)
            expected = named("lhs", read(accumulator, size))
            total = named("total", apply("{0} - {1}", expected, Response()))
            result = named("result", apply(f"{{0}} & {mask(size):#x}", total))
            flags = difference_flags(expected, Response(), total, result, size)
            request = locked(Kind.COMPARE_AND_SWAP, memory, at, read(register, size), expected=read(accumulator, size))
            failed = write(accumulator, Response())
            kept = Assignment(RAX, Choose(result, failed.value, Slot(RAX)))
            return (Effect((kept, *assign_flags(flags)), request=request),)
    raise OperandError("operands")


# strings; the direction flag is clear, as the ABI has it


def _repeats(at: At) -> Effect:
    """Return the first step of a repeated instruction: go on behind it where the count is 0."""
    done = apply("0 if {0} else 1", Slot(RCX))
    return Effect(branch=Branch(Constant(at.following), done))


def _advance(size: int, *registers: int) -> tuple[Assignment, ...]:
    moved = tuple(Assignment(slot, apply(f"{{0}} + {size} & {MASK64:#x}", Slot(slot))) for slot in registers)
    return (*moved, Assignment(RCX, apply("{0} - 1", Slot(RCX))))


def _rep_stos(operands: tuple[Operand, ...], at: At, *, size: int) -> tuple[Effect, ...]:
    match operands:
        case [Memory(size=bytes_, base=base, segment=""), Register(slot=slot)] if (bytes_, base, slot) == (
            size,
            RDI,
            RAX,
        ):
            value = read(Register(RAX, size), size)
            request = Request(Kind.STORE, Slot(RDI), size, values=(value,))
            return _repeats(at), Effect(_advance(size, RDI), Branch(Constant(at.address)), request)
    raise OperandError("operands")


def _rep_movs(operands: tuple[Operand, ...], at: At, *, size: int) -> tuple[Effect, ...]:
    match operands:
        case [Memory(base=target, segment=""), Memory(size=bytes_, base=source, segment="")] if (
            bytes_,
            target,
            source,
        ) == (size, RDI, RSI):
            request = Request(Kind.STORE, Slot(RDI), size, values=(Slot(TEMP),))
            return (
                _repeats(at),
                Effect((Assignment(TEMP, Response()),), request=Request(Kind.LOAD, Slot(RSI), size)),
                Effect(_advance(size, RDI, RSI), Branch(Constant(at.address)), request),
            )
    raise OperandError("operands")


_SUFFIXES = {"b": 1, "w": 2, "d": 4, "q": 8}

BUILDERS: dict[str, Builder] = {
    "mov": _mov,
    "movabs": _movabs,
    "movzx": partial(_extend, signed=False),
    **dict.fromkeys(("movsx", "movsxd"), partial(_extend, signed=True)),
    "xchg": _xchg,
    "lock xchg": _xchg,
    "lock xadd": _xadd,
    "lock cmpxchg": _cmpxchg,
    **{f"rep stos{suffix}": partial(_rep_stos, size=size) for suffix, size in _SUFFIXES.items()},
    **{f"rep movs{suffix}": partial(_rep_movs, size=size) for suffix, size in _SUFFIXES.items()},
}
