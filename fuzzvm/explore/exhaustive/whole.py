"""A space whose automata are known as a whole before its search begins, by every process that takes part in one.

What a CPU may still do decides what memory forgets, which steps can wait, and which slice a state is in; it is read
from the automata. A search of several processes cannot let them grow: no process would know what the others have seen.
So all of them learn the same before they begin: what sequential consistency shows, which is nearly always everything,
and then the lessons, schedules to what turned out to be missing. A process that meets a response which it has not
learnt says so, and the search begins again with one lesson more. It ends where no process has met any, and then the
automata that all of them had were whole, for the same reason as those of the last round of a search in one process
(docs/decisions/0005 and 0008).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from fuzzvm.explore.automaton import Automaton
from fuzzvm.explore.exhaustive.limits import Limits, StoppedError
from fuzzvm.explore.exhaustive.needs import OutdatedError
from fuzzvm.explore.exhaustive.recurrence import recurrent
from fuzzvm.explore.exhaustive.reduced_search import FORESEEN_STATES, can_reduce, search_reduced
from fuzzvm.explore.exhaustive.reduced_weakly import WeakReduction
from fuzzvm.explore.exhaustive.slices import Slices, weigh
from fuzzvm.explore.exhaustive.space import Entry, Lane, Space
from fuzzvm.machine.schedule import Schedule, Step
from fuzzvm.scenario.system import System

STALE = 500_000
"""Steps known after which a space forgets them and the states it has numbered, between two slices: few come back."""


class Source(Protocol):
    """Says which system is meant, in any process: it is pickled, hashed, and compared."""

    def system(self) -> System:
        """Return the system. Raises MitigationError, ScenarioError, ProgramError."""


Lesson = tuple[Schedule, int]
"""A schedule, and the CPU whose next step shows what was not known."""


@dataclass(frozen=True)
class Question:
    """What is searched: a system, by what has been learnt of it, in slices of up to so many bands for each CPU.

    `reduce` asks for partial-order reduction, where the memory model has some that rests on whole automata.
    """

    source: Source
    bands: int
    reduce: bool
    lessons: tuple[Lesson, ...] = ()


class Whole:
    """What a process knows of a question. Raises StoppedError where the limits do not let it learn that."""

    def __init__(self, question: Question, limits: Limits) -> None:
        self.system = question.source.system()
        self.space = Space(self.system)
        twin = Space(self.system, strong_twin_of=self.space)
        if isinstance(twin.start, int):
            # past its errors, and to a number of states: wherever it is done, the same is learnt
            found = search_reduced(twin, replace(limits, max_states=FORESEEN_STATES), first_only=False)
            if found.stopped and found.states < FORESEEN_STATES:
                raise StoppedError(found.stopped)
        self.space.renew()
        for schedule, cpu in question.lessons:
            self._learn(schedule, cpu)
        self.space.renew()
        weights = [*map(_filled, weigh(twin), self.space.automata)]
        self.slices = Slices(self.space, weights, question.bands)
        self.edges = [[len(node.edges) for node in automaton.nodes] for automaton in self.space.automata]
        """How many responses of each local state of each CPU are known."""
        self.reduces = question.reduce and self.space.has_agents and can_reduce(self.space)
        self.reduction: WholeReduction | None = None
        self.news: set[int] = set()
        """CPUs of which something was met that is not known, since this was last cleared."""

    @property
    def summary(self) -> tuple[tuple[int, ...], ...]:
        """What processes that know the same have in common, and hardly any others."""
        return tuple(
            (len(edges), sum(edges), *[bands.count(band) for band in range(max(bands) + 1)])
            for edges, bands in zip(self.edges, self.slices.bands, strict=True)
        )

    def freshen(self) -> None:
        """Forget numbered states where there are many; what is known of programs stays."""
        if sum(len(lane.table) for lane in self.space.lanes) > STALE:
            self.reduction = None
            if self.space.has_agents:
                self.space.renew()
            else:
                self.space = Space(self.system, strong_twin_of=self.space)

    def is_known(self, cpu: int, local: int) -> bool:
        """Return whether all responses that a CPU has had in a local state are among those that were learnt."""
        edges = self.edges[cpu]
        return local < len(edges) and len(self.space.automata[cpu].nodes[local].edges) == edges[local]

    def checked(self, lane: Lane, compute: Callable[[int], int | Entry]) -> Callable[[int], int | Entry]:
        """Return what computes a step, and notes if that shows what was not known."""

        def checking(key: int) -> int | Entry:
            try:
                return compute(key)
            finally:
                if not self.is_known(lane.cpu, key >> lane.shift):
                    self.news.add(lane.cpu)

        return checking

    def _learn(self, schedule: Schedule, cpu: int) -> None:
        while True:
            try:
                state = self.space.start
                assert isinstance(state, int)
                for step in schedule:
                    state = take(self.space, state, step)
                lane = self.space.lanes[cpu]
                lane.compute(state & lane.mask)
            except OutdatedError:
                self.space.renew()
            else:
                return


def take(space: Space, state: int, step: Step) -> int:
    """Return the state that a step leads to. Raises ValueError where there is no such step."""
    agent = step[0]
    if agent < len(space.lanes):
        lane = space.lanes[agent]
        key = state & lane.mask
        entry = lane.table.get(key)
        if entry is None:
            entry = lane.compute(key)
        if isinstance(entry, int):
            if entry and len(step) == 1:
                return state + entry
            raise ValueError(f"no step {step}")
        ways = entry
    else:
        ways = space.agent_steps(state).get(agent, ())
    for choices, delta, finding in ways:
        if choices == step[1:] and finding is None:
            return state + delta
    raise ValueError(f"no step {step}")


def _filled(weights: list[int], automaton: Automaton) -> list[int]:
    """Return weights for local states that were found later as well."""
    return weights + [1] * (len(automaton.nodes) - len(weights))


class WholeReduction(WeakReduction):
    """What is left of each state's steps: a function of the state alone, as automata are whole and stay so.

    So slices, put together, are one graph of states, which does not depend on the order or the place of searching, and
    no step is ignored in it: take a cycle of this graph, and any state on it. Whose step leads on along the cycle goes
    around a cycle of its automaton, and is in a `recurrent` local state; a buffer's agent only drains what its CPU
    stores around the cycle, so that CPU is in one too. `persistent` leaves no CPU out for the sake of such a one, and
    all steps of that state are there. This asks nothing of a search's stack, nor whether the cycle lies in one slice.

    `recurrent` is asked once, of automata that are whole. A search in one process asks again after each round, as they
    grow; here what was missing is a lesson, and everything is searched again with it.
    """

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        super().__init__(whole.space, Limits())
        self._cyclic = recurrent(whole.space.automata, whole.space.values)
        self._all_lanes = self._lanes()

    def steps(self, state: int) -> list[tuple[int, Entry]]:
        """Return the steps of a persistent set, by CPU; a CPU's buffer's agent counts as that CPU."""
        chosen = self._chosen(state, self._all_lanes)
        self._reduced.clear()
        return chosen

    def _computer(self, lane: Lane) -> Callable[[int], int]:
        return self._whole.checked(lane, super()._computer(lane))  # type: ignore[return-value]


_kept: dict[tuple[Source, int, tuple[Lesson, ...], bool], Whole] = {}
"""What this process knows, of one question at a time; a process that is forked begins with what its parent knew."""


def known(question: Question, limits: Limits | None = None) -> Whole:
    """Return what this process knows of a question; learn it first if need be. Raises StoppedError as Whole does."""
    key = (question.source, question.bands, question.lessons, question.reduce)
    found = _kept.get(key)
    if found is None:
        _kept.clear()
        found = _kept[key] = Whole(question, limits or Limits())
    return found


def forget() -> None:
    """Forget what is known: it has grown beyond what was learnt, or is no longer asked for."""
    _kept.clear()
