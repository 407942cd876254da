"""fuzzvm.machine.allocator: objects, frames and generations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.machine.allocator import Allocation, Allocator
from fuzzvm.machine.errors import (
    DOUBLE_FREE,
    REUSED_OBJECT,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    ModelError,
)


def test_the_last_freed_frame_is_handed_out_first_in_its_next_generation() -> None:
    allocator = Allocator()
    first, second = (allocator.alloc(4, name, 0) for name in "ab")
    allocator.free(first.address, 1)
    allocator.free(second.address, 2)
    third, fourth = (allocator.alloc(4, name, 3) for name in "cd")
    assert (third.frame, third.generation) == (second.frame, 1)
    assert (fourth.frame, fourth.generation) == (first.frame, 1)
    assert len({a.address for a in (first, second, third, fourth)}) == 4


def test_a_stale_access_tells_free_from_handed_out_again() -> None:
    allocator = Allocator()
    stale = allocator.alloc(4, "table a", 0)
    allocator.free(stale.address, 1)
    assert allocator.fault(stale.address, write=False).error == USE_AFTER_FREE_READ
    assert allocator.fault(stale.address + 3, write=True).error == USE_AFTER_FREE_WRITE
    owner = allocator.alloc(4, "table b", 2)
    for write in (False, True):
        error = allocator.fault(stale.address, write=write)
        assert error.error == REUSED_OBJECT
        assert "table a" in error.message
        assert "table b" in error.message
    allocator.free(owner.address, 3)
    assert allocator.fault(stale.address, write=False).error == USE_AFTER_FREE_READ
    assert allocator.fault(owner.address, write=False).error == USE_AFTER_FREE_READ


@pytest.mark.parametrize("bad", ["again", "inside", "nowhere"])
def test_free_of_what_is_no_live_object(bad: str) -> None:
    allocator = Allocator()
    address = allocator.alloc(4, "a", 0).address
    if bad == "again":
        allocator.free(address, 1)
    wrong = {"again": address, "inside": address + 1, "nowhere": address + (7 << 16)}[bad]
    with pytest.raises(ModelError) as caught:
        allocator.free(wrong, 2)
    assert caught.value.error == DOUBLE_FREE
    assert caught.value.address == wrong


@given(st.lists(st.integers(0, 20), max_size=60))
def test_live_objects_never_share_a_frame(choices: list[int]) -> None:
    """Each number frees the live object of that index, or allocates where there is none."""
    allocator = Allocator()
    live: list[Allocation] = []
    generations: dict[int, int] = {}
    for step, choice in enumerate(choices):
        if choice < len(live):
            freed = live.pop(choice)
            allocator.free(freed.address, step)
            assert allocator.dead[freed.number] == step
            continue
        allocation = allocator.alloc(1, step, step)
        assert allocation.generation == generations.get(allocation.frame, -1) + 1
        generations[allocation.frame] = allocation.generation
        assert allocator.owner(allocation.frame) == allocation
        assert allocator.lookup(allocation.address) == allocation
        live.append(allocation)
        assert len({a.frame for a in live}) == len(live)
    assert len(generations) <= len(choices)


def test_a_copy_goes_its_own_way() -> None:
    allocator = Allocator()
    shared = allocator.alloc(1, "shared", 0)
    other = allocator.copy()
    other.free(shared.address, 1)
    assert other.alloc(1, "reused", 2).frame == shared.frame
    assert shared.number not in allocator.dead
    assert allocator.alloc(1, "fresh", 2).frame != shared.frame
    assert allocator.lookup(shared.address) == shared


def test_lookup_of_what_never_was() -> None:
    assert Allocator().lookup(0) is None
    assert Allocator().lookup(-1) is None
