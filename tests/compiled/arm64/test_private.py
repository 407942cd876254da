"""fuzzvm.compiled.isa.private: memory by cells, against memory by bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.compiled.isa.private import PrivateMemory, TrackedMemory, UnwrittenMemoryError

LOW, HIGH = 0x1000, 0x1030
SIZES = st.sampled_from([1, 2, 4, 8])
Step = tuple[bool, int, int]
STEPS = st.lists(st.tuples(st.booleans(), st.integers(LOW - 8, HIGH + 8), SIZES), max_size=40)


def union(a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
    return a | b


@given(STEPS)
def test_every_byte_has_the_value_and_the_dependencies_of_its_last_store(steps: list[Step]) -> None:
    plain, tracked = PrivateMemory(LOW, HIGH), TrackedMemory(LOW, HIGH, union)
    model: dict[int, tuple[int, int]] = {}
    for number, (is_store, address, size) in enumerate(steps):
        inside = address >= LOW and address + size <= HIGH
        view, pick = frozenset({number}), frozenset({-1 - number})
        span = range(address, address + size)
        if is_store:
            value = int.from_bytes(bytes((number * 16 + index) % 256 for index in range(size)), "little")
            assert plain.store(address, size, value) is inside
            assert tracked.store(address, size, value, view, pick) is inside
            if inside:
                model |= {at: (value >> 8 * (at - address) & 0xFF, number) for at in span}
        elif not inside:
            assert plain.load(address, size) is None
            assert tracked.load(address, size) is None
        elif all(at in model for at in span):
            expected = int.from_bytes(bytes(model[at][0] for at in span), "little")
            sources = frozenset(model[at][1] for at in span)
            assert plain.load(address, size) == expected
            assert tracked.load(address, size) == (expected, sources, frozenset(-1 - source for source in sources))
        else:
            with pytest.raises(UnwrittenMemoryError):
                plain.load(address, size)
            with pytest.raises(UnwrittenMemoryError):
                tracked.load(address, size)


def test_a_copy_is_memory_of_its_own() -> None:
    memory = PrivateMemory(LOW, HIGH)
    memory.store(LOW, 8, 1)
    other = memory.copy()
    other.store(LOW, 8, 2)
    assert (memory.load(LOW, 8), other.load(LOW, 8)) == (1, 2)
    tracked = TrackedMemory(LOW, HIGH, union)
    tracked.store(LOW, 8, 1, frozenset(), frozenset())
    again = tracked.copy()
    again.store(LOW, 8, 2, frozenset({1}), frozenset())
    assert tracked.load(LOW, 8) == (1, frozenset(), frozenset())


def test_overwriting_leaves_one_cell() -> None:
    memory = PrivateMemory(LOW, HIGH)
    for at in range(8):
        memory.store(LOW + at, 1, at)
    memory.store(LOW, 8, 7)
    assert memory.cells == {LOW: (8, 7)}
