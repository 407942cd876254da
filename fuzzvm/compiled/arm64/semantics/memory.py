"""Loads, stores, their ordered and exclusive forms (Arm ARM C6.2).

Forms whose result the architecture leaves open (CONSTRAINED UNPREDICTABLE, Arm ARM K1) are refused: no compiler emits
them.
"""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.arm64.operands import Immediate, Memory, Name, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import MASK64, SP
from fuzzvm.compiled.arm64.semantics.common import Builder, address, mask, offset, read_low, write
from fuzzvm.compiled.isa.effects import NOTHING, Assignment, Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Constant, Expression, Response, apply
from fuzzvm.machine.ops import Order

_SIZES = {"b": 1, "h": 2, "w": 4}


def _general(registers: list[Register]) -> None:
    """Refuse the stack pointer where it cannot be meant."""
    if any(register.slot == SP for register in registers):
        raise OperandError("sp")


def _signed_response(index: int, size: int, bits: int) -> Expression:
    sign = 1 << (8 * size - 1)
    return apply(f"({{0}} ^ {sign:#x}) - {sign:#x} & {mask(bits):#x}", Response(index))


def _location(operands: tuple[Operand, ...], size: int) -> tuple[Expression, tuple[Assignment, ...]]:
    """Return the address that operands name, and the assignment of a base register that is written back."""
    match operands:
        case [Memory(writeback=False) as memory]:
            return address(memory, size), ()
        case [Memory(offset=Immediate(value), writeback=True) as memory]:
            moved = address(memory, size)
        case [Memory(offset=None, writeback=False) as memory, Immediate(value)]:
            moved = offset(address(memory, size), value)
        case [Immediate(value)]:
            return Constant(value & MASK64), ()
        case _:
            raise OperandError("address")
    assert memory.base.slot is not None
    back = (Assignment(memory.base.slot, moved),)
    return (moved if memory.writeback else address(memory, size)), back


def _refuse_overlap(registers: list[Register], back: tuple[Assignment, ...], *, load: bool) -> None:
    """Refuse a base that is written back and transferred too, and a pair of loads into one register."""
    slots = [register.slot for register in registers if register.slot is not None]
    if any(assignment.target in slots for assignment in back):
        raise OperandError("base register is also transferred")
    if load and len(registers) == 2 and registers[0].slot == registers[1].slot:
        raise OperandError("two loads into one register")


def _load(
    operands: tuple[Operand, ...],
    _: int,
    *,
    size: int | None,
    count: int = 1,
    is_signed: bool = False,
    literal: bool = False,
) -> Effect:
    """LDR, LDUR, LDP and their kin. `size` None: that of the register."""
    registers = [operand for operand in operands[:count] if isinstance(operand, Register)]
    if len(registers) != count or len({register.bits for register in registers}) != 1:
        raise OperandError("registers")
    _general(registers)
    bits = registers[0].bits
    size = size or bits // 8
    if size * 8 > bits or (is_signed and size * 8 == bits) or (bits == 64 and size < 8 and not is_signed):
        raise OperandError("width")
    if isinstance(operands[count], Immediate) and not literal:
        raise OperandError("literal")
    where, back = _location(operands[count:], size)
    _refuse_overlap(registers, back, load=True)
    loaded = [_signed_response(i, size, bits) if is_signed else Response(i) for i in range(count)]
    assignments = [write(register, value) for register, value in zip(registers, loaded, strict=True)]
    request = Request(Kind.LOAD, where, size, count)
    return Effect((*back, *(assignment for each in assignments for assignment in each)), request=request)


def _store(operands: tuple[Operand, ...], _: int, *, size: int | None, count: int = 1) -> Effect:
    registers = [operand for operand in operands[:count] if isinstance(operand, Register)]
    if len(registers) != count or len({register.bits for register in registers}) != 1:
        raise OperandError("registers")
    _general(registers)
    if size is not None and registers[0].bits != 32:
        raise OperandError("width")
    size = size or registers[0].bits // 8
    if not isinstance(operands[count], Memory):
        raise OperandError("address")
    where, back = _location(operands[count:], size)
    _refuse_overlap(registers, back, load=False)
    values = tuple(read_low(register, 8 * size) for register in registers)
    return Effect(back, request=Request(Kind.STORE, where, size, count, values))


def _plain_base(operand: Operand, *, unscaled: bool = False) -> Expression:
    """Return the address of `[base]`; with `unscaled` also of `[base, #offset]`."""
    match operand:
        case Memory(offset=None | Immediate(0), extension=None, writeback=False):
            return address(operand, 1)
        case Memory(offset=Immediate(), extension=None, writeback=False) if unscaled:
            return address(operand, 1)
    raise OperandError("address")


def _ordered_load(
    operands: tuple[Operand, ...],
    _: int,
    *,
    size: int | None,
    order: Order,
    exclusive: bool = False,
    count: int = 1,
    unscaled: bool = False,
    is_signed: bool = False,
) -> Effect:
    """LDAR, LDAPR, LDAPUR, LDXR, LDAXR, LDXP and their kin."""
    match operands:
        case [Register() as register, memory] if count == 1:
            registers = [register]
        case [Register() as first, Register() as second, memory] if count == 2 and first.bits == second.bits:
            registers = [first, second]
        case _:
            raise OperandError("operands")
    _general(registers)
    _refuse_overlap(registers, (), load=True)
    bits = registers[0].bits
    size = size or bits // 8
    if size * 8 > bits or (bits == 64 and size < 8 and not is_signed) or (is_signed and size * 8 == bits):
        raise OperandError("width")
    kind = Kind.EXCLUSIVE_LOAD if exclusive else Kind.LOAD
    request = Request(kind, _plain_base(memory, unscaled=unscaled), size, count, order=order)
    loaded = [_signed_response(i, size, bits) if is_signed else Response(i) for i in range(count)]
    assignments = [write(register, value) for register, value in zip(registers, loaded, strict=True)]
    return Effect(tuple(assignment for each in assignments for assignment in each), request=request)


def _ordered_store(
    operands: tuple[Operand, ...], _: int, *, size: int | None, order: Order, unscaled: bool = False
) -> Effect:
    """STLR, STLUR."""
    match operands:
        case [Register() as register, memory]:
            _general([register])
            if size is not None and register.bits != 32:
                raise OperandError("width")
            size = size or register.bits // 8
            where = _plain_base(memory, unscaled=unscaled)
            return Effect(request=Request(Kind.STORE, where, size, values=(read_low(register, 8 * size),), order=order))
    raise OperandError("operands")


def _exclusive_store(
    operands: tuple[Operand, ...], _: int, *, size: int | None, order: Order, count: int = 1
) -> Effect:
    """STXR, STLXR, STXP, STLXP. The response is 0 where the store was done, else 1."""
    match operands:
        case [Register(bits=32) as status, Register() as register, Memory() as memory] if count == 1:
            registers = [register]
        case [Register(bits=32) as status, Register() as first, Register() as second, Memory() as memory] if (
            count == 2 and first.bits == second.bits
        ):
            registers = [first, second]
        case _:
            raise OperandError("operands")
    _general([status, *registers])
    if size is not None and registers[0].bits != 32:
        raise OperandError("width")
    if status.slot is not None and status.slot in (memory.base.slot, *(register.slot for register in registers)):
        raise OperandError("status register is also an operand")
    size = size or registers[0].bits // 8
    values = tuple(read_low(register, 8 * size) for register in registers)
    request = Request(Kind.EXCLUSIVE_STORE, _plain_base(memory), size, count, values, order=order)
    return Effect(write(status, Response()), request=request)


def _prefetch(operands: tuple[Operand, ...], _: int) -> Effect:
    """PRFM, PRFUM: a hint, which changes nothing."""
    match operands:
        case [Name() | Immediate(), Memory(writeback=False) | Immediate()]:
            return NOTHING
    raise OperandError("operands")


def _clear_exclusive(operands: tuple[Operand, ...], _: int) -> Effect:
    match operands:
        case [] | [Immediate()]:
            return Effect(request=Request(Kind.CLEAR_EXCLUSIVE))
    raise OperandError("operands")


_ORDERED_LOADS = {
    "ldar": (Order.ACQUIRE, False),
    "ldapr": (Order.ACQUIRE_PC, False),
    "ldxr": (Order.PLAIN, True),
    "ldaxr": (Order.ACQUIRE, True),
}
_EXCLUSIVE_STORES = {"stxr": Order.PLAIN, "stlxr": Order.RELEASE}
_WIDTHS = {"": None, "b": 1, "h": 2}


def _builders() -> dict[str, Builder]:
    builders: dict[str, Builder] = {}
    for suffix, size in _WIDTHS.items():
        builders[f"ldr{suffix}"] = partial(_load, size=size, literal=size is None)
        builders[f"ldur{suffix}"] = partial(_load, size=size)
        builders[f"str{suffix}"] = builders[f"stur{suffix}"] = partial(_store, size=size)
        for name, (order, exclusive) in _ORDERED_LOADS.items():
            builders[f"{name}{suffix}"] = partial(_ordered_load, size=size, order=order, exclusive=exclusive)
        for name, order in _EXCLUSIVE_STORES.items():
            builders[f"{name}{suffix}"] = partial(_exclusive_store, size=size, order=order)
        builders[f"ldapur{suffix}"] = partial(_ordered_load, size=size, order=Order.ACQUIRE_PC, unscaled=True)
        builders[f"stlr{suffix}"] = partial(_ordered_store, size=size, order=Order.RELEASE)
        builders[f"stlur{suffix}"] = partial(_ordered_store, size=size, order=Order.RELEASE, unscaled=True)
    for suffix, size in _SIZES.items():
        builders[f"ldrs{suffix}"] = partial(_load, size=size, is_signed=True, literal=suffix == "w")
        builders[f"ldurs{suffix}"] = partial(_load, size=size, is_signed=True)
        builders[f"ldapurs{suffix}"] = partial(
            _ordered_load, size=size, order=Order.ACQUIRE_PC, unscaled=True, is_signed=True
        )
    builders["ldp"] = builders["ldnp"] = partial(_load, size=None, count=2)
    builders["ldpsw"] = partial(_load, size=4, count=2, is_signed=True)
    builders["stp"] = builders["stnp"] = partial(_store, size=None, count=2)
    for name, order in (("ldxp", Order.PLAIN), ("ldaxp", Order.ACQUIRE)):
        builders[name] = partial(_ordered_load, size=None, order=order, exclusive=True, count=2)
    for name, order in (("stxp", Order.PLAIN), ("stlxp", Order.RELEASE)):
        builders[name] = partial(_exclusive_store, size=None, order=order, count=2)
    builders["prfm"] = builders["prfum"] = _prefetch
    builders["clrex"] = _clear_exclusive
    return builders


BUILDERS: dict[str, Builder] = _builders()
