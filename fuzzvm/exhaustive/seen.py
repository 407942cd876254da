"""What a search that visits every state has seen so far: what its Python loop and the compiled one hand each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from fuzzvm.exhaustive.shared import Finding


class InOrder(dict[int, None]):
    """A set of states that knows in which order they came, so that those since the last checkpoint are known.

    It stands in the place of a set where a search is kept on disk.
    """

    add = dict.setdefault

    def update(self, states: Iterable[int]) -> None:  # type: ignore[override]
        """Add states."""
        super().update(dict.fromkeys(states))

    def issuperset(self, states: Iterable[int]) -> bool:
        """Return whether all of these states are in it."""
        return all(map(self.__contains__, states))


def visited_states(states: Iterable[int], *, in_order: bool) -> set[int]:
    """Return a set of states, in their order where a search is kept on disk."""
    if not in_order:
        return set(states)
    found = InOrder()
    found.update(states)
    return cast("set[int]", found)


@dataclass
class Seen:
    """`visited` and `stack` hold states as integers of a space while the Python loop has them, and are empty after it.

    `states` and `transitions` are counts, `findings` errors in the order found, `ends` states in which runs end well.
    """

    visited: set[int]
    stack: list[int]
    states: int = 1
    transitions: int = 0
    findings: dict[Finding, None] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)

    def end(self, state: int, finding: Finding | None) -> None:
        """Keep a state that has no steps, and what is wrong with a run that ends there."""
        if finding is not None:
            self.findings[finding] = None
        else:
            self.ends.add(state)
