"""What a search that visits every state has seen so far: what its Python loop and the compiled one hand each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from fuzzvm.exhaustive.shared import Finding


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
