"""AArch64 litmus tests in herd7's format: what may the final states be?

Layer: imports machine only. Tests: tests/litmus/. `run` is all that callers need; what cannot be run raises
LitmusError, which names the line.
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.litmus.program import LitmusError, Place

__all__ = ["LitmusError", "Result", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a test.

    `states` are the values of `places`, one tuple of printed values a distinct final state, in herd7's order.
    `positive` and `negative` count the states in which the condition's proposition holds or does not.
    `cut` says that loops were too long to be followed to their end; states behind them are missing.
    """

    name: str
    quantifier: str
    condition: str
    places: tuple[Place, ...]
    states: tuple[tuple[str, ...], ...]
    positive: int
    negative: int
    cut: bool
    timelines: int

    @property
    def observation(self) -> str:
        """Never, Sometimes or Always: whether the proposition holds in none, some or all final states."""
        if not self.positive:
            return "Never"
        return "Sometimes" if self.negative else "Always"

    @property
    def ok(self) -> bool:
        """Whether the quantified condition holds."""
        if self.quantifier == "exists":
            return self.positive > 0
        return self.positive == 0 if self.quantifier == "~exists" else self.negative == 0


def run(text: str, filename: str) -> Result:
    """Return what may happen in the test that `text` holds, exhaustively.

    Raises LitmusError where the test is malformed or uses what is not modelled; `filename` is for the reader of that
    error only and need not exist.
    """
    from fuzzvm.litmus.explore import Explorer, resolver
    from fuzzvm.litmus.parser import parse

    test = parse(text)
    explorer = Explorer(test)
    explored = explorer.explore()
    resolve = resolver(explorer)
    condition = test.condition
    held = [condition.holds(dict(zip(explored.places, state, strict=True)), resolve) for state in explored.states]
    positive = sum(held)
    shown = tuple(tuple(map(explorer.values.show, state)) for state in sorted(explored.states))
    return Result(
        test.name,
        test.quantifier,
        condition.text,
        explored.places,
        shown,
        positive,
        len(held) - positive,
        explored.cut,
        explored.timelines,
    )
