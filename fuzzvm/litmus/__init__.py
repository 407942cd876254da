"""AArch64 litmus tests in herd7's format: what may the final states be?

Layer: imports machine only. Tests: tests/litmus/. `run` is all that callers need; what cannot be run raises
LitmusError, which names the line.
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.litmus.program import LitmusError, Shown

__all__ = ["LitmusError", "Result", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a test.

    `states` are the values of `places`, one tuple of printed values a distinct final state, in herd7's order.
    `positive` and `negative` count the states in which the condition's proposition holds or does not.
    `cut` says that loops were too long to be followed to their end, `stopped` which bound ended the exploration;
    states behind either are missing. `partial` says that only states of interest were asked for, so that `states` and
    `negative` may lack some. `vacuous` says that no execution comes to its end, so that nothing was asked.
    """

    name: str
    quantifier: str
    condition: str
    places: tuple[Shown, ...]
    states: tuple[tuple[str, ...], ...]
    positive: int
    negative: int
    cut: bool
    timelines: int
    partial: bool = False
    stopped: str = ""
    vacuous: bool = False

    @property
    def complete(self) -> bool:
        """Whether `states` are all final states."""
        return not (self.cut or self.stopped or self.partial)

    @property
    def observation(self) -> str:
        """Never, Sometimes or Always: whether the proposition holds in none, some or all final states.

        Of a partial result Always is not known, and Sometimes stands for both. Undecided where the states that are
        missing may be those in which it holds.
        """
        if not self.positive:
            return "Undecided" if self.cut or self.stopped else "Never"
        return "Always" if self.complete and not self.negative else "Sometimes"

    @property
    def verdict(self) -> str:
        """Ok or No: whether the quantified condition holds. Vacuous or Undecided where that says nothing."""
        settled = self.negative if self.quantifier == "forall" else self.positive
        if self.vacuous:
            return "Vacuous"
        if not settled and (self.cut or self.stopped):
            return "Undecided"
        return "Ok" if bool(settled) is (self.quantifier == "exists") else "No"

    @property
    def ok(self) -> bool:
        """Whether it is known that the quantified condition holds."""
        return self.verdict == "Ok"


def run(
    text: str,
    filename: str,
    speedcheck: str = "false",
    *,
    max_states: int | None = None,
    max_seconds: float | None = None,
) -> Result:
    """Return what may happen in the test that `text` holds, exhaustively.

    `speedcheck` is herd7's option of that name: with "true", states in which the condition cannot hold may be left
    out, and with "fast" the exploration also ends as soon as the condition is settled. Whether it holds is the same.

    With `max_states` the exploration ends after that many timelines, with `max_seconds` after that time; the result
    then says so, and is what was found until then.

    Raises LitmusError where the test is malformed or uses what is not modelled; `filename` is for the reader of that
    error only and need not exist.
    """
    from fuzzvm.litmus.bounds import Bounds
    from fuzzvm.litmus.explore import Explorer, Speed, resolver
    from fuzzvm.litmus.interest import goes_forward
    from fuzzvm.litmus.parser import parse

    bounds = Bounds(max_states, max_seconds)
    test = parse(text)
    speed = Speed(speedcheck)
    explorer = Explorer(test, speed, bounds)
    explored = explorer.explore()
    resolve = resolver(explorer)
    condition = test.condition
    held = [condition.holds(dict(zip(explored.places, state, strict=True)), resolve) for state in explored.states]
    positive = sum(held)
    stopped = explored.stopped
    # code without a loop comes to its end
    ended = bool(explored.states) or explored.cut or bool(stopped) or goes_forward(test)
    if not ended and speed is not Speed.ALL:
        # no state is of interest, which says nothing where there is none at all
        anything = Explorer(test, Speed.ANY, bounds).explore()
        ended = bool(anything.states) or anything.cut or bool(anything.stopped)
        stopped = "" if anything.states else anything.stopped
    shown = tuple(tuple(map(explorer.show, explored.places, state)) for state in sorted(explored.states))
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
        stopped,
        not ended,
    )
