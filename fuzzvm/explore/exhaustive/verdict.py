"""The verdict on one system: safe, or a bug with its shortest schedule; and whether anything was cut."""

from __future__ import annotations

import copy
import dis
import gc
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from fuzzvm.explore.automaton import UnkeyableError
from fuzzvm.explore.exhaustive.limits import Limits, StoppedError
from fuzzvm.explore.exhaustive.memory_use import release_memory
from fuzzvm.explore.exhaustive.progress import NEVER_ENDS, endless_run, may_cycle
from fuzzvm.explore.exhaustive.reduced_search import can_reduce, foresee, search_reduced
from fuzzvm.explore.exhaustive.search import Search, Searched, search
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.shortest import ShortestRun, Wanted, shortest_run
from fuzzvm.explore.exhaustive.some_run import some_run
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.explore.exhaustive.symmetry import AsymmetryError, Symmetry
from fuzzvm.explore.exhaustive.worth import FEW, SAMPLE, NotWorthItError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.schedule import Schedule
from fuzzvm.scenario.system import System

SHARE_FORESEEN = 0.25
"""Part of the time that is spent on learning what CPUs do, where memory is weak."""
SHALLOW = 30_000
"""States, where memory is weak, after which as many are searched in order of context switches before all others are.

A bug is nearly always there after one or two, and a search that goes deep first may pass it by for a long time.
"""
SHARE_OF_SHORTEST = 0.75
"""Of the seconds left when a bug is found, the part for its shortest schedule; the rest is for any schedule."""


ALONE = 10_000
"""States up to which a search is not handed to other processes: beginning there takes longer."""

Elsewhere = Callable[[Limits], Searched | None]
"""Searches the system in other processes, past no error; None where it could not begin within the limits."""


@dataclass(frozen=True)
class Verdict:
    """What came of verifying a system.

    `failure` and `schedule` are those of the shortest run that goes wrong, None where none does; a failure without a
    schedule is a bug that was seen when no time or memory was left to find its schedule. `complete` says that
    nothing was cut: every behaviour was explored for a safe verdict, and for a bug no run is shorter. `stopped` names
    the bound that cut it, '' if none. `states` and `transitions` are those of the search that found the verdict,
    `seconds` the time of it all.
    """

    failure: Failure | None
    schedule: Schedule | None
    complete: bool
    stopped: str
    states: int
    transitions: int
    seconds: float

    @property
    def verdict(self) -> str:
        """'safe' or 'bug'."""
        return "safe" if self.failure is None else "bug"


def verify(
    system: System,
    limits: Limits | None = None,
    *,
    preemptions: int | None = None,
    reduce: bool = True,
    elsewhere: Elsewhere | None = None,
) -> Verdict:
    """Explore every behaviour of a system, within the limits.

    `preemptions` bounds how often a CPU is interrupted that could have gone on. `reduce` allows partial-order and
    symmetry reduction, under memory models that they know. `elsewhere` does the search for the verdict where that is
    large; everything else is done here. Raises UnkeyableError and ProgramError for a broken mitigation, and what
    `elsewhere` raises.
    """
    limits = limits or Limits()
    began = time.monotonic()
    with no_collection(), unchanged_mitigation(system):
        space = Space(system)
        foresee(space, left_of(limits, began, SHARE_FORESEEN))
        found, shortest = None, None
        if preemptions is None:
            found, shortest = _shallow(space, limits, began, reduce=reduce)
        if shortest is not None:
            failure = _replayed(system, shortest)
            seconds = time.monotonic() - began
            return Verdict(failure, shortest.schedule, True, "", shortest.states, shortest.transitions, seconds)
        if found is None and elsewhere is not None:
            found = _searched_elsewhere(space, limits, began, elsewhere, reduce=reduce)
        if found is None:
            found = space.settled(lambda: _search(space, left_of(limits, began), preemptions, reduce=reduce))
        if found.findings and found.findings[0] == NEVER_ENDS and found.endless is not None:
            shortest = ShortestRun(found.endless, NEVER_ENDS, False, found.states, found.transitions)
        elif found.findings:
            shortest = space.settled(lambda: shortest_run(space, left_of(limits, began, SHARE_OF_SHORTEST)))
            if shortest.schedule is None:
                release_memory()
                schedule = space.settled(lambda: some_run(space, left_of(limits, began)))
                shortest = replace(shortest, schedule=schedule)
    seconds = time.monotonic() - began
    if shortest is not None and shortest.schedule is None:
        failure = _unseen(found.findings[0])
        return Verdict(failure, None, False, shortest.stopped, found.states, found.transitions, seconds)
    if shortest is None:
        return Verdict(None, None, found.complete, found.stopped, found.states, found.transitions, seconds)
    failure = _replayed(system, shortest)
    stopped = shortest.stopped
    complete = shortest.complete
    return Verdict(failure, shortest.schedule, complete, stopped, found.states, found.transitions, seconds)


def shortest_failure(
    system: System,
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
    with no_collection(), unchanged_mitigation(system):
        space = Space(system)
        limits = Limits(max_states, max_seconds)
        foresee(space, left_of(limits, time.monotonic(), SHARE_FORESEEN))
        found = space.settled(lambda: shortest_run(space, limits, wanted=Wanted(error, function)))
    if found.schedule is not None:
        _replayed(system, found)
    return found.schedule, found.complete


def _shallow(space: Space, limits: Limits, began: float, *, reduce: bool) -> tuple[Searched | None, ShortestRun | None]:
    """Return what a search finds that is short; else the shortest run that goes wrong, if its switches are few."""
    if not space.has_agents or (limits.max_states is not None and limits.max_states <= SHALLOW):
        return None, None

    def left() -> Limits:
        return replace(left_of(limits, began), max_states=SHALLOW)

    found = space.settled(lambda: _search(space, left(), None, reduce=reduce))
    # its bound may be reached as well by the look for runs that never end, which has no reduction
    if found.findings or found.complete:
        return found, None
    # what it has learnt is not lost: a search that goes further goes the same way first, by look-ups
    shortest = space.settled(lambda: shortest_run(space, left()))
    return None, shortest if shortest.schedule is not None and shortest.complete else None


def _searched_elsewhere(
    space: Space, limits: Limits, began: float, elsewhere: Elsewhere, *, reduce: bool
) -> Searched | None:
    """Return what a large search elsewhere found, and what one here did that is not large; None where neither can."""
    if limits.max_states is not None and limits.max_states <= ALONE:
        return None
    few = replace(left_of(limits, began), max_states=ALONE)
    found = space.settled(lambda: _search(space, few, None, reduce=reduce))
    if found.complete or found.findings:
        return found
    return elsewhere(left_of(limits, began))


def _search(space: Space, limits: Limits, preemptions: int | None, *, reduce: bool) -> Searched:
    if preemptions is not None:
        bounded = shortest_run(space, limits, most_switches=preemptions, preemptions=True)
        findings = () if bounded.finding is None else (bounded.finding,)
        return Searched(bounded.states, bounded.transitions, findings, bounded.stopped)
    began = time.monotonic()
    if not reduce or not can_reduce(space):
        found = search(space, limits)
    elif space.has_agents:
        found = search_reduced(space, limits)
    else:
        found = _search_strongly(space, limits)
    if not found.findings and found.complete and may_cycle(space):
        try:
            endless = endless_run(space, left_of(limits, began))
        except StoppedError as bound:
            return replace(found, stopped=str(bound))
        if endless is not None:
            return replace(found, findings=(NEVER_ENDS,), endless=endless)
    return found


def _search_strongly(space: Space, limits: Limits, *, symmetric: bool = True) -> Searched:
    """Visit every state while there are few; from there on those that reductions leave, if that is worth it."""
    began = time.monotonic()
    every = Search(space, limits)
    found = every.run(pause=FEW)
    try:
        if found is None:
            try:
                return _reduced(space, left_of(limits, began), every.sample(SAMPLE), symmetric=symmetric)
            except NotWorthItError:
                found = every.run()
        assert found is not None
        most = limits.max_states
        if found.complete or found.findings or most is None or found.states < most:
            return found
        # no more states are allowed, and of those that the reductions leave there may be fewer: a few are tried
        few = replace(left_of(limits, began), max_states=min(most, FEW))
        reduced = _reduced(space, few, None, symmetric=symmetric)
        return reduced if reduced.complete or reduced.findings else found
    except AsymmetryError:
        # a mitigation tells apart CPUs that run the same calls; what they learnt of each other is forgotten
        return _search_strongly(Space(space.system), left_of(limits, began), symmetric=False)


def _reduced(space: Space, limits: Limits, sample: Sequence[int] | None, *, symmetric: bool) -> Searched:
    return search_reduced(space, limits, symmetry=Symmetry(space) if symmetric else None, sample=sample)


def left_of(limits: Limits, began: float, share: float = 1.0) -> Limits:
    """Return the limits with that share of the seconds that are left."""
    if limits.max_seconds is None:
        return limits
    left = share * max(0.0, limits.max_seconds - (time.monotonic() - began))
    return replace(limits, max_seconds=left, asked_seconds=limits.asked_seconds or limits.max_seconds)


def _unseen(finding: Finding) -> Failure:
    """Return a failure of which no run is known."""
    message = "found, and its schedule not within the bound"
    return Failure(finding.error, message, None, (finding.function,) if finding.function else (), 0)


def _replayed(system: System, run: ShortestRun) -> Failure:
    """Return how a schedule fails on a machine: the two executors must agree on it."""
    assert run.schedule is not None
    chooser = Replay(run.schedule)
    execution = execute(system.machine(), chooser)
    chooser.finish()
    failure = execution.failure
    if failure is None or (run.finding is not None and Finding.of(failure) != run.finding):
        raise AssertionError(f"the search found {run.finding}, and the machine {failure}")
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


@contextmanager
def unchanged_mitigation(system: System) -> Iterator[None]:
    """Raise UnkeyableError if a mitigation changed itself during a run: what it keeps would be no part of any state."""
    mitigation = system.kernel.mitigation
    held = vars(mitigation)
    before = {name: copy.copy(value) if isinstance(value, list | dict | set) else value for name, value in held.items()}
    yield
    for name, value in held.items():
        if name not in before or (before[name] is not value and before[name] != value):
            raise UnkeyableError(
                f"{type(mitigation).__qualname__}: attribute {name!r} changes during a run; "
                "one mitigation serves all CPUs and all runs, and a hook must not keep anything in it",
                *_keeper(type(mitigation), name),
            )


def _keeper(mitigation: type[Mitigation], attribute: str) -> tuple[str, int]:
    """Return file and line of the hook that sets an attribute, or else of one that uses it."""
    used = [
        (instruction.opname != "STORE_ATTR", function.__code__.co_filename, instruction.positions.lineno)
        for cls in mitigation.__mro__
        for name, function in vars(cls).items()
        if inspect.isfunction(function) and name not in ("__init__", "attach")
        for instruction in dis.get_instructions(function.__code__)
        if instruction.argval == attribute and instruction.positions is not None and instruction.positions.lineno
    ]
    if not used:
        return mitigation.__module__, 0
    _, filename, line = min(used)
    return filename, line or 0
