"""The atomic instructions of FEAT_LSE: CAS, CASP, SWP, LD<op> and ST<op> (Arm ARM C6.2)."""

from __future__ import annotations

from functools import partial

from fuzzvm.compiled.arm64.operands import Immediate, Memory, Operand, OperandError, Register
from fuzzvm.compiled.arm64.registers import SP
from fuzzvm.compiled.arm64.semantics.common import Builder, address, read_low, write
from fuzzvm.compiled.isa.effects import Effect, Kind, Request
from fuzzvm.compiled.isa.expressions import Expression, Response
from fuzzvm.machine.ops import Order

UPDATES = ("add", "clr", "eor", "set", "smax", "smin", "umax", "umin")
_ORDERS = {"": (False, False), "a": (True, False), "l": (False, True), "al": (True, True)}
_WIDTHS = {"": None, "b": 1, "h": 2}


def _order(*, acquire: bool, release: bool) -> Order:
    if acquire:
        return Order.ACQUIRE_RELEASE if release else Order.ACQUIRE
    return Order.RELEASE if release else Order.PLAIN


def _where(memory: Memory) -> Expression:
    match memory:
        case Memory(offset=None | Immediate(0), extension=None, writeback=False):
            return address(memory, 1)
    raise OperandError("address")


def _size(size: int | None, *registers: Register) -> int:
    """Return the size of each element in bytes, given that of the mnemonic. Raises OperandError for odd registers."""
    if any(register.slot == SP for register in registers) or len({register.bits for register in registers}) != 1:
        raise OperandError("registers")
    if size is not None and registers[0].bits != 32:
        raise OperandError("width")
    return size or registers[0].bits // 8


def _atomic(
    operands: tuple[Operand, ...], _: int, *, update: str, size: int | None, acquire: bool, release: bool, returns: bool
) -> Effect:
    match operands:
        case [Register() as source, Register() as target, Memory() as memory] if returns:
            pass
        case [Register() as source, Memory() as memory] if not returns:
            target = Register(None, source.bits)
        case _:
            raise OperandError("operands")
    size = _size(size, source, target)
    no_return = target.slot is None
    # without a destination the load is no acquire (Arm ARM C6.2, LDADD and SWP)
    order = _order(acquire=acquire and not no_return, release=release)
    values = (read_low(source, 8 * size),)
    request = Request(
        Kind.ATOMIC, _where(memory), size, values=values, order=order, operation=update, no_return=no_return
    )
    return Effect(write(target, Response()), request=request)


def _compare_and_swap(
    operands: tuple[Operand, ...], _: int, *, size: int | None, acquire: bool, release: bool
) -> Effect:
    match operands:
        case [Register() as expected, Register() as source, Memory() as memory]:
            size = _size(size, expected, source)
            no_return = expected.slot is None
            request = Request(
                Kind.COMPARE_AND_SWAP,
                _where(memory),
                size,
                values=(read_low(source, 8 * size),),
                expected=(read_low(expected, 8 * size),),
                order=_order(acquire=acquire and not no_return, release=release),
                no_return=no_return,
            )
            return Effect(write(expected, Response()), request=request)
    raise OperandError("operands")


def _compare_and_swap_pair(operands: tuple[Operand, ...], _: int, *, acquire: bool, release: bool) -> Effect:
    match operands:
        case [Register() as first, Register() as second, Register() as low, Register() as high, Memory() as memory] if (
            _is_pair(first, second) and _is_pair(low, high)
        ):
            size = _size(None, first, second, low, high)
            request = Request(
                Kind.COMPARE_AND_SWAP,
                _where(memory),
                size,
                2,
                values=(read_low(low, 8 * size), read_low(high, 8 * size)),
                expected=(read_low(first, 8 * size), read_low(second, 8 * size)),
                order=_order(acquire=acquire, release=release),
            )
            return Effect((*write(first, Response(0)), *write(second, Response(1))), request=request)
    raise OperandError("operands")


def _is_pair(first: Register, second: Register) -> bool:
    """Return whether two registers are an even one and its successor; the last pair is x30 and the zero register."""
    if first.slot is None or first.slot % 2:
        return False
    return second.slot == (None if first.slot == 30 else first.slot + 1)


def _builders() -> dict[str, Builder]:
    builders: dict[str, Builder] = {}
    for ordering, (acquire, release) in _ORDERS.items():
        builders[f"casp{ordering}"] = partial(_compare_and_swap_pair, acquire=acquire, release=release)
        for suffix, size in _WIDTHS.items():
            builders[f"cas{ordering}{suffix}"] = partial(_compare_and_swap, size=size, acquire=acquire, release=release)
            for update in ("swp", *UPDATES):
                name = update if update == "swp" else f"ld{update}"
                builders[f"{name}{ordering}{suffix}"] = partial(
                    _atomic, update=update, size=size, acquire=acquire, release=release, returns=True
                )
                if update != "swp" and not acquire:
                    builders[f"st{update}{ordering}{suffix}"] = partial(
                        _atomic, update=update, size=size, acquire=False, release=release, returns=False
                    )
    return builders


BUILDERS: dict[str, Builder] = _builders()
