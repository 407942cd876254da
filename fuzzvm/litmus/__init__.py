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
    `cut` says that loops were too long to be followed to their end; states behind them are missing. `partial` says
    that only states of interest were asked for, so that `states` and `negative` may lack some.
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
    partial: bool = False

    @property
    def observation(self) -> str:
        """Never, Sometimes or Always: whether the proposition holds in none, some or all final states.

        Of a partial result Always is not known, and Sometimes stands for both.
        """
        if not self.positive:
            return "Never"
        return "Sometimes" if self.negative or self.partial else "Always"

    @property
    def ok(self) -> bool:
        """Whether the quantified condition holds."""
        if self.quantifier == "exists":
            return self.positive > 0
        return self.positive == 0 if self.quantifier == "~exists" else self.negative == 0


def run(text: str, filename: str, speedcheck: str = "false") -> Result:
    """Return what may happen in the test that `text` holds, exhaustively.

    `speedcheck` is herd7's option of that name: with "true", states in which the condition cannot hold may be left
    out, and with "fast" the exploration also ends as soon as the condition is settled. Whether it holds is the same.

    Raises LitmusError where the test is malformed or uses what is not modelled; `filename` is for the reader of that
    error only and need not exist.
    """
    from fuzzvm.litmus.explore import Explorer, Speed, resolver
    from fuzzvm.litmus.parser import parse

    test = parse(text)
    speed = Speed(speedcheck)
    explorer = Explorer(test, speed)
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
        speed is not Speed.ALL,
    )
