"""Barriers, maintenance, system registers, hints and BRK (Arm ARM C5 and C6.2)."""

from __future__ import annotations

import re
from functools import partial

from fuzzvm.compiled.arm64.operands import Immediate, Name, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import DAIF, FLAGS, SP, SYSTEM
from fuzzvm.compiled.arm64.semantics.common import Builder, read, write
from fuzzvm.compiled.isa.effects import NOTHING, Assignment, Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Constant, Response, Slot, apply

_DOMAINS = ("osh", "nsh", "ish", "sy")
_BARRIERS = {name for domain in _DOMAINS for name in (domain, f"{domain}ld", f"{domain}st")} - {"syld", "syst"} | {
    "ld",
    "st",
}
_HINTS = (
    *("nop", "yield", "wfe", "wfi", "sev", "sevl", "bti", "csdb", "esb", "dgh", "hint", "xpaclri"),
    *("paciasp", "pacibsp", "autiasp", "autibsp", "paciaz", "pacibz", "autiaz", "autibz"),
    *("pacia1716", "pacib1716", "autia1716", "autib1716"),
)
"""The hint space. Pointer authentication there is NOP on CPUs without FEAT_PAuth.

WFE and WFI may end at once (Arm ARM D1.6), so NOP is one of their behaviours.
"""
_DATA_CACHE = frozenset({"ivac", "isw", "csw", "cisw", "cvac", "cvau", "cvap", "cvadp", "civac"})
"""Not those that write memory or tags (ZVA, GVA, GZVA, IGVAC ...)."""
_NAMED = re.compile(r"(?!s\d)[a-z][a-z0-9_]*")
"""A system register that has a name; those without are s<op0>_<op1>_c<n>_c<m>_<op2>."""
_DAIF_BITS = 0xF << 6


def _barrier(operands: tuple[Operand, ...], _: int, *, name: str) -> Effect:
    match operands:
        case [] if name == "isb":
            return _fence("isb")
        case [Name("sy")] if name == "isb":
            return _fence("isb")
        case [Name(kind)] if kind in _BARRIERS and name != "isb":
            return _fence(f"{name} {kind}")
    raise OperandError("operands")


def _fence(operation: str) -> Effect:
    return Effect(request=Request(Kind.BARRIER, operation=operation))


def _maintenance(operands: tuple[Operand, ...], _: int, *, kind: Kind) -> Effect:
    match operands:
        case [Name(operation)]:
            where = None
        case [Name(operation), Register(bits=64) as register]:
            where = read(register)
        case _:
            raise OperandError("operands")
    if kind is Kind.DATA_CACHE and operation not in _DATA_CACHE:
        raise OperandError(operation)
    return Effect(request=Request(kind, where, operation=operation))


def _hint(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [] | [Immediate()] | [Name("c" | "j" | "jc")]:
            return NOTHING
    raise OperandError("operands")


def _break(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Immediate(value)]:
            return Effect(request=Request(Kind.BREAK, values=(Constant(value),)))
    raise OperandError("operands")


def _mrs(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Register(bits=64) as target, Name("nzcv")] if target.slot != SP:
            return Effect(write(target, apply("{0} << 28", Slot(FLAGS))))
        case [Register(bits=64) as target, Name(name)] if name in SYSTEM and target.slot != SP:
            return Effect(write(target, Slot(SYSTEM[name])))
        case [Register(bits=64) as target, Name(name)] if _NAMED.fullmatch(name) and target.slot != SP:
            return Effect(write(target, Response()), request=Request(Kind.SYSTEM_READ, operation=name))
    raise OperandError("operands")


def _msr(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [Name("daifset"), Immediate(bits)] if 0 <= bits < 16:
            return Effect((Assignment(DAIF, apply(f"{{0}} | {bits << 6:#x}", Slot(DAIF))),))
        case [Name("daifclr"), Immediate(bits)] if 0 <= bits < 16:
            kept = _DAIF_BITS ^ bits << 6
            return Effect((Assignment(DAIF, apply(f"{{0}} & {kept:#x}", Slot(DAIF))),))
        case [Name("daif"), Register(bits=64) as source]:
            return Effect((Assignment(DAIF, apply(f"{{0}} & {_DAIF_BITS:#x}", read(source))),))
        case [Name("nzcv"), Register(bits=64) as source]:
            return Effect((Assignment(FLAGS, apply("{0} >> 28 & 15", read(source))),))
        case [Name(name), Register(bits=64) as source] if name in SYSTEM:
            return Effect((Assignment(SYSTEM[name], read(source)),))
        case [Name(name), Register(bits=64) as source] if _NAMED.fullmatch(name):
            return Effect(request=Request(Kind.SYSTEM_WRITE, values=(read(source),), operation=name))
        case [Name(name), Immediate(value)] if _NAMED.fullmatch(name):
            return Effect(request=Request(Kind.SYSTEM_WRITE, values=(Constant(value),), operation=name))
    raise OperandError("operands")


BUILDERS: dict[str, Builder] = {
    **{name: partial(_barrier, name=name) for name in ("dmb", "dsb", "isb")},
    "tlbi": partial(_maintenance, kind=Kind.TLB_INVALIDATE),
    "dc": partial(_maintenance, kind=Kind.DATA_CACHE),
    "ic": partial(_maintenance, kind=Kind.INSTRUCTION_CACHE),
    "at": partial(_maintenance, kind=Kind.ADDRESS_TRANSLATE),
    **dict.fromkeys(_HINTS, _hint),
    "brk": _break,
    "mrs": _mrs,
    "msr": _msr,
}
