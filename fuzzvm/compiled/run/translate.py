"""The operations of the machine that the accesses of instructions are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fuzzvm.compiled.errors import KERNEL_BUG, KERNEL_WARNING, ImageError
from fuzzvm.compiled.isa.access import UPDATES, Access
from fuzzvm.compiled.isa.effects import Kind
from fuzzvm.compiled.records import Bug
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import (
    Address,
    Dependencies,
    Fence,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Tlbi,
    Value,
)


@dataclass(frozen=True, slots=True)
class Update:
    """What an atomic instruction makes of `bits` bits of a location, from bit `shift` on.

    The location holds the difference to `initial`.
    """

    operation: str
    operand: int
    bits: int
    initial: int
    shift: int = 0

    def __call__(self, old: int) -> int:
        content = old ^ self.initial
        field = content >> self.shift & (1 << self.bits) - 1
        new = UPDATES[self.operation](field, self.operand, self.bits)
        return inserted(content, self.shift, self.bits // 8, new) ^ self.initial


@dataclass(frozen=True, slots=True)
class Insert:
    """Puts bytes where a location has others, from bit `shift` on; it holds the difference to `initial`."""

    shift: int
    size: int
    value: int
    initial: int

    def __call__(self, old: int) -> int:
        return inserted(old ^ self.initial, self.shift, self.size, self.value) ^ self.initial


def shift_of(unit: Unit, va: int) -> int:
    """Return the first bit in a location of what an access at an address is of."""
    # locations are aligned no less than what they are part of
    return 8 * (va - unit.address & unit.size - 1)


def part(content: int, unit: Unit, va: int, size: int) -> int:
    """Return the bytes of a location that an access of so many bytes reads."""
    return content >> shift_of(unit, va) & (1 << 8 * size) - 1


def inserted(content: int, shift: int, size: int, value: int) -> int:
    """Return the content of a location after some of its bytes have been written."""
    return content & ~((1 << 8 * size) - 1 << shift) | value << shift


@dataclass(frozen=True, slots=True)
class Becomes:
    """Replaces whatever is there."""

    value: Value

    def __call__(self, old: Value) -> Value:
        return self.value


class Exclusive(NamedTuple):
    """What an exclusive load has read last: where, its content and its order."""

    location: Address
    content: int
    order: Order


def operation_of(
    access: Access,
    element: int,
    unit: Unit | None,
    exclusive: Exclusive | None,
    memory: MemoryMap,
    depends: Dependencies | None,
    bug: Bug | None,
) -> Operation:
    """Return the operation of one element of an access.

    `unit` is the location that it accesses, `exclusive` what the last exclusive load has read, `bug` the entry of the
    table of bugs. Raises ImageError for what is not supported, ModelError where the kernel says that it is
    broken.
    """
    request = access.request
    kind, order = request.kind, request.order
    if kind is Kind.BREAK:
        raise _broken(access, bug)
    if kind is Kind.BARRIER:
        barriers = memory.arch.barriers
        if request.operation not in barriers:
            raise ImageError(f"{access.instruction.text!r} is not supported")
        return Fence(barriers[request.operation], depends=depends)
    if kind is Kind.TLB_INVALIDATE:
        return Tlbi(request.operation, _invalidated(access.address), depends=depends)
    if unit is None:
        raise ImageError(f"{access.instruction.text!r} is not supported")
    location = unit.address
    initial = memory.initial(unit)
    if kind in (Kind.LOAD, Kind.EXCLUSIVE_LOAD):
        return Load(location, order, depends=depends)
    if kind is Kind.STORE:
        value = access.values[element]
        if unit.size == request.size:
            return Store(location, value ^ initial, order, depends=depends)
        insert = Insert(shift_of(unit, access.element(element)), request.size, value, initial)
        return Rmw(location, insert, order, quiet=True, depends=depends)
    if request.count != 1:
        raise ImageError(f"{access.instruction.text!r}: an atomic of two elements is not supported")
    if kind is Kind.ATOMIC:
        shift = shift_of(unit, access.element(element))
        update = Update(request.operation, access.values[element], 8 * request.size, initial, shift)
        return Rmw(location, update, order, quiet=request.no_return, depends=depends)
    if unit.size != request.size:
        raise ImageError(f"{access.instruction.text!r}: an atomic of a part of {unit.size} bytes is not supported")
    if kind is Kind.EXCLUSIVE_STORE:
        assert exclusive is not None
        if exclusive.location != location:
            raise ImageError(f"{access.instruction.text!r} stores where no exclusive load has read")
        new = Becomes(access.values[0] ^ initial)
        # It succeeds only if nobody has written since the load (Arm ARM B2.12). Values alone do not tell that: one may
        # have come back. So the load is made again with the store, in its own order, and must read the same.
        return Rmw(location, new, _both(exclusive.order, order), expected=(exclusive.content,), depends=depends)
    if kind is Kind.COMPARE_AND_SWAP:
        new = Becomes(access.values[0] ^ initial)
        return Rmw(location, new, order, expected=(access.expected[0] ^ initial,), depends=depends)
    raise ImageError(f"{access.instruction.text!r} is not supported")


def _both(load: Order, store: Order) -> Order:
    """Return the order of an atomic made of a load and a store."""
    acquires, releases = load is not Order.PLAIN, store is not Order.PLAIN
    if acquires and releases:
        return Order.ACQUIRE_RELEASE
    return load if acquires else store


def _invalidated(operand: int | None) -> int:
    """Return the address that the operand of a TLBI by address names: bits 43:0 are its bits 55:12 (Arm ARM D8.14)."""
    if operand is None:
        return 0
    va = (operand & (1 << 44) - 1) << 12
    return va | 0xFF << 56 if va >> 55 else va


def _broken(access: Access, bug: Bug | None) -> ModelError:
    if bug is None:
        return ModelError(KERNEL_BUG, f"{access.instruction.text!r} at {access.instruction.address:#x}")
    what = "WARN" if bug.warning else "BUG"
    return ModelError(KERNEL_WARNING if bug.warning else KERNEL_BUG, f"{what}() at {bug.file}:{bug.line}")
