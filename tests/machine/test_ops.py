"""fuzzvm.machine.ops: addresses, and operations as values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine import ops
from fuzzvm.machine.ops import OFFSET_BITS, Load, Order, Store, address_of, object_of, offset_of

OPERATIONS = [
    ops.Load,
    ops.Store,
    ops.Rmw,
    ops.Await,
    ops.Fence,
    ops.CacheMaintenance,
    ops.Tlbi,
    ops.Fetch,
    ops.InterruptAll,
    ops.Alloc,
    ops.Free,
]


@given(st.integers(0, 1 << 20), st.integers(0, (1 << OFFSET_BITS) - 1))
def test_an_address_holds_object_and_offset(number: int, offset: int) -> None:
    address = address_of(number, offset)
    assert (object_of(address), offset_of(address)) == (number, offset)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_are_values(operation: type) -> None:
    fields = dataclasses.fields(operation)
    arguments = [field.name for field in fields if field.default is dataclasses.MISSING]
    made = operation(*arguments)
    assert made == operation(*arguments)
    assert hash(made) == hash(operation(*arguments))
    for argument in arguments:
        other = dataclasses.replace(made, **{argument: "other"})
        assert other != made
        assert getattr(made, argument) == argument


def test_accesses_are_plain_unless_they_say_otherwise() -> None:
    assert Load(0).order is Store(0, 0).order is Order.PLAIN
