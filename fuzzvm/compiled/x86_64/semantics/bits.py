"""Single bits: BT and its like, SETcc, CMOVcc, and the search for a bit (Intel SDM vol. 2)."""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.isa.effects import Assignment, Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Choose, Expression, Response, Slot, apply
from fuzzvm.compiled.isa.slots import MASK64
from fuzzvm.compiled.x86_64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.x86_64.registers import CF, TEMP, ZF
from fuzzvm.compiled.x86_64.semantics.common import (
    CONDITIONS,
    POISON,
    ZERO,
    At,
    Builder,
    address,
    assign_flags,
    every_flag,
    load,
    locked,
    named,
    read,
    store,
    width,
    write,
)

_TEMPLATES = {"bts": "{0} | {1}", "btr": "{0} & ~{1}", "btc": "{0} ^ {1}"}
_ATOMIC = {"bts": "set", "btr": "clr", "btc": "eor"}


def _bit_flags(carry: Expression) -> dict[int, Expression]:
    """Return the flags of BT and its like: CF is the bit, ZF stays, the others are undefined."""
    flags = {**every_flag(POISON), CF: carry}
    del flags[ZF]
    return flags


def _bit_test(operands: tuple[Operand, ...], at: At, *, name: str, lock: bool = False) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, Register() | Immediate() as number] if target.size >= 2 and not lock:
            size = target.size
            value = named("lhs", read(target, size))
            place = named("place", apply(f"{{0}} & {8 * size - 1}", read(number, size)))
            flags = assign_flags(_bit_flags(apply("{0} >> {1} & 1", value, place)))
            if name == "bt":
                return (Effect(flags),)
            changed = apply(_TEMPLATES[name].replace("{1}", "(1 << {1})"), value, place)
            return (Effect((write(target, changed), *flags)),)
        case [Memory() as target, Register() | Immediate() as number] if target.size >= 2:
            return _bit_in_memory(target, number, at, name=name, lock=lock)
    raise OperandError("operands")


def _bit_in_memory(target: Memory, number: Operand, at: At, *, name: str, lock: bool) -> tuple[Effect, ...]:
    """Return the effects for a bit string in memory, of which the number may be that of any bit."""
    size = target.size
    value = read(number, size)
    place = named("place", apply(f"{{0}} & {8 * size - 1}", value))
    where = address(target, at)
    if isinstance(number, Register):
        shift = (8 * size).bit_length() - 1
        element = f"(signed({{1}}, {8 * size}) >> {shift}) * {size}"
        where = apply(f"{{0}} + {element} & {MASK64:#x}", where, value)

    def flags(old: Expression) -> tuple[Assignment, ...]:
        return assign_flags(_bit_flags(apply("{0} >> {1} & 1", old, place)))

    if lock:
        if name == "bt":
            raise OperandError("lock")
        request = locked(Kind.ATOMIC, target, at, apply("1 << {0}", place), operation=_ATOMIC[name], where=where)
        return (Effect(flags(Response()), request=request),)
    read_it = Request(Kind.LOAD, where, size)
    if name == "bt":
        return (Effect(flags(Response()), request=read_it),)
    changed = apply(_TEMPLATES[name].replace("{1}", "(1 << {1})"), Slot(TEMP), place)
    write_it = Request(Kind.STORE, where, size, values=(changed,))
    return (
        Effect((Assignment(TEMP, Response()),), request=read_it),
        Effect(flags(Slot(TEMP)), request=write_it),
    )


def _setcc(operands: tuple[Operand, ...], at: At, *, condition: str) -> tuple[Effect, ...]:
    match operands:
        case [Register(size=1) as target]:
            return (Effect((write(target, CONDITIONS[condition]),)),)
        case [Memory(size=1) as target]:
            return (Effect(request=store(target, at, CONDITIONS[condition])),)
    raise OperandError("operands")


def _cmovcc(operands: tuple[Operand, ...], at: At, *, condition: str) -> tuple[Effect, ...]:
    match operands:
        case [Register() as target, Register() | Memory() as source] if target.size >= 2:
            size = width(target, source)
            value = Response() if isinstance(source, Memory) else read(source, size)
            # memory is read whether the condition holds or not
            request = load(source, at) if isinstance(source, Memory) else None
            chosen = Choose(CONDITIONS[condition], value, read(target, size))
            return (Effect((write(target, chosen),), request=request),)
    raise OperandError("operands")


def _scan(operands: tuple[Operand, ...], at: At, *, template: str, flags: dict[int, Expression]) -> tuple[Effect, ...]:
    """Return the effect of BSF, BSR and TZCNT; of 0 the result is not the same on all CPUs, and is refused."""
    match operands:
        case [Register() as target, Register() | Memory() as source] if target.size >= 4:
            size = width(target, source)
            value = Response() if isinstance(source, Memory) else named("lhs", read(source, size))
            found = apply(f"({template} if {{0}} else undefined_flag('the bit that is searched'))", value)
            request = load(source, at) if isinstance(source, Memory) else None
            return (Effect((write(target, found), *assign_flags(flags)), request=request),)
    raise OperandError("operands")


_LOWEST = "({0} & -{0}).bit_length() - 1"
_HIGHEST = "{0}.bit_length() - 1"
_FOUND = {**every_flag(POISON), ZF: ZERO}

BUILDERS: dict[str, Builder] = {
    **{name: partial(_bit_test, name=name) for name in ("bt", "bts", "btr", "btc")},
    **{f"lock {name}": partial(_bit_test, name=name, lock=True) for name in _ATOMIC},
    **{f"set{name}": partial(_setcc, condition=name) for name in CONDITIONS},
    **{f"cmov{name}": partial(_cmovcc, condition=name) for name in CONDITIONS},
    "bsf": partial(_scan, template=_LOWEST, flags=_FOUND),
    "bsr": partial(_scan, template=_HIGHEST, flags=_FOUND),
    # REP BSF, which CPUs without TZCNT take for BSF
    "tzcnt": partial(_scan, template=_LOWEST, flags=every_flag(POISON)),
}
