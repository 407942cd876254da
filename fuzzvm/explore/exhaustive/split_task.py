"""One slice searched, as a function of its arguments alone: any process may do it, and do it again.

The states that runs enter a slice by are given as schedules: machines are deterministic, so following one comes to the
same state in every process. Which states are one is decided as in any search, by their numbers in this process, which
stand for exact values; no key, and no hash, goes from process to process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzzvm.explore.exhaustive.limits import Limits, StoppedError, Watch
from fuzzvm.explore.exhaustive.needs import DifferentProgramsError, OutdatedError
from fuzzvm.explore.exhaustive.prefixes import Prefixes
from fuzzvm.explore.exhaustive.shared import Finding
from fuzzvm.explore.exhaustive.slices import Slice, precedes
from fuzzvm.explore.exhaustive.space import LOCAL_MASK, Entry, StateBoundError
from fuzzvm.explore.exhaustive.verdict import no_collection, unchanged_mitigation
from fuzzvm.explore.exhaustive.whole import Lesson, Question, Whole, WholeReduction, forget, known, take
from fuzzvm.machine.schedule import Schedule, Step


@dataclass(frozen=True)
class Explored:
    """What a slice holds: how many states, steps and ends of runs, what goes wrong, and where runs leave it.

    `lessons` are what this process met and had not learnt: nothing else counts then. `stopped` names the bound that
    cut the search, '' if none. `trapped` says that some state leads neither to an end nor out of the slice, where
    that was asked for.
    """

    states: int
    transitions: int
    ends: int
    findings: tuple[Finding, ...] = ()
    exits: tuple[tuple[Slice, Prefixes], ...] = ()
    lessons: tuple[Lesson, ...] = ()
    stopped: str = ""
    trapped: bool = False


def explore(
    question: Question,
    summary: tuple[tuple[int, ...], ...],
    place: Slice,
    entries: Sequence[Prefixes],
    limits: Limits,
    first_only: bool,
    endless: bool,
) -> Explored:
    """Visit every state of a slice that can be reached from its entries without leaving it.

    It stops at the first error unless `first_only` is False. `endless` asks whether a state is trapped.
    Raises DifferentProgramsError where this process knows other programs than the one that `summary` is from.
    """
    whole = known(question)
    if whole.summary != summary:
        raise DifferentProgramsError(
            "processes of one search know different programs: another version of fuzzvm or of a mitigation, or one "
            "that does not do the same every time"
        )
    with no_collection(), unchanged_mitigation(whole.system):
        whole.freshen()
        search = _SliceSearch(whole, place, reduce=question.reduce and not endless, keep_edges=endless)
        found = search.explored(entries, limits, first_only=first_only)
    if found.lessons:
        # what has been met is known from now on, and has to be met again by whoever searches this slice next
        forget()
    return found


@dataclass
class _SliceSearch:
    whole: Whole
    place: Slice
    reduce: bool
    keep_edges: bool
    parents: dict[int, int | None] = field(default_factory=dict)
    """Every state visited, and the one that it was found from; None for entries."""
    exits: dict[int, int] = field(default_factory=dict)
    """States of other slices, and the one in this slice that each was found from."""
    before: dict[int, list[int]] = field(default_factory=dict)
    """States by those that a step leads to, in this slice, if edges are kept."""
    out: set[int] = field(default_factory=set)
    """States of which a step leaves the slice, if edges are kept."""
    schedules: dict[int, Schedule] = field(default_factory=dict)
    """Those that lead to entries."""
    findings: dict[Finding, None] = field(default_factory=dict)
    lessons: list[Lesson] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    transitions: int = 0

    def explored(self, entries: Sequence[Prefixes], limits: Limits, *, first_only: bool) -> Explored:
        """Search the slice."""
        watch = Watch(limits)
        whole = self.whole
        order: list[int] = []
        stopped = ""
        whole.news.clear()
        state = 0
        try:
            self._follow(entries, watch)
            order = list(self.parents)
            steps_of = self._steps_of()
            for state in order:
                self._visit(state, steps_of(state), order)
                if whole.news:
                    self._note_news(state)
                if self.findings and first_only:
                    break
                if len(order) >= watch.next_look:
                    watch.look(len(order))
        except OutdatedError:
            self._note_news(state)
            if not self.lessons:
                raise
        except (StoppedError, StateBoundError) as bound:
            stopped = str(bound)
        except MemoryError:
            count = len(self.parents)
            self.parents.clear()
            return Explored(count, self.transitions, 0, stopped=f"out of memory after {count} states")
        done = not (stopped or self.lessons or self.findings)
        return Explored(
            len(self.parents),
            self.transitions,
            len(self.ends),
            tuple(self.findings),
            tuple(self._leaving()) if not (stopped or self.lessons) else (),
            tuple(self.lessons),
            stopped,
            done and self.keep_edges and self._trapped(),
        )

    def _follow(self, entries: Sequence[Prefixes], watch: Watch) -> None:
        """Find the states that the slice is entered by, each by the first schedule that leads there."""
        space = self.whole.space
        assert isinstance(space.start, int)
        for prefixes in entries:
            states = [space.start]
            steps: list[Step] = []
            for alike, more in prefixes.read():
                del states[alike + 1 :], steps[alike:]
                for step in more:
                    states.append(take(space, states[-1], step))
                    steps.append(step)
                if states[-1] not in self.parents:
                    if len(self.parents) >= watch.next_look:
                        watch.look(len(self.parents))
                    self.parents[states[-1]] = None
                    self.schedules[states[-1]] = tuple(steps)
        # a small slice has no other look at the bounds than this one
        watch.look(len(self.parents) - 1)

    def _steps_of(self) -> Any:
        """Return what returns the steps to take in a state, each with the CPU that it may take to another band."""
        whole = self.whole
        if self.reduce and whole.reduces:
            if whole.reduction is None:
                whole.reduction = WholeReduction(whole)
            return whole.reduction.steps
        space = whole.space
        lanes = [(lane.cpu, lane.mask, lane.table, whole.checked(lane, lane.compute)) for lane in space.lanes]

        def all_steps(state: int) -> list[tuple[int, Entry]]:
            found = []
            for cpu, mask, table, compute in lanes:
                entry = table.get(key := state & mask)
                if entry is None:
                    entry = compute(key)
                if entry:
                    found.append((cpu, entry))
            if space.has_agents:
                found += [(0, ways) for ways in space.agent_steps(state).values()]
            return found

        return all_steps

    def _visit(self, state: int, steps: list[tuple[int, Entry]], order: list[int]) -> None:
        parents = self.parents
        before = self.transitions
        for cpu, entry in steps:
            if isinstance(entry, int):
                if entry:
                    self.transitions += 1
                    following = state + entry
                    if following not in parents or self.keep_edges:
                        self._found(following, state, cpu, order)
                continue
            for _, delta, finding in entry:
                self.transitions += 1
                if finding is not None:
                    self.findings[finding] = None
                elif (following := state + delta) not in parents or self.keep_edges:
                    self._found(following, state, cpu, order)
        if self.transitions == before:
            finding = self.whole.space.ended(state)
            if finding is not None:
                self.findings[finding] = None
            else:
                self.ends.append(state)

    def _found(self, following: int, state: int, cpu: int, order: list[int]) -> None:
        local = following >> self.whole.space.lanes[cpu].shift & LOCAL_MASK
        bands = self.whole.slices.bands[cpu]
        if local >= len(bands):
            # a local state that is not known is no part of any slice, and the search begins again
            return
        if bands[local] != self.place[cpu]:
            self.exits.setdefault(following, state)
            if self.keep_edges:
                self.out.add(state)
            return
        if self.keep_edges:
            self.before.setdefault(following, []).append(state)
        if following not in self.parents:
            self.parents[following] = state
            order.append(following)

    def _note_news(self, state: int) -> None:
        schedule = self._schedule(state)
        self.lessons += [(schedule, cpu) for cpu in sorted(self.whole.news)]
        self.whole.news.clear()

    def _schedule(self, state: int) -> Schedule:
        steps: list[Step] = []
        while (parent := self.parents[state]) is not None:
            steps.append(self._step_between(parent, state))
            state = parent
        return (*self.schedules[state], *reversed(steps))

    def _step_between(self, state: int, following: int) -> Step:
        for agent, way in self.whole.space.steps(state):
            if way.finding is None and state + way.delta == following:
                return (agent, *way.choices)
        raise AssertionError("a visited state has a step from where it was found")

    def _leaving(self) -> Iterator[tuple[Slice, Prefixes]]:
        """Yield the slices that runs leave for, in order, each with schedules to the states that they come to there."""
        slices = self.whole.slices
        schedules: dict[int, Schedule] = {}
        by_slice: dict[Slice, list[Schedule]] = {}
        for following, state in self.exits.items():
            if state not in schedules:
                schedules[state] = self._schedule(state)
            step = self._step_between(state, following)
            by_slice.setdefault(slices.of(following), []).append((*schedules[state], step))
        for place in sorted(by_slice):
            assert precedes(self.place, place), "runs pass through slices in one direction only"
            yield place, Prefixes.of(by_slice[place])

    def _trapped(self) -> bool:
        """Return whether from some state neither an end of runs nor a way out of the slice can be reached."""
        todo = [*self.ends, *self.out]
        ending = set(todo)
        while todo:
            for state in self.before.get(todo.pop(), ()):
                if state not in ending:
                    ending.add(state)
                    todo.append(state)
        return len(ending) < len(self.parents)
