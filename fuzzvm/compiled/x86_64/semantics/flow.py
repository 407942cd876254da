"""Branches, the stack, and what does nothing here (Intel SDM vol. 2)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from fuzzvm.compiled.isa.effects import NOTHING, Assignment, Branch, Effect, Flow, Kind, Request
from fuzzvm.compiled.isa.expressions import Constant, Expression, Response, Slot, apply
from fuzzvm.compiled.isa.slots import MASK64, SP
from fuzzvm.compiled.x86_64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.x86_64.registers import FLAG_BITS, IF, RBP, TEMP
from fuzzvm.compiled.x86_64.semantics.common import CONDITIONS, At, Builder, keep

_WORD = 8


def _pushed(value: Expression, branch: Branch | None = None) -> Effect:
    """Return the effect of a push, after which the code goes on at a branch's target."""
    below = apply(f"{{0}} - {_WORD} & {MASK64:#x}", Slot(SP))
    return Effect((Assignment(SP, below),), branch, Request(Kind.STORE, below, _WORD, values=(value,)))


def _popped(target: int | None = None, branch: Branch | None = None) -> Effect:
    above = apply(f"{{0}} + {_WORD} & {MASK64:#x}", Slot(SP))
    popped = () if target is None else (Assignment(target, Response()),)
    return Effect((Assignment(SP, above), *popped), branch, Request(Kind.LOAD, Slot(SP), _WORD))


def _push(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register(size=8) as source]:
            return (_pushed(Slot(source.slot)),)
        case [Immediate(value)]:
            return (_pushed(Constant(value & MASK64)),)
        case [Memory(size=8) as source]:
            return keep(source, at), _pushed(Slot(TEMP))
    raise OperandError("operands")


def _pop(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Register(size=8) as target] if target.slot != SP:
            return (_popped(target.slot),)
    raise OperandError("operands")


def _leave(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    above = apply(f"{{0}} + {_WORD} & {MASK64:#x}", Slot(RBP))
    request = Request(Kind.LOAD, Slot(RBP), _WORD)
    return (Effect((Assignment(SP, above), Assignment(RBP, Response())), request=request),)


def _pushfq(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    """Return the effect of PUSHFQ. Kernel code asks what it pushed for IF alone: undefined flags are pushed as 0."""
    terms = [f"({{{index}}} & 1) << {bit}" for index, bit in enumerate(FLAG_BITS.values())]
    return (_pushed(apply(f"{_ALWAYS_SET} | {' | '.join(terms)}", *map(Slot, FLAG_BITS))),)


_ALWAYS_SET = 1 << 1
"""The bit of RFLAGS that is always set."""


def _popfq(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    effect = _popped()
    flags = tuple(Assignment(slot, apply(f"{{0}} >> {bit} & 1", Response())) for slot, bit in FLAG_BITS.items())
    return (replace(effect, assignments=(*effect.assignments, *flags)),)


def _interrupts(operands: tuple[Operand, ...], at: At, *, enabled: int) -> tuple[Effect, ...]:
    return (Effect((Assignment(IF, Constant(enabled)),)),)


def _call(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    behind = Constant(at.following)
    match operands:
        case [Immediate(value)]:
            return (_pushed(behind, Branch(Constant(value & MASK64), flow=Flow.CALL)),)
        case [Register(size=8) as target]:
            return (_pushed(behind, Branch(Slot(target.slot), flow=Flow.CALL)),)
        case [Memory(size=8) as target]:
            return keep(target, at), _pushed(behind, Branch(Slot(TEMP), flow=Flow.CALL))
    raise OperandError("operands")


def _ret(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    if operands:
        raise OperandError("operands")
    return (_popped(branch=Branch(Response(), flow=Flow.RETURN)),)


def _jmp(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    match operands:
        case [Immediate(value)]:
            return (Effect(branch=Branch(Constant(value & MASK64))),)
        case [Register(size=8) as target]:
            return (Effect(branch=Branch(Slot(target.slot))),)
        case [Memory(size=8) as target]:
            return keep(target, at), Effect(branch=Branch(Slot(TEMP)))
    raise OperandError("operands")


def _jcc(operands: tuple[Operand, ...], at: At, *, condition: str) -> tuple[Effect, ...]:
    match operands:
        case [Immediate(value)]:
            return (Effect(branch=Branch(Constant(value & MASK64), CONDITIONS[condition])),)
    raise OperandError("operands")


def _nothing(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    return (NOTHING,)


def _barrier(operands: tuple[Operand, ...], at: At, *, name: str) -> tuple[Effect, ...]:
    return (Effect(request=Request(Kind.BARRIER, operation=name)),)


def _ud2(operands: tuple[Operand, ...], at: At) -> tuple[Effect, ...]:
    return (Effect(request=Request(Kind.BREAK)),)


BUILDERS: dict[str, Builder] = {
    "push": _push,
    "pop": _pop,
    "leave": _leave,
    "call": _call,
    "ret": _ret,
    "jmp": _jmp,
    **{f"j{name}": partial(_jcc, condition=name) for name in CONDITIONS},
    "pushfq": _pushfq,
    "popfq": _popfq,
    "cli": partial(_interrupts, enabled=0),
    "sti": partial(_interrupts, enabled=1),
    # hints, and caches, which are coherent
    **dict.fromkeys(("nop", "pause", "endbr64", "prefetchw", "prefetcht0", "prefetchnta"), _nothing),
    **dict.fromkeys(("clflush", "clflushopt"), _nothing),
    **{name: partial(_barrier, name=name) for name in ("mfence", "lfence", "sfence", "wbinvd")},
    "ud2": _ud2,
}
