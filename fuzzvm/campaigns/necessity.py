"""Which ordering points a scheme needs: each is left out in turn, and schedules are searched that fail then.

A point is needed where a schedule fails without it. Where none was found within the budget, nothing is proven: the
result says how many runs there were, and no more.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fuzzvm.campaigns.plain import (
    Finding,
    FuzzCell,
    bounded_search,
    case_of,
    minimiser_end,
    search_targets,
    settle_found,
)
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.mitigations import registry
from fuzzvm.processes.parallel import call_all
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget, Found, FuzzSearch
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.scenario.target import Target

ENGINES = ("pct", "urw", "random")
"""Searched in this order, each with its share of what is left of the budget."""

PROBE_RUNS = 200
"""Random runs after which a point that found nothing to leave out is taken for none of the scheme's."""

OTHER_ERRORS_SHARE = 0.2
"""Of a budget, the part that a search goes on for a read of freed memory once it has found some other error."""


MINIMISER_STEPS = 200_000
MINIMISER_STATES = 10_000
"""What is spent on each schedule: some seconds under arm64 memory. `fuzzvm minimize` spends more."""


@dataclass(frozen=True)
class NecessityQuestion:
    """Whether a scheme is still safe without a point; `point` None asks with all points in place.

    `ipi` says whether the IPI of kick_all_cpus_sync is in place, which the commit's litmus test leaves out.
    """

    mitigation: str
    scenarios: tuple[Scenario, ...]
    memory: str
    point: str | None
    ipi: bool

    @property
    def without(self) -> tuple[str, ...]:
        """The points that are left out."""
        left_out = () if self.point is None else (self.point,)
        return left_out if self.ipi or self.point == ordering_points.IPI else (*left_out, ordering_points.IPI)


@dataclass(frozen=True)
class Answer:
    """What came of a question. `used` says whether the scheme has that point at all."""

    question: NecessityQuestion
    finding: Finding | None
    engine: str
    runs: int
    seconds: float
    used: bool

    @property
    def verdict(self) -> str:
        """`needed`, `not found needed`, or `not used`."""
        if self.finding is not None:
            return "needed"
        return "not found needed" if self.used else "not used"


def questions(
    mitigation: str, scenarios: tuple[Scenario, ...], memory: str, points: Sequence[str], ipi: Sequence[bool]
) -> list[NecessityQuestion]:
    """Return the questions about some points, with and without the IPI as asked."""
    return [
        NecessityQuestion(mitigation, scenarios, memory, point, with_ipi)
        for point in points
        for with_ipi in ipi
        if with_ipi or point != ordering_points.IPI
    ]


@dataclass
class _RaceSearch(FuzzSearch):
    """A search for a read of freed memory; any other error will do when that is not found soon after."""

    found_at: float = field(default=0.0)

    @property
    def over(self) -> bool:
        if any(found.execution.failure.error == USE_AFTER_FREE_READ for found in self.found if found.execution.failure):
            return True
        if self.found and self.budget.seconds is not None:
            self.found_at = self.found_at or self.seconds
            if self.seconds >= self.found_at + OTHER_ERRORS_SHARE * self.budget.seconds:
                return True
        return super().over

    @property
    def best(self) -> Found | None:
        """What to report of what was found."""
        races = [f for f in self.found if f.execution.failure and f.execution.failure.error == USE_AFTER_FREE_READ]
        return next(iter([*races, *self.found]), None)


def answer(
    question: NecessityQuestion, budget: Budget, seed: int, corpus: Path | None, end: float | None = None
) -> Answer:
    """Search until a bug is found or the budget is used up; minimise the bug, and save it where there is a corpus.

    `end` is when, by the monotonic clock, all must be over, whatever is left of the budget of this question. Raises
    MitigationError, ScenarioError, ProgramError, CorpusError.
    """
    started = time.monotonic()
    if end is not None and budget.seconds is not None:
        budget = replace(budget, seconds=min(budget.seconds, max(0.0, end - started)))
    mitigation = None
    # None is no bound
    if budget.seconds != 0:
        with bounded_search(budget.seconds):
            mitigation = registry.get(question.mitigation)
    if mitigation is None:
        return Answer(question, None, "", 0, time.monotonic() - started, used=True)
    runs, used = _probe(question, mitigation, budget, seed)
    if not used:
        return Answer(question, None, "", runs, time.monotonic() - started, used=False)
    runs = 0
    for number, name in enumerate(ENGINES):
        cell = _cell(question, mitigation, name)
        left = len(ENGINES) - number
        seconds = None if budget.seconds is None else max(0.0, budget.seconds - time.monotonic() + started) / left
        share = Budget(seconds, None if budget.runs is None else max(1, (budget.runs - runs) // left))
        search = _RaceSearch(share, keep_going=True)
        with bounded_search(seconds):
            search_targets(cell, seed, search)
        runs += search.runs
        if (best := search.best) is not None:
            finding = settle_found(
                cell,
                best,
                case_of(cell.targets[best.number], best.task, best.execution),
                seed,
                corpus,
                steps=MINIMISER_STEPS,
                max_states=MINIMISER_STATES,
                until=minimiser_end(budget, started, end),
            )
            return Answer(question, finding, name, runs, time.monotonic() - started, used=True)
    # the probe has seen that the point is used, or had no time to, also where it left none for any run here
    return Answer(question, None, "", runs, time.monotonic() - started, used=True)


def _cell(question: NecessityQuestion, mitigation: type[Mitigation], engine: str) -> FuzzCell:
    targets = tuple(
        Target(mitigation, scenario, question.memory, question.without, question.mitigation)
        for scenario in question.scenarios
    )
    return FuzzCell(question.mitigation, engines.get(engine), targets)


def _probe(question: NecessityQuestion, mitigation: type[Mitigation], budget: Budget, seed: int) -> tuple[int, bool]:
    """Return how many runs there were, and whether a point had something to leave out in them.

    Where the time did not let it see that, it is taken to have had.
    """
    if question.point is None:
        return 0, True
    cell = _cell(question, mitigation, "random")
    runs = min(PROBE_RUNS, budget.runs or PROBE_RUNS)
    search = FuzzSearch(Budget(budget.seconds, runs), keep_going=True)
    with bounded_search(budget.seconds):
        search_targets(cell, seed, search)
    (point,) = ordering_points.get([question.point])
    rewrites = [task.rewrite for task in search.tasks if isinstance(task, System)]
    used = ordering_points.used(point, mitigation, rewrites)
    return search.runs, used or search.runs < runs


def answer_all(
    asked: Sequence[NecessityQuestion],
    budget: Budget,
    seed: int,
    corpus: Path | None,
    jobs: int,
    end: float | None = None,
) -> Generator[tuple[int, Answer], None, None]:
    """Answer questions in up to `jobs` processes; yield each one's index and answer when it is there.

    `budget` is for each question, and `end` as for `answer`. Closing the iterator, or an exception in it, ends the
    processes. Raises as `answer`.
    """
    return call_all(answer, [(question, budget, seed, corpus, end) for question in asked], jobs, named=_name)


def _name(question: NecessityQuestion, *others: object) -> str:
    return f"{question.mitigation}, {question.point or 'all points in place'}"
