"""Branches, calls and returns (Arm ARM C6.2)."""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.arm64.operands import Immediate, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import LINK, MASK64
from fuzzvm.compiled.arm64.semantics.common import TRUTH, Builder, condition, read
from fuzzvm.compiled.isa.effects import Assignment, Branch, Effect, Flow
from fuzzvm.compiled.isa.expressions import Constant, Expression, apply

_LINK = Register(LINK, 64)


def _target(operand: Operand) -> Expression:
    if isinstance(operand, Immediate):
        return Constant(operand.value & MASK64)
    if isinstance(operand, Register) and operand.bits == 64:
        return read(operand)
    raise OperandError("target")


def _return_address(address: int) -> tuple[Assignment, ...]:
    return (Assignment(LINK, Constant(address + 4 & MASK64)),)


def _direct(operands: tuple[Operand, ...], address: int, *, call: bool, test: str | None = None) -> Effect:
    match operands:
        case [Immediate() as target]:
            holds = None if test is None else condition(test)
            if call:
                return Effect(_return_address(address), Branch(_target(target), holds, Flow.CALL))
            return Effect(branch=Branch(_target(target), holds))
    raise OperandError("operands")


def _indirect(operands: tuple[Operand, ...], address: int, *, flow: Flow) -> Effect:
    match operands:
        case [Register() as target]:
            assignments = _return_address(address) if flow is Flow.CALL else ()
            return Effect(assignments, Branch(_target(target), flow=flow))
        case [] if flow is Flow.RETURN:
            return Effect(branch=Branch(_target(_LINK), flow=flow))
    raise OperandError("operands")


def _compare(operands: tuple[Operand, ...], _: int, *, zero: bool) -> Effect:
    match operands:
        case [Register() as tested, Immediate() as target]:
            holds = apply("{0} == 0" if zero else "{0} != 0", read(tested))
            return Effect(branch=Branch(_target(target), holds))
    raise OperandError("operands")


def _test_bit(operands: tuple[Operand, ...], _: int, *, zero: bool) -> Effect:
    match operands:
        case [Register() as tested, Immediate(bit), Immediate() as target] if 0 <= bit < tested.bits:
            holds = apply(f"{{0}} & {1 << bit:#x} {'==' if zero else '!='} 0", read(tested))
            return Effect(branch=Branch(_target(target), holds))
    raise OperandError("operands")


BUILDERS: dict[str, Builder] = {
    "b": partial(_direct, call=False),
    **{f"b.{name}": partial(_direct, call=False, test=name) for name in TRUTH},
    "bl": partial(_direct, call=True),
    "br": partial(_indirect, flow=Flow.JUMP),
    "blr": partial(_indirect, flow=Flow.CALL),
    "ret": partial(_indirect, flow=Flow.RETURN),
    "cbz": partial(_compare, zero=True),
    "cbnz": partial(_compare, zero=False),
    "tbz": partial(_test_bit, zero=True),
    "tbnz": partial(_test_bit, zero=False),
}
