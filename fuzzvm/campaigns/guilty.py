"""The guilty pair of a failing run: the two functions that should not have met."""

from __future__ import annotations

from typing import NamedTuple

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import run
from fuzzvm.kernel.hooks import Mitigation


class GuiltyPair(NamedTuple):
    """The function that failed, and who freed the object that it touched: innermost first, `a < b`.

    Each is '' where the run has none: a deadlock is in no function, and not every error is about a freed object.
    """

    failed: str
    freed: str

    def __str__(self) -> str:
        return " and ".join(filter(None, self)) or "the run as a whole"


def guilty_pair(case: TestCase, mitigation: type[Mitigation]) -> GuiltyPair:
    """Return the pair of a test case that fails. Raises ScheduleError where it does not run as it says."""
    machine, execution = run(case, mitigation, tracing=True)
    failure = execution.failure
    if failure is None:
        return GuiltyPair("", "")
    freed_at = None if failure.object_number is None else machine.allocator.dead.get(failure.object_number)
    trace = machine.trace or []
    # free_table alone would be said of every scheme: its caller tells them apart
    freed = "" if not freed_at else " < ".join(trace[freed_at - 1].stack[:2])
    return GuiltyPair(failure.function, freed)
