"""The shortest run that goes wrong: fewest context switches, then fewest steps, and proof that none is shorter.

A shortest-path search (Dijkstra 1959) over pairs of state and last agent, ordered by (switches, steps). Steps cost
(0, 1) and (1, 1) only, so a list for each number of switches, and in it one for each number of steps, takes the place
of a priority queue. Nothing is reduced here: a reduction keeps errors, and not the number of their context switches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice

from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.checkpoint.kept import SHORTEST, Kept, Restored, states
from fuzzvm.exhaustive.limits import Keeper, Limits, StoppedError, Watch
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space, StateBoundError, Way
from fuzzvm.machine.schedule import Schedule

AGENT_BITS = 6
_AGENT_MASK = (1 << AGENT_BITS) - 1
_NOBODY = _AGENT_MASK
"""The last agent before the first step."""


@dataclass(frozen=True)
class ShortestRun:
    """What the search found: the schedule (None if no run goes wrong so), and whether nothing was cut.

    With a schedule, `complete` says that it is proven minimal. `states` counts pairs of state and last agent.
    """

    schedule: Schedule | None
    finding: Finding | None
    complete: bool
    states: int
    transitions: int
    stopped: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which findings count: all, or those with this error and function."""

    error: str | None = None
    function: str | None = None

    def __contains__(self, finding: Finding) -> bool:
        return self.error in (None, finding.error) and self.function in (None, finding.function)


ANY = Wanted()


Cost = tuple[int, int]
"""Context switches and steps, in the order in which runs are compared."""
Ending = tuple[int, int | None, Way | None]
"""How a run ends: a pair, and the step after it that goes wrong, if it is a step that does."""


class ShortestSearch:
    """Settles pairs of state and last agent in the order of their cost; `_parents` holds each one's predecessor.

    It ends when no run can be shorter than the best one that it has found.
    """

    def __init__(
        self, space: Space, wanted: Wanted, limits: Limits, *, preemptions: bool, keeper: Keeper | None = None
    ) -> None:
        self.space = self._space = space
        self._wanted = wanted
        self._watch = Watch(limits, keeper, self)
        self._preemptions = preemptions
        self._parents: dict[int, int] = {}
        self.transitions = 0
        self.best: Cost | None = None
        self.reached: Cost = (0, 0)
        """All pairs of a lower cost are settled."""
        self._last: Ending = (0, None, None)
        """How the best run ends."""
        self._switches = self._steps = 0
        """The cost of the pairs that are settled now,"""
        self._settling: tuple[list[tuple[int, int]], int] = ([], 0)
        """those pairs, and how many of them are settled;"""
        self._level: dict[int, list[tuple[int, int]]] = {}
        """pairs to settle with as many switches, by their steps,"""
        self._following: dict[int, list[tuple[int, int]]] = {}
        """and with one more."""
        self._near: list[tuple[int, int]] = []
        self._far: list[tuple[int, int]] = []
        """Those found by settling pairs now, that go with the same number of switches, and with one more."""

    @property
    def states(self) -> int:
        """Number of pairs settled."""
        return len(self._parents)

    def run(self, most: int | None) -> bool:
        """Search the runs with up to `most` switches; return whether that left any out."""
        assert isinstance(self._space.start, int)
        if not self._parents:
            start = self._space.start << AGENT_BITS | _NOBODY
            self._level = {0: [(start, start)]}
        while self._level:
            if most is not None and self._switches > most:
                return True
            while level := self._level:
                # a step costs one, so the next list is nearly always the next number
                while self._steps not in level:
                    self._steps += 1
                self.reached = (self._switches, self._steps)
                if self.best is not None and self.reached >= self.best:
                    return False
                self._settle(level.pop(self._steps), self._switches, self._steps, level, self._following)
            self._level, self._following = self._following, {}
            self._switches += 1
            self._steps = 0
        return False

    def kept(self) -> Kept:
        """Return what has been settled, and the pairs that are left."""
        settling, done = self._settling
        pairs = [settling[done:]]
        rest = [[self._steps, 0, len(pairs[0])]]
        for switches, levels, now in ((0, self._level, self._near), (1, self._following, self._far)):
            # what was found by now comes behind what is there, as it would in the end
            levels = {**levels, **({self._steps + 1: [*levels.get(self._steps + 1, ()), *now]} if now else {})}
            rest += [[steps, switches, len(some)] for steps, some in levels.items()]
            pairs += levels.values()
        pair, agent, way = self._last
        facts = {
            "kind": SHORTEST,
            "states": self.states,
            "transitions": self.transitions + self._watch.transitions,
            "at": [[self._switches, self._steps]],
            "best": None if self.best is None else [list(self.best)],
            "last": None if self.best is None else [pair, agent, None if way is None else [way.choices, way.delta]],
            "error": [] if way is None or way.finding is None else [list(way.finding)],
            "rest": rest,
        }
        waiting = (one for some in pairs for pair in some for one in pair)
        parents = self._parents
        growing: dict[str, tuple[Collection[int], Iterable[int]]] = {
            "settled": (parents, parents),
            "parents": (parents, parents.values()),
        }
        return Kept(facts, {"pairs": states(waiting, self._space, AGENT_BITS)}, growing, AGENT_BITS)

    def restore(self, restored: Restored) -> None:
        """Go on where a search was kept. Raises DamagedError."""
        space = self._space
        read = {name: list(restored.states(name, space, AGENT_BITS)) for name in ("settled", "parents", "pairs")}
        self._parents = dict(zip(read["settled"], read["parents"], strict=True))
        restored.read("settled", self._parents)
        restored.read("parents", self._parents)
        self.transitions = restored.count("transitions")
        ((self._switches, self._steps),) = restored.counts("at")
        pairs = iter(zip(read["pairs"][::2], read["pairs"][1::2], strict=True))
        for steps, switches, count in restored.counts("rest"):
            level = self._following if switches else self._level
            level.setdefault(steps, []).extend(islice(pairs, count))
        if not self._parents or any(parent not in self._parents for parent in read["parents"]):
            raise DamagedError("pairs were not settled from each other")
        if any(steps < self._steps for steps in self._level):
            raise DamagedError("pairs are left that were settled")
        if restored.facts.get("best") is not None:
            ((switches, steps),) = restored.counts("best")
            pair, agent, way = restored.facts["last"]
            found = restored.findings("error")
            choices, delta = way if way is not None else ((), 0)
            numbers = [*choices, delta, 0 if agent is None else agent]
            if pair not in self._parents or len(found) != (way is not None) or set(map(type, numbers)) != {int}:
                raise DamagedError("a run that goes wrong does not end")
            ending = None if way is None else Way(tuple(choices), delta, next(iter(found)))
            self.best, self._last = (switches, steps), (pair, agent, ending)

    def _settle(
        self,
        pairs: list[tuple[int, int]],
        switches: int,
        steps: int,
        level: dict[int, list[tuple[int, int]]],
        following_level: dict[int, list[tuple[int, int]]],
    ) -> None:
        parents = self._parents
        space = self._space
        lanes = [(lane.cpu, lane.mask, lane.table, lane.compute) for lane in space.lanes]
        near = self._near = []
        far = self._far = []
        transitions = 0
        look = self._watch.next_look
        for index, (pair, parent) in enumerate(pairs):
            if pair in parents:
                continue
            if len(parents) >= look:
                self._settling, self._watch.transitions = (pairs, index), transitions
                self._watch.look(len(parents))
                look = self._watch.next_look
            parents[pair] = parent
            state = pair >> AGENT_BITS
            last = pair & _AGENT_MASK
            free = last == _NOBODY or (self._preemptions and not self._can_step(state, last))
            before = transitions
            for cpu, mask, table, compute in lanes:
                key = state & mask
                entry = table.get(key)
                if entry is None:
                    entry = compute(key)
                if isinstance(entry, int):
                    if entry:
                        transitions += 1
                        target = (state + entry) << AGENT_BITS | cpu
                        if target not in parents:
                            (near if free or cpu == last else far).append((target, pair))
                    continue
                transitions += len(entry)
                self._branch(pair, cpu, entry, switches + (not free and cpu != last), steps, near, far, last, free)
            if space.weak:
                for agent, ways in space.agent_steps(state).items():
                    transitions += len(ways)
                    cost = switches + (not free and agent != last)
                    self._branch(pair, agent, ways, cost, steps, near, far, last, free)
            if transitions == before:
                finding = space.ended(state)
                if finding is not None and finding in self._wanted:
                    self._found(finding, (switches, steps), (pair, None, None))
        if near:
            level.setdefault(steps + 1, []).extend(near)
        if far:
            following_level.setdefault(steps + 1, []).extend(far)
        self.transitions += transitions
        self._watch.transitions = 0
        self._settling, self._near, self._far = ([], 0), [], []

    def _branch(
        self,
        pair: int,
        agent: int,
        ways: tuple[Way, ...],
        switches: int,
        steps: int,
        near: list[tuple[int, int]],
        far: list[tuple[int, int]],
        last: int,
        free: bool,
    ) -> None:
        """Take a step that has several ways, or goes wrong."""
        for way in ways:
            if way.finding is not None:
                if way.finding in self._wanted:
                    self._found(way.finding, (switches, steps + 1), (pair, agent, way))
                continue
            target = ((pair >> AGENT_BITS) + way.delta) << AGENT_BITS | agent
            if target not in self._parents:
                (near if free or agent == last else far).append((target, pair))

    def _found(self, finding: Finding, cost: Cost, ending: Ending) -> None:
        if self.best is None or cost < self.best:
            self.best = cost
            self._last = ending

    def _can_step(self, state: int, agent: int) -> bool:
        return any(who == agent for who, _ in self._space.steps(state))

    def result(self) -> tuple[Schedule, Finding]:
        """Return the best run, and what goes wrong in it."""
        pair, _, way = self._last
        finding = way.finding if way is not None else self._space.ended(pair >> AGENT_BITS)
        assert finding is not None
        return self.schedule(self._last), finding

    def schedule(self, ending: Ending) -> Schedule:
        """Return the run that was settled first of those that end so."""
        pair, agent, way = ending
        steps = [] if agent is None or way is None else [(agent, *way.choices)]
        while self._parents[pair] != pair:
            parent = self._parents[pair]
            steps.append(self._step_between(parent, pair))
            pair = parent
        return tuple(reversed(steps))

    def _step_between(self, parent: int, pair: int) -> tuple[int, ...]:
        state, target, agent = parent >> AGENT_BITS, pair >> AGENT_BITS, pair & _AGENT_MASK
        for who, way in self._space.steps(state):
            if who == agent and way.finding is None and state + way.delta == target:
                return (agent, *way.choices)
        raise AssertionError("a settled pair has a step from its parent")


def shortest_run(
    space: Space,
    limits: Limits,
    *,
    wanted: Wanted = ANY,
    most_switches: int | None = None,
    preemptions: bool = False,
    keeper: Keeper | None = None,
    restored: Restored | None = None,
) -> ShortestRun:
    """Return the run that goes wrong as wanted with fewest context switches, then fewest steps.

    `most_switches` bounds the switches. With `preemptions` only those switches count, in bound and order, at which the
    last agent could have gone on (Musuvathi and Qadeer, PLDI 2007, section 2).
    """
    if isinstance(space.start, Finding):
        hit = space.start in wanted
        return ShortestRun(() if hit else None, space.start if hit else None, True, 1, 0)
    run = ShortestSearch(space, wanted, limits, preemptions=preemptions, keeper=keeper)
    if restored is not None:
        run.restore(restored)
    stopped = ""
    try:
        if run.run(most_switches):
            stopped = f"--{'preemptions' if preemptions else 'switches'} {most_switches} reached"
    except (StoppedError, StateBoundError) as bound:
        stopped = str(bound)
    if run.best is None:
        return ShortestRun(None, None, not stopped, run.states, run.transitions, stopped)
    schedule, finding = run.result()
    return ShortestRun(schedule, finding, not stopped, run.states, run.transitions, stopped)
