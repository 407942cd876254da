"""The searches that a verdict is made of, in their order, and when each of them is made.

| stage | when | what it is for |
| --- | --- | --- |
| SC pre-pass | weak memory | learns what CPUs do, so that later searches seldom begin again |
| shallow search | weak memory, preemptions not bounded | small state spaces, and errors that are near |
| shallow shortest run | the shallow search was cut | errors after one or two context switches |
| main search | nothing is decided yet | the verdict |
| shortest run | an error was found | the shortest schedule, and the proof that it is |
| any run | an error was found, and no schedule | some schedule, in what is left of time and memory |

A search is one of `SEARCHES`. One that was complete without an error goes on to look for runs that never end, where
programs have cycles.

`STAGES` is this table as code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper, found_of
from fuzzvm.exhaustive.checkpoint.kept import DONE, EVERY, PACKED, REDUCED, SHORTEST, Restored
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.limits import Limits, StoppedError
from fuzzvm.exhaustive.memory_use import release_memory
from fuzzvm.exhaustive.progress import NEVER_ENDS, endless_run, may_cycle
from fuzzvm.exhaustive.reduced_search import can_reduce, foresee, search_reduced
from fuzzvm.exhaustive.search import Search, Searched, search
from fuzzvm.exhaustive.shortest import ShortestRun, shortest_run
from fuzzvm.exhaustive.some_run import some_run
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.symmetry import AsymmetryError, Symmetry
from fuzzvm.exhaustive.worth import FEW, SAMPLE, NotWorthItError
from fuzzvm.machine.task import Task

SHARE_OF_PRE_PASS = 0.25
"""Part of the time that is spent on learning what CPUs do, where memory is weak."""
SHALLOW = 30_000
"""States, where memory is weak, after which as many are searched in order of context switches before all others are.

A bug is nearly always there after one or two, and a search that goes deep first may pass it by for a long time.
"""
SHARE_OF_SHORTEST = 0.75
"""Of the seconds left when a bug is found, the part for its shortest schedule; the rest is for any schedule."""


@dataclass
class Progress:
    """What is known of a task while its verdict is made.

    `found` is what the search saw that the verdict rests on, `shortest` the run that goes wrong.
    """

    space: Space
    deadline: Deadline
    preemptions: int | None = None
    reduce: bool = True
    found: Searched | None = None
    shortest: ShortestRun | None = None
    keeper: DiskKeeper | None = None
    """Keeps the main search and the shortest run on disk."""
    kept: Restored | None = None
    """Where a search was kept that is to go on."""

    def restored(self, *kinds: str) -> Restored | None:
        """Return where a search of one of these kinds was kept, None where none was; once, as it may begin again."""
        kept, self.kept = self.kept, None
        if kept is not None and kept.kind not in kinds:
            raise DamagedError(f"no search of this verdict is of kind {kept.kind!r}")
        return kept

    @property
    def decided(self) -> bool:
        """Whether an error is known, or that there is none."""
        return self.shortest is not None or (self.found is not None and (self.found.complete or self.has_error))

    @property
    def has_error(self) -> bool:
        """Whether the search for errors has found one."""
        return self.found is not None and bool(self.found.findings)

    @property
    def shallow(self) -> Limits:
        """The limits of the shallow stages."""
        return self.deadline.left(max_states=SHALLOW)


def _weak(now: Progress) -> bool:
    return now.space.weak


def _deep(now: Progress) -> bool:
    """Whether states beyond those of the shallow stages may be searched."""
    most = now.deadline.limits.max_states
    return _weak(now) and now.preemptions is None and (most is None or most > SHALLOW)


def _pre_pass(now: Progress) -> None:
    foresee(now.space, now.deadline.left(SHARE_OF_PRE_PASS))


def _shallow_search(now: Progress) -> None:
    now.found = now.space.settled(lambda: _searched(now, now.shallow))


def _shallow_shortest(now: Progress) -> None:
    # what the search has learnt is not lost: one that goes further goes the same way first, by look-ups
    shortest = now.space.settled(lambda: shortest_run(now.space, now.shallow))
    now.found = None
    if shortest.schedule is not None and shortest.finding is not None and shortest.complete:
        now.found = Searched(shortest.states, shortest.transitions, (shortest.finding,))
        now.shortest = shortest


def _main_search(now: Progress) -> None:
    now.found = now.space.settled(lambda: _searched(now, now.deadline.left(), now.keeper))


def _shortest(now: Progress) -> None:
    found = now.found
    assert found is not None
    if found.endless is not None:
        now.shortest = ShortestRun(found.endless, NEVER_ENDS, False, found.states, found.transitions)
        return
    now.shortest = now.space.settled(
        lambda: shortest_run(
            now.space, now.deadline.left(SHARE_OF_SHORTEST), keeper=now.keeper, restored=now.restored(SHORTEST)
        )
    )


def _any_run(now: Progress) -> None:
    assert now.shortest is not None
    release_memory()
    schedule = now.space.settled(lambda: some_run(now.space, now.deadline.left()))
    now.shortest = replace(now.shortest, schedule=schedule)


class Stage(NamedTuple):
    """A part of a verdict: its name, whether it is made, given what is known, and what it does."""

    name: str
    applies: Callable[[Progress], bool]
    run: Callable[[Progress], None]


STAGES = (
    Stage("SC pre-pass", _weak, _pre_pass),
    Stage("shallow search", _deep, _shallow_search),
    Stage("shallow shortest run", lambda now: _deep(now) and not now.decided, _shallow_shortest),
    Stage("main search", lambda now: not now.decided, _main_search),
    Stage("shortest run", lambda now: now.shortest is None and now.has_error, _shortest),
    Stage("any run", lambda now: now.shortest is not None and now.shortest.schedule is None, _any_run),
)


# Searches


def _searched(now: Progress, limits: Limits, keeper: DiskKeeper | None = None) -> Searched:
    """Look for errors, and where there are none for runs that never end.

    Both at once, as either may find out that CPUs do more than the other assumed.
    """
    deadline = Deadline(limits)
    if now.kept is not None and now.kept.kind == DONE:
        ended = found_of(now.restored(DONE).facts.get("searched"))  # type: ignore[union-attr]
        if ended is None:
            raise DamagedError("a search that has ended has found nothing")
        found = ended
    else:
        found = next(one.run(now, limits, keeper) for one in SEARCHES if one.applies(now))
        if keeper is not None and not found.stopped:
            keeper.ended(now.space, found)
    if found.findings or not found.complete or now.preemptions is not None or not may_cycle(now.space):
        return found
    try:
        endless = endless_run(now.space, deadline.left())
    except StoppedError as bound:
        return replace(found, stopped=str(bound))
    return found if endless is None else replace(found, findings=(NEVER_ENDS,), endless=endless)


def _bounded(now: Progress, limits: Limits, keeper: DiskKeeper | None) -> Searched:
    found = shortest_run(
        now.space,
        limits,
        most_switches=now.preemptions,
        preemptions=True,
        keeper=keeper,
        restored=now.restored(SHORTEST),
    )
    findings = () if found.finding is None else (found.finding,)
    return Searched(found.states, found.transitions, findings, found.stopped)


def _every_state(now: Progress, limits: Limits, keeper: DiskKeeper | None) -> Searched:
    return search(now.space, limits, keeper=keeper, restored=now.restored(EVERY, PACKED))


def _reduced(now: Progress, limits: Limits, keeper: DiskKeeper | None) -> Searched:
    return search_reduced(now.space, limits, keeper=keeper, restored=now.restored(REDUCED))


def _every_state_then_reduced(now: Progress, limits: Limits, keeper: DiskKeeper | None) -> Searched:
    kept = now.restored(EVERY, PACKED, REDUCED)
    try:
        symmetry = Symmetry(now.space) if kept is None or kept.facts.get("symmetric") is not False else None
        return _strongly(now.space, limits, symmetry, keeper, kept)
    except AsymmetryError:
        # CPUs that run the same calls are told apart; what they learnt of each other is forgotten
        now.space = Space(now.space.task)
        return _strongly(now.space, limits, None, keeper, None)


def _strongly(
    space: Space, limits: Limits, symmetry: Symmetry | None, keeper: DiskKeeper | None, kept: Restored | None
) -> Searched:
    """Visit every state while there are few; from there on those that reductions leave, if that is worth it.

    Which of the two it is has been decided where a search was kept: the first few states are not.
    """
    deadline = Deadline(limits)
    if kept is not None and kept.kind == REDUCED:
        return search_reduced(space, limits, symmetry=symmetry, keeper=keeper, restored=kept)
    every = Search(space, limits)
    found = None
    if kept is not None:
        every.restore(kept)
    else:
        found = every.run(pause=FEW)
    if found is None:
        try:
            if kept is not None:
                raise NotWorthItError
            sample = every.sample(SAMPLE)
            return search_reduced(space, deadline.left(), symmetry=symmetry, sample=sample, keeper=keeper)
        except NotWorthItError:
            every.keep_with(keeper)
            found = every.run()
    assert found is not None
    most = limits.max_states
    if found.complete or found.findings or most is None or found.states < most:
        return found
    # no more states are allowed, and of those that the reductions leave there may be fewer: a few are tried
    reduced = search_reduced(space, deadline.left(max_states=min(most, FEW)), symmetry=symmetry)
    return reduced if reduced.complete or reduced.findings else found


class SearchKind(NamedTuple):
    """A way to look for errors: its name, whether it is taken, and what it does within limits."""

    name: str
    applies: Callable[[Progress], bool]
    run: Callable[[Progress, Limits, DiskKeeper | None], Searched]


SEARCHES = (
    SearchKind("bounded preemptions", lambda now: now.preemptions is not None, _bounded),
    SearchKind("every state", lambda now: not now.reduce or not can_reduce(now.space), _every_state),
    SearchKind("reduced, weak memory", _weak, _reduced),
    SearchKind("every state, then reduced", lambda now: True, _every_state_then_reduced),
)
"""The first one that applies is taken."""


def decide(
    task: Task,
    deadline: Deadline,
    *,
    preemptions: int | None = None,
    reduce: bool = True,
    keeper: DiskKeeper | None = None,
) -> Progress:
    """Go through the stages; return what is known in the end.

    A `keeper` keeps what takes long on disk, or has done so in another process: then this goes on from there. Raises
    CheckpointError where it cannot.
    """
    now = Progress(Space(task), deadline, preemptions, reduce, keeper=keeper)
    stages = list(STAGES)
    if keeper is not None and (kept := keeper.restore(now.space)) is not None:
        name, now.found, now.kept = kept
        stages = [stage for stage in stages if stage.name in _KEPT and stages.index(stage) >= _index(name)]
    for stage in stages:
        if keeper is not None:
            keeper.at(stage.name, now.found)
        if stage.applies(now):
            stage.run(now)
    if keeper is not None:
        keeper.at("")
    if now.kept is not None:
        raise DamagedError("the search that it is of is not one of this verdict")
    return now


_KEPT = ("main search", "shortest run", "any run")


def _index(name: str) -> int:
    """Return the place of the stage of that name among all. Raises DamagedError."""
    names = [stage.name for stage in STAGES]
    if name not in _KEPT:
        raise DamagedError(f"no verdict has a stage {name!r}")
    return names.index(name)
