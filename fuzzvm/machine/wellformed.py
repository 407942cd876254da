"""Whether an operation is one at all: what a program yields is user code's, and Python takes `Load("x")` for a Load.

A memory model gives an order that is no `Order` the meaning of none, and no location is found at an address that is no
integer. So a run with either would mean something else than its author thinks.
"""

from __future__ import annotations

from typing import Any

from fuzzvm.machine.ops import (
    Alloc,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    InterruptAll,
    Order,
    Rmw,
    Store,
    Tlbi,
)
from fuzzvm.supervision.user_code import shown

MAX_LOCATIONS = 1 << 16
"""Locations of the largest object: an address has no room for more."""


def wrong_with(op: Any) -> str:
    """Return what is wrong with the parts of an operation, in a few words; '' where nothing is."""
    match op:
        case Fence():
            return _unless(isinstance(op.kind, Barrier), "kind", op.kind, "a Barrier")
        case InterruptAll():
            return ""
        case Tlbi():
            return _unless(isinstance(op.operation, str), "operation", op.operation, "a string") or _unless(
                type(op.virtual_address) is int, "virtual_address", op.virtual_address, "an integer"
            )
        case Alloc():
            fits = type(op.size) is int and 0 < op.size <= MAX_LOCATIONS
            return _unless(fits, "size", op.size, f"a number from 1 to {MAX_LOCATIONS}") or _hashable("label", op.label)
    if wrong := _unless(type(op.address) is int and op.address >= 0, "address", op.address, "an address"):
        return wrong
    if isinstance(op, CacheMaintenance):
        return _unless(isinstance(op.operation, CacheOperation), "operation", op.operation, "a CacheOperation")
    order = getattr(op, "order", Order.PLAIN)
    if wrong := _unless(isinstance(order, Order), "order", order, "an Order"):
        return wrong
    if isinstance(op, Store):
        return _hashable("value", op.value)
    if isinstance(op, Rmw) and not callable(op.update):
        return f"its update is {shown(op.update)}, which is no function of the old value"
    if isinstance(op, Await | Rmw):
        when = op.when
        fits = (when is None and isinstance(op, Rmw)) or (callable(when) and hasattr(when, "blocked_by"))
        return _unless(fits, "when", when, "a Condition")
    return ""


def _unless(fits: bool, name: str, value: object, wanted: str) -> str:
    return "" if fits else f"its {name} is {shown(value)}, which is not {wanted}"


def _hashable(name: str, value: object) -> str:
    try:
        hash(value)
    except TypeError:
        return f"its {name} is {shown(value)}, which can change: use numbers, strings, tuples, frozen dataclasses"
    return ""
