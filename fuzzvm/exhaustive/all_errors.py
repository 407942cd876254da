"""Every error that some run of a system ends with, each with its own shortest run.

An error is an id and the function that it happens in. A run ends with its first error; what would have come after it is
not looked at. The search is that of `shortest`, and does not end at the first error: no reduction keeps every error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.limits import Limits, StoppedError
from fuzzvm.exhaustive.progress import NEVER_ENDS, endless_run, may_cycle
from fuzzvm.exhaustive.reduced_search import foresee
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.shortest import ANY, Cost, Ending, ShortestSearch
from fuzzvm.exhaustive.space import Space, StateBoundError
from fuzzvm.exhaustive.stages import SHARE_OF_PRE_PASS
from fuzzvm.exhaustive.verdict import FailingRun, Verdict, no_collection, replayed
from fuzzvm.machine.schedule import Schedule
from fuzzvm.machine.task import Task


@dataclass(frozen=True)
class ErrorRun:
    """An error and the shortest run found that ends with it; `minimal` says that none is shorter."""

    finding: Finding
    schedule: Schedule
    minimal: bool


@dataclass(frozen=True)
class Errors:
    """The errors, those with shorter runs first; `stopped` names the bound that cut the search, '' if none."""

    runs: tuple[ErrorRun, ...]
    stopped: str = ""


class _EveryError(ShortestSearch):
    """Settles every pair there is, and keeps the first of the cheapest runs to each error."""

    def __init__(self, space: Space, limits: Limits) -> None:
        super().__init__(space, ANY, limits, preemptions=False)
        self.found: dict[Finding, tuple[Cost, Ending]] = {}

    def _found(self, finding: Finding, cost: Cost, ending: Ending) -> None:
        known = self.found.get(finding)
        if known is None or cost < known[0]:
            self.found[finding] = (cost, ending)


def all_errors(space: Space, limits: Limits) -> Errors:
    """Return every error of a system with its shortest run, within the limits."""
    if isinstance(space.start, Finding):
        return Errors((ErrorRun(space.start, (), True),))
    search = _EveryError(space, limits)
    stopped = ""
    whole = False
    endless: Schedule | None = None
    try:
        whole = not search.run(None)
        if may_cycle(space):
            endless = endless_run(space, limits)
    except (StoppedError, StateBoundError) as bound:
        stopped = str(bound)
    # what is not settled has at least the cost that was reached, and an error there takes a step more
    switches, steps = search.reached
    runs = [
        (cost, ErrorRun(finding, search.schedule(ending), whole or cost <= (switches, steps + 1)))
        for finding, (cost, ending) in search.found.items()
    ]
    runs.sort(key=lambda one: (one[0], one[1].finding))
    last = () if endless is None else (ErrorRun(NEVER_ENDS, endless, False),)
    return Errors((*[run for _, run in runs], *last), stopped)


def with_all_errors(task: Task, verdict: Verdict, limits: Limits) -> Verdict:
    """Return a verdict with the shortest run of each error of its task; a verdict without a bug as it is.

    `limits` are those that the verdict was to keep: what it has taken of the time is gone. Raises UnkeyableError and
    ProgramError.
    """
    if verdict.failure is None:
        return verdict
    deadline = Deadline(limits, spent=verdict.seconds)
    with no_collection(), task.unchanged():
        space = Space(task)
        foresee(space, deadline.left(SHARE_OF_PRE_PASS))
        errors = space.settled(lambda: all_errors(space, deadline.left()))
    found = [FailingRun(replayed(task, run.schedule, run.finding), run.schedule, run.minimal) for run in errors.runs]
    known = Finding.of(verdict.failure)
    if verdict.schedule is not None and all(Finding.of(run.failure) != known for run in found):
        # what the verdict has found is there, whatever a bound has left of this search
        found.append(FailingRun(verdict.failure, verdict.schedule, verdict.complete))
    return replace(verdict, errors=tuple(found), errors_stopped=errors.stopped, seconds=deadline.seconds)
