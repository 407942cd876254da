"""A search in several processes: slice after slice (see `slices`), those side by side that no run gets to from another.

Each slice is searched once, when all that leads into it has been: so no state is visited twice, and the number of
states is that of one process, whatever the number of processes. What goes from process to process are schedules to the
states in which runs cross from slice to slice. Nobody keeps the states of slices that have been searched.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from fuzzvm.explore.exhaustive.limits import Limits, StoppedError
from fuzzvm.explore.exhaustive.needs import DifferentProgramsError
from fuzzvm.explore.exhaustive.prefixes import Prefixes
from fuzzvm.explore.exhaustive.progress import NEVER_ENDS, endless_run, may_cycle
from fuzzvm.explore.exhaustive.search import Searched
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.slices import Slice, first_ones
from fuzzvm.explore.exhaustive.split_task import Explored, explore
from fuzzvm.explore.exhaustive.verdict import left_of
from fuzzvm.explore.exhaustive.whole import Lesson, Question, Source, Whole, forget, known
from fuzzvm.explore.processes import Caller

BANDS = 6
"""Bands of a CPU. More of them are more slices side by side, and more states that cross from one to another."""
SHARE_LEARNT = 0.25
"""Of the seconds that there are, the part for learning what CPUs do."""


@dataclass
class Split:
    """Searches one system in up to `jobs` processes; `call` makes the calls, `show` hears the states visited so far.

    `limits` of memory are for each process. `bands` is the number of bands that a CPU's program is cut into.
    """

    source: Source
    jobs: int
    call: Caller
    reduce: bool = True
    bands: int = BANDS
    show: Callable[[int], None] | None = None

    def search(self, limits: Limits, *, first_only: bool = True) -> Searched | None:
        """As `search`, for this system; None where there is no time or memory to learn what CPUs do.

        Raises DifferentProgramsError where a process does not know the programs that this one knows, and what `call`
        raises.
        """
        try:
            return self._search(limits, first_only=first_only)
        finally:
            forget()

    def _search(self, limits: Limits, *, first_only: bool) -> Searched | None:
        began = time.monotonic()
        lessons: tuple[Lesson, ...] = ()
        passes = 0
        while True:
            passes += 1
            question = Question(self.source, self.bands, self.reduce, lessons)
            try:
                whole = known(question, left_of(limits, began, SHARE_LEARNT))
            except StoppedError as bound:
                return Searched(0, 0, (), str(bound)) if lessons else None
            if isinstance(whole.space.start, Finding):
                return Searched(1, 0, (whole.space.start,))
            found = self._pass(question, whole, left_of(limits, began), first_only=first_only)
            if not found.lessons and found.safe and may_cycle(whole.space):
                again = self._pass(question, whole, left_of(limits, began), first_only=first_only, endless=True)
                found.lessons = again.lessons
                found.findings = again.findings
                found.stopped = again.stopped
                found.trapped = again.trapped
            if not found.lessons:
                break
            lessons = self._longer(lessons, found.lessons)
        searched = Searched(found.states, found.transitions, tuple(found.findings), found.stopped, passes=passes)
        if not found.trapped:
            return searched
        # that there is a run which never ends is certain, and its shortest beginning is looked for in one process
        endless = None
        with contextlib.suppress(StoppedError):
            endless = whole.space.settled(lambda: endless_run(whole.space, left_of(limits, began)))
        return replace(searched, findings=(NEVER_ENDS,), endless=endless)

    @staticmethod
    def _longer(lessons: tuple[Lesson, ...], new: tuple[Lesson, ...]) -> tuple[Lesson, ...]:
        """Return all lessons. Raises DifferentProgramsError where none is new, as programs are not what was learnt."""
        found = tuple(dict.fromkeys((*lessons, *new)))
        if len(found) == len(lessons):
            raise DifferentProgramsError("a mitigation does not do the same every time: what it did once, it does not")
        return found

    def _pass(
        self, question: Question, whole: Whole, limits: Limits, *, first_only: bool, endless: bool = False
    ) -> _Tally:
        """Search all slices with what has been learnt so far, or until it turns out not to be enough."""
        began = time.monotonic()
        tally = _Tally(limits)
        space = whole.space
        assert isinstance(space.start, int)
        waiting: dict[Slice, list[Prefixes]] = {whole.slices.of(space.start): [Prefixes.of([()])]}
        one_by_one = False
        while waiting and not (tally.over or (tally.findings and first_only) or tally.trapped):
            ready = first_ones(list(waiting))
            if one_by_one:
                del ready[1:]
            left = replace(left_of(limits, began), max_states=tally.share(len(ready)))
            arguments = [(question, whole.summary, place, waiting[place], left, first_only, endless) for place in ready]
            results = self._call(arguments, tally.states)
            for place, explored in zip(ready, results, strict=True):
                share = left.max_states
                if explored.stopped and len(ready) > 1 and share is not None and explored.states >= share:
                    # its share was too small, and what others left of theirs may be enough
                    one_by_one = True
                    continue
                tally.add(explored)
                del waiting[place]
                for following, prefixes in explored.exits:
                    waiting.setdefault(following, []).append(prefixes)
        return tally

    def _call(self, arguments: list[tuple[Any, ...]], states: int) -> list[Explored]:
        """Return what came of calls, in the order of their arguments."""
        results: dict[int, Explored] = {}
        running: Generator[tuple[int, Explored], None, None] = self.call(explore, arguments, self.jobs)
        try:
            for index, explored in running:
                results[index] = explored
                states += explored.states
                if self.show is not None:
                    self.show(states)
        finally:
            running.close()
        return [results[index] for index in range(len(arguments))]


@dataclass
class _Tally:
    """What the slices of a pass hold together, so far."""

    limits: Limits
    states: int = 0
    transitions: int = 0
    ends: int = 0
    findings: dict[Finding, None] = field(default_factory=dict)
    lessons: tuple[Lesson, ...] = ()
    stopped: str = ""
    trapped: bool = False

    @property
    def over(self) -> bool:
        """Whether the rest of the pass is of no use."""
        return bool(self.stopped or self.lessons)

    @property
    def safe(self) -> bool:
        """Whether everything was visited, and nothing goes wrong."""
        return not (self.stopped or self.findings)

    def share(self, slices: int) -> int | None:
        """Return how many states each of some slices may have, for all to stay within the bound."""
        most = self.limits.max_states
        return None if most is None else max(1, (most - self.states) // slices)

    def add(self, explored: Explored) -> None:
        """Count a slice."""
        self.states += explored.states
        self.transitions += explored.transitions
        self.ends += explored.ends
        self.findings.update(dict.fromkeys(explored.findings))
        self.lessons = (*self.lessons, *explored.lessons)
        self.trapped = self.trapped or explored.trapped
        most = self.limits.max_states
        if explored.stopped.startswith("--max-states"):
            self.stopped = self.stopped or f"--max-states {most} reached"
        elif explored.stopped:
            # a process counts the states of its slice only
            what, after, _ = explored.stopped.partition(" after ")
            self.stopped = f"{what} after {self.states} states" if after else what
        elif most is not None and self.states >= most:
            self.stopped = self.stopped or f"--max-states {most} reached"
