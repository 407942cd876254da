"""The verdict on one task: safe, or a bug with its shortest schedule; and whether anything was cut."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.load_buffering import LoadBuffering, load_buffering
from fuzzvm.exhaustive.reduced_search import foresee
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.shortest import Wanted, shortest_run
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.stages import SHARE_OF_PRE_PASS, decide
from fuzzvm.machine.errors import Failure, ScheduleError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.schedule import Schedule
from fuzzvm.machine.task import Task
from fuzzvm.supervision.folder import same_folder


@dataclass(frozen=True)
class FailingRun:
    """A run that goes wrong, and how; `minimal` says that no run that goes wrong so is shorter."""

    failure: Failure
    schedule: Schedule
    minimal: bool


@dataclass(frozen=True)
class Verdict:
    """What came of verifying a task.

    `failure` and `schedule` are those of the shortest run that goes wrong, None where none does; a failure without a
    schedule is a bug that was seen when no time or memory was left to find its schedule. `complete` says that
    nothing was cut: every behaviour was explored for a safe verdict, and for a bug no run is shorter. `stopped` names
    the bound that cut it, '' if none. `states` and `transitions` are those of the search that found the verdict,
    `seconds` the time of it all.

    `load_buffering` says, where nothing goes wrong, what is known of the executions that only load buffering has; None
    where the memory model leaves none out.

    What callers add: `met` are the cover points that some explored schedule meets, and `missing` those that the system
    is for and none meets, where nothing goes wrong (`judged`). `errors` has the shortest run of each error, where
    all were asked for, and `errors_stopped` names the bound that cut the search for them, '' if none.
    """

    failure: Failure | None
    schedule: Schedule | None
    complete: bool
    stopped: str
    states: int
    transitions: int
    seconds: float
    load_buffering: LoadBuffering | None = None
    met: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    errors: tuple[FailingRun, ...] = ()
    errors_stopped: str = ""

    @property
    def verdict(self) -> str:
        """'safe', 'bug', or 'vacuous': nothing goes wrong, and something that the system is for does not happen.

        'undecided' is where the search was cut before it had seen any state.
        """
        if self.failure is not None:
            return "bug"
        if not (self.complete or self.states):
            return "undecided"
        return "vacuous" if self.missing else "safe"


@same_folder()
def verify(
    task: Task,
    limits: Limits | None = None,
    *,
    preemptions: int | None = None,
    reduce: bool = True,
    explored: Callable[[Space], None] | None = None,
    keeper: DiskKeeper | None = None,
) -> Verdict:
    """Explore every behaviour of a task, within the limits.

    `preemptions` bounds how often a CPU is interrupted that could have gone on. `reduce` allows partial-order and
    symmetry reduction, under memory models that they know. `explored` is told of the space whose automata know all
    that was explored, before any schedule is replayed. `keeper` keeps searches on disk, and goes on with those that it
    has: the seconds of `limits` are for this process, those of the verdict count in all. Raises CheckpointError,
    DisagreementError where a replay differs, UnkeyableError and ProgramError for a broken mitigation.
    """
    deadline = Deadline(limits)
    with no_collection(), task.unchanged():
        now = decide(task, deadline, preemptions=preemptions, reduce=reduce, keeper=keeper)
    if explored is not None:
        explored(now.space)
    found, shortest = now.found, now.shortest
    assert found is not None
    states, transitions = found.states, found.transitions
    seconds = deadline.seconds + (0.0 if keeper is None else keeper.seconds_before)
    if shortest is None:
        buffering = load_buffering(now.space, complete=found.complete and preemptions is None)
        return Verdict(None, None, found.complete, found.stopped, states, transitions, seconds, buffering)
    if shortest.schedule is None:
        failure = _unseen(found.findings[0])
        return Verdict(failure, None, False, shortest.stopped, states, transitions, seconds)
    failure = replayed(task, shortest.schedule, shortest.finding)
    return Verdict(failure, shortest.schedule, shortest.complete, shortest.stopped, states, transitions, seconds)


def shortest_failure(
    task: Task,
    *,
    error: str | None = None,
    function: str | None = None,
    max_states: int | None = None,
    max_seconds: float | None = None,
) -> tuple[Schedule | None, bool]:
    """Return the failing run with fewest context switches, then fewest steps, and whether nothing was cut.

    Only runs that fail with that error, in that function, count where these are given. (None, True) means that there
    is no such run at all. With a schedule, True means that none is shorter. Raises UnkeyableError and ProgramError.
    """
    with no_collection(), task.unchanged():
        space = Space(task)
        limits = Limits(max_states, max_seconds)
        foresee(space, Deadline(limits).left(SHARE_OF_PRE_PASS))
        found = space.settled(lambda: shortest_run(space, limits, wanted=Wanted(error, function)))
    if found.schedule is not None:
        replayed(task, found.schedule, found.finding)
    return found.schedule, found.complete


def _unseen(finding: Finding) -> Failure:
    """Return a failure of which no run is known."""
    message = "found, and its schedule not within the bound"
    return Failure(finding.error, message, None, (finding.function,) if finding.function else (), 0)


class DisagreementError(AssertionError):
    """A schedule that a search has found goes another way on a machine."""


def replayed(task: Task, schedule: Schedule, finding: Finding | None) -> Failure:
    """Return how a schedule fails on a machine. `finding` None is any failure.

    Raises DisagreementError where it fails otherwise or not: the two executors must agree on it.
    """
    chooser = Replay(schedule)
    try:
        execution = execute(task.machine(), chooser)
        chooser.finish()
    except ScheduleError as error:
        raise DisagreementError(f"the search found {finding}, and the machine says: {error}") from error
    failure = execution.failure
    if failure is None or (finding is not None and Finding.of(failure) != finding):
        raise DisagreementError(f"the search found {finding}, and the machine {failure}")
    return failure


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from walking through millions of states that are all in use."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
