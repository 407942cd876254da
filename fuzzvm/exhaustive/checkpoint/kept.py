"""What a search hands to whoever keeps it on disk, and gets back in another process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fuzzvm.exhaustive.checkpoint import numbers
from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import LOCAL_BITS, SHARED_BITS, SHARED_MASK, Space

EVERY, PACKED, REDUCED, SHORTEST, DONE = "every", "packed", "reduced", "shortest", "done"
"""What searches call themselves: one of every state, in Python or in compiled code; a reduced one; one that looks for
the shortest run; and one that has ended."""


@dataclass
class Kept:
    """`facts` are JSON data, `columns` the chunks of large parts by name.

    `growing` are parts that grow at their end alone, as states with `extra` bits of something else below: the
    collection that grows, and what of it is written, in the same order.
    """

    facts: dict[str, Any]
    columns: Mapping[str, Iterable[bytes]] = field(default_factory=dict)
    growing: Mapping[str, tuple[Collection[int], Iterable[int]]] = field(default_factory=dict)
    extra: int = 0


class Restored:
    """What `Kept` held, as it is read; each method raises DamagedError for what is no such thing."""

    def __init__(
        self,
        facts: Any,
        column: Callable[[str], Iterator[bytes]],
        grown: dict[str, tuple[Collection[int], int]] | None = None,
    ) -> None:
        if not isinstance(facts, dict):
            raise DamagedError("it does not say where the search was")
        self.facts = facts
        self.column = column
        self.grown = {} if grown is None else grown
        """What was read of each part that grows, and how much of it is on disk: all, when it has been read."""

    def read(self, name: str, grows: Collection[int]) -> None:
        """Be told that a part was read, in its order, and that the search goes on with this collection."""
        self.grown[name] = (grows, len(grows))

    @property
    def kind(self) -> str:
        """Which search it was."""
        return str(self.facts.get("kind", ""))

    def count(self, name: str) -> int:
        """Return an integer from 0."""
        found: Any = self.facts.get(name)
        if not numbers.is_count(found):
            raise DamagedError(f"{name} is no number")
        return int(found)

    def counts(self, name: str) -> list[list[int]]:
        """Return lists of integers from 0."""
        found = self.facts.get(name)
        if type(found) is not list or not all(type(row) is list and all(map(numbers.is_count, row)) for row in found):
            raise DamagedError(f"{name} are no numbers")
        return found

    def findings(self, name: str = "findings") -> dict[Finding, None]:
        """Return errors in their order."""
        found = self.facts.get(name)
        if type(found) is not list or not all(
            type(row) is list and len(row) == 2 and all(type(part) is str for part in row) for row in found
        ):
            raise DamagedError("errors are none")
        return {Finding(*row): None for row in found}

    def states(self, name: str, space: Space, extra: int = 0) -> Iterator[int]:
        """Yield states of a space, each with `extra` bits of something else below."""
        shared, locals_ = len(space.shared.states), [(lane.shift, len(lane.nodes)) for lane in space.lanes]
        highest = SHARED_BITS + LOCAL_BITS * len(locals_)
        for number in numbers.of_wide(self.column(name), state_bytes(space, extra)):
            state = number >> extra
            if state & SHARED_MASK >= shared or state >> highest:
                raise DamagedError("a state has no parts")
            for shift, nodes in locals_:
                if state >> shift & _LOCAL >= nodes:
                    raise DamagedError("a state has no parts")
            yield number


_LOCAL = (1 << LOCAL_BITS) - 1


def state_bytes(space: Space, extra: int = 0) -> int:
    """Return how many bytes a state takes that has so many bits of something else below."""
    return (SHARED_BITS + LOCAL_BITS * len(space.lanes) + extra + 7) // 8


def states(found: Iterable[int], space: Space, extra: int = 0) -> Iterator[bytes]:
    """Return what `Restored.states` reads."""
    return numbers.wide(found, state_bytes(space, extra))
