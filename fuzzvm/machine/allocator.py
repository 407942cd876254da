"""Objects of memory and their lives: allocation, free, and frames that are handed out again.

Every allocation has a number of its own, so a stale pointer never compares equal to a fresh one. The frame is the
physical place, and its generation counts how often it was handed out: a read through a stale pointer is told apart
by whether the frame is free (use after free) or belongs to somebody else by now (reused).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from fuzzvm.machine.errors import (
    DOUBLE_FREE,
    REUSED_OBJECT,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    ModelError,
)
from fuzzvm.machine.ops import OFFSET_BITS, Address, address_of, object_of, offset_of


@dataclass(frozen=True, slots=True)
class Allocation:
    """One object: its number is unique in a run, frame and generation say which place it was given.

    `allocated_at` is the number of the step (0 for boot).
    """

    number: int
    label: Hashable
    size: int
    frame: int
    generation: int
    allocated_at: int

    @property
    def address(self) -> Address:
        """Address of its first location."""
        return address_of(self.number)


class Allocator:
    """Hands out objects. Last freed frame first, as a CPU's list of free pages does, so that reuse is common."""

    def __init__(self) -> None:
        self.allocations: list[Allocation] = []
        self.dead: dict[int, int] = {}
        """The step at which each freed object was freed, by its number."""
        self._owner_of_frame: list[int] = []
        self._free_frames: list[int] = []

    def copy(self) -> Allocator:
        """Return an allocator in the same state that goes its own way."""
        other = Allocator()
        other.allocations = list(self.allocations)
        other.dead = dict(self.dead)
        other._owner_of_frame = list(self._owner_of_frame)
        other._free_frames = list(self._free_frames)
        return other

    def state(self) -> Hashable:
        """Return all that the future depends on: everything but the steps at which things happened."""
        objects = tuple((one.label, one.size, one.frame) for one in self.allocations)
        return objects, frozenset(self.dead), tuple(self._owner_of_frame), tuple(self._free_frames)

    def parts(self) -> tuple[list[Allocation], dict[int, int], list[int], list[int]]:
        """Return its objects, the step at which each dead one was freed, each frame's owner, and the free frames."""
        return self.allocations, self.dead, self._owner_of_frame, self._free_frames

    @classmethod
    def of_parts(
        cls, allocations: list[Allocation], dead: dict[int, int], owner_of_frame: list[int], free_frames: list[int]
    ) -> Allocator:
        """Return the allocator that has these parts. Raises ValueError where they do not go together."""
        objects, frames = range(len(allocations)), range(len(owner_of_frame))
        if not (
            all(one.frame in frames for one in allocations)
            and all(number in objects for number in (*dead, *owner_of_frame))
            and all(frame in frames for frame in free_frames)
        ):
            raise ValueError("objects and frames do not go together")
        made = cls()
        made.allocations, made.dead = allocations, dead
        made._owner_of_frame, made._free_frames = owner_of_frame, free_frames
        return made

    def alloc(self, size: int, label: Hashable, step: int) -> Allocation:
        """Return a new object of `size` locations."""
        number = len(self.allocations)
        if self._free_frames:
            frame = self._free_frames.pop()
            generation = self.allocations[self._owner_of_frame[frame]].generation + 1
            self._owner_of_frame[frame] = number
        else:
            frame = len(self._owner_of_frame)
            generation = 0
            self._owner_of_frame.append(number)
        allocation = Allocation(number, label, size, frame, generation, step)
        self.allocations.append(allocation)
        return allocation

    def free(self, address: Address, step: int) -> Allocation:
        """Free the object that starts at `address`. Raises ModelError for a double free or a bad pointer."""
        allocation = self.lookup(address)
        if allocation is None or offset_of(address):
            raise ModelError(DOUBLE_FREE, f"free of {address:#x}, where no object starts", address=address)
        if allocation.number in self.dead:
            raise ModelError(DOUBLE_FREE, f"{allocation.label} was freed before", address=address)
        self.dead[allocation.number] = step
        self._free_frames.append(allocation.frame)
        return allocation

    def lookup(self, address: Address) -> Allocation | None:
        """Return the object that an address lies in, dead or alive, or None where there never was one."""
        number = address >> OFFSET_BITS
        return self.allocations[number] if 0 <= number < len(self.allocations) else None

    def holds(self, address: Address) -> bool:
        """Return whether an address is that of a location of an object, dead or alive."""
        allocation = self.lookup(address)
        return allocation is not None and offset_of(address) < allocation.size

    def owner(self, frame: int) -> Allocation:
        """Return the object that a frame was last handed out for."""
        return self.allocations[self._owner_of_frame[frame]]

    def fault(self, address: Address, *, write: bool) -> ModelError:
        """Return the error of an access to a dead object."""
        allocation = self.allocations[object_of(address)]
        owner = self.owner(allocation.frame)
        kind = "write to" if write else "read of"
        if owner.number != allocation.number and owner.number not in self.dead:
            return ModelError(
                REUSED_OBJECT,
                f"{kind} {allocation.label} through a stale pointer; its page is now {owner.label}",
                address=address,
            )
        error = USE_AFTER_FREE_WRITE if write else USE_AFTER_FREE_READ
        return ModelError(error, f"{kind} {allocation.label} after it was freed", address=address)
