"""Search with partial-order reduction: of steps that commute with all that others may still do, one order is enough.

In each state a persistent set of CPUs is chosen (Godefroid, LNCS 1032, 1996, section 4.2: closed under "may still
conflict with the next step of a member"), and only those are stepped. That keeps every state in which a run ends, and
so deadlocks and the checks at the end, and a run to an error where there is one.

What a CPU may still touch is read from its automaton, which is compiled by the search itself. So the search assumes
that the automata known when it begins are whole, and is done again where it finds that they were not; the last pass
finds nothing new, and then the assumption holds for every run: a shortest run that left the assumed automata would
take its last step from a local state that the pass has visited, with a response that it has seen, since all steps
postponed before commute with it. (docs/decisions/0005 has the induction.)

A step is postponed for ever only around a cycle of states (the "ignoring problem", Valmari 1990). A CPU that takes part
in such a cycle goes around one of its automaton, so local states that may be there (`recurrence`) never stand for
others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice, permutations
from typing import Any

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.exhaustive.checkpoint.kept import REDUCED, Kept, Restored, states
from fuzzvm.exhaustive.explorer import Goal, explore
from fuzzvm.exhaustive.footprint import Footprints
from fuzzvm.exhaustive.futures import Facts, Futures
from fuzzvm.exhaustive.limits import Keeper, Limits, Watch
from fuzzvm.exhaustive.recurrence import recurrent
from fuzzvm.exhaustive.seen import visited_states
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Entry, Lane, Space, Way
from fuzzvm.exhaustive.symmetry import Symmetry
from fuzzvm.machine.execution import MAX_STEPS

Move = tuple[Entry, int, int, bool]
"""What a CPU's step does (0: it is blocked), what the step touches, what the future conflicts with, may it cycle."""

ORDERS_AHEAD = 6
WALKS_AHEAD = 10
STATES_A_LOOK = 16
"""States of a sample between two looks at the clock: one may take a hundred times as long as in a search."""


class Reduction:
    """The search of one space; `futures` grow while it goes on."""

    def __init__(
        self,
        space: Space,
        limits: Limits,
        symmetry: Symmetry | None = None,
        keeper: Keeper | None = None,
        restored: Restored | None = None,
    ) -> None:
        """Begin a search, or go on where one was kept. Raises CheckpointError."""
        self.space = self._space = space
        self._symmetry = symmetry if symmetry is not None and symmetry.images else None
        self._watch = Watch(limits, keeper, self)
        self._restored = restored
        boot = space.task.booted()
        unwatched = frozenset(range(len(boot.allocator.allocations))) - boot.watched
        self._footprints = self._make_footprints(unwatched)
        self._futures = self._learned("seen", self._footprints)
        self._accesses: list[dict[int, int]] = [{} for _ in space.lanes]
        self._mirrored: list[dict[Node, int]] = [{} for _ in space.lanes]
        """With how many edges a local state was last told to the CPUs that are alike."""
        self._cyclic: list[frozenset[int]] = [frozenset()] * len(space.lanes)
        assert isinstance(space.start, int)
        start = self._symmetry.canonical(space.start) if self._symmetry is not None else space.start
        self.visited = visited_states([start], in_order=keeper is not None)
        self.findings: dict[Finding, None] = {}
        self.ends: set[int] = set()
        self.transitions = 0
        self._reduced: list[int] = []
        """States in which steps were left out, oldest first."""
        self._ahead = False
        """Whether most of what CPUs may touch is known."""
        self._outdated = 0
        """How many of them, from the first, were visited before a future grew, or while it did."""
        self._todo: list[int] = []
        """States that are still to be visited in this round, but for those that are visited again for `_reduced`."""
        self._rounds = 0
        if restored is not None:
            self._restore(restored)

    def _learned(self, name: str, facts: Facts) -> list[Futures]:
        """Return the futures of all CPUs: as far as they are known, or as far as a search that was kept had got."""
        automata = self._space.automata
        if self._restored is None:
            return [Futures(automaton, facts) for automaton in automata]
        kept = self._restored.counts(name)
        for seen, automaton in zip(kept, automata, strict=True):
            if any(count > len(node.edges) for count, node in zip(seen, automaton.nodes, strict=False)):
                raise DamagedError("more is known of CPUs than they do")
        return [Futures(automaton, facts, seen) for automaton, seen in zip(automata, kept, strict=True)]

    def kept(self) -> Kept:
        """Return what has been seen, between two states.

        Left to do are the states of `_todo`, and those of `_reduced` that rest on less than is known now. What is known
        of CPUs is counted, and not what their automata have by now: where a restored search knew more, states that
        were visited before would not be visited again.
        """
        facts: dict[str, Any] = {
            "kind": REDUCED,
            "states": len(self.visited),
            "transitions": self.transitions + self._watch.transitions,
            "findings": [list(one) for one in self.findings],
            "symmetric": self._symmetry is not None,
            "rounds": self._rounds,
            "outdated": self._outdated,
            "cyclic": [sorted(some) for some in self._cyclic],
            "seen": [futures.seen for futures in self._futures],
            "mirrored": [
                [number for node, count in some.items() for number in (node.number, count)] for some in self._mirrored
            ],
        }
        columns = {"stack": states(self._todo, self._space), "ends": states(self.ends, self._space)}
        growing: dict[str, tuple[Collection[int], Iterable[int]]] = {"visited": (self.visited, self.visited)}
        # another list in each round
        growing["reduced"] = (self._reduced, self._reduced)
        return Kept(facts, columns, growing)

    def _restore(self, restored: Restored) -> None:
        space = self._space
        self.visited = visited_states(restored.states("visited", space), in_order=True)
        self._todo = list(restored.states("stack", space))
        self.ends.update(restored.states("ends", space))
        self._reduced = list(restored.states("reduced", space))
        restored.read("visited", self.visited)
        restored.read("reduced", self._reduced)
        self.findings = restored.findings()
        self.transitions = restored.count("transitions")
        self._rounds = restored.count("rounds")
        self._outdated = restored.count("outdated")
        self._cyclic = [frozenset(some) for some in restored.counts("cyclic")]
        for lane, some, known in zip(space.lanes, restored.counts("mirrored"), self._mirrored, strict=True):
            known.update((lane.nodes[number], count) for number, count in zip(some[::2], some[1::2], strict=True))
        if (
            not self.visited.issuperset(self._todo)
            or not self.visited.issuperset(self._reduced)
            or not self._rounds
            or len(self._cyclic) != len(space.lanes)
        ):
            raise DamagedError("states to visit have not been seen")
        self._ahead = True

    def _make_footprints(self, unwatched: frozenset[int]) -> Footprints:
        prop = self._space.task.property
        return Footprints(unwatched, prop.observed(), hardware=prop.hardware)

    def walk_ahead(self) -> None:
        """Take a few runs to their ends, so that most of what CPUs may touch is known before the search begins."""
        lanes = self._space.lanes
        orders = list(islice(permutations(range(len(lanes))), ORDERS_AHEAD))
        for number in range(len(orders) + WALKS_AHEAD):
            turns = random.Random(number)
            order = list(orders[number]) if number < len(orders) else list(range(len(lanes)))
            state = self._space.start
            assert isinstance(state, int)
            # a run that does not end has shown by then what it does
            for _ in range(MAX_STEPS):
                if number >= len(orders):
                    turns.shuffle(order)
                for cpu in order:
                    lane = lanes[cpu]
                    key = state & lane.mask
                    if key >> lane.shift:
                        if key not in self._accesses[cpu]:
                            self._compute(lane, key)
                        entry = lane.table[key]
                        if isinstance(entry, int) and entry:
                            state += entry
                            break
                else:
                    break
            self._watch.check(len(self.visited))
        # from the ends of programs to their beginnings, so that what comes later is told of once
        for cpu, automaton in enumerate(self._space.automata):
            for node in reversed(list(automaton.nodes)):
                self._learn(cpu, node)

    def left_out(self, sample: Sequence[int]) -> int:
        """Return in how many states of a sample steps would be left out. Raises StoppedError, StateBoundError.

        To be asked before `run`, of states that a search without reductions has visited: what that has learnt of CPUs
        is not looked for again.
        """
        self._cyclic = recurrent(self._space.automata, self._space.values)
        self._ahead = True
        lanes = self._lanes()
        for number, state in enumerate(sample):
            self._chosen(state, lanes)
            if number % STATES_A_LOOK == 0:
                self._watch.check(len(self.visited))
        reduced = len(self._reduced)
        self._reduced.clear()
        return reduced

    def run(self, *, first_only: bool) -> int:
        """Search until nothing is left that rests on an outdated assumption; return how many rounds that took."""
        if not self._ahead:
            self.walk_ahead()
        if self._restored is None:
            self._outdated = 0
            self._todo = [*self.visited]
        todo, restored = self._todo, self._restored is not None
        while todo or restored:
            self._rounds += not restored
            restored = False
            self._visit(todo, first_only=first_only)
            if self.findings and first_only:
                break
            cyclic = recurrent(self._space.automata, self._space.values)
            if cyclic != self._cyclic:
                self._cyclic = cyclic
                self._outdated = len(self._reduced)
            todo = self._reduced[: self._outdated]
            self._reduced = self._reduced[self._outdated :]
            self._outdated = 0
        return self._rounds

    def _visit(self, todo: list[int], *, first_only: bool) -> None:
        """Take the steps of a persistent set in each state of `todo` and in all that follow."""
        lanes = self._lanes()
        chosen = self._chosen
        canonical = None if self._symmetry is None else self._symmetry.canonical
        goal = _Errors(self, first_only=first_only)
        self._todo = todo
        transitions = explore(
            todo, self.visited, lambda state: chosen(state, lanes), goal, self._watch, canonical=canonical
        )
        self.transitions += transitions
        self._watch.transitions = 0

    def ended(self, state: int) -> Finding | None:
        """Return what is wrong with a run that ends in a state; keep the state where that is nothing."""
        finding = self._space.ended(state)
        if finding is None:
            self.ends.add(state)
        return finding

    def _lanes(self) -> list[Any]:
        """Return what `_chosen` looks at of each CPU, as far as it is known."""
        return [
            (lane, access, futures.of, futures.places, cyclic, self._computer(lane))
            for lane, access, futures, cyclic in zip(
                self._space.lanes, self._accesses, self._futures, self._cyclic, strict=True
            )
        ]

    def _chosen(self, state: int, lanes: list[Any]) -> list[tuple[int, Entry]]:
        """Return the CPUs of a persistent set of a state, each with its step.

        What a CPU may still do is known without its step. So the steps of others are not worked out where one CPU is
        enough, nor is that of a CPU whose operation alone already conflicts with them.
        """
        running = []
        conflicts = []
        for lane, access, of, places, cyclic, compute in lanes:
            key = state & lane.mask
            local = key >> lane.shift
            if local:
                running.append((lane, key, local, access, compute, local in cyclic))
                conflicts.append(of[places[local]])
        if len(running) > 1:
            least = self._footprints.least
            for index, (lane, key, local, access, compute, cyclic) in enumerate(running):
                if cyclic:
                    continue
                others = 0
                for other, conflict in enumerate(conflicts):
                    if other != index:
                        others |= conflict
                accesses = access.get(key)
                if accesses is None:
                    if least(lane.nodes[local]) & others:
                        continue
                    accesses = compute(key)
                if not accesses & others and lane.table[key]:
                    self._reduced.append(state)
                    return [(lane.cpu, lane.table[key])]
        moves: list[Move] = []
        for (lane, key, _, access, compute, cyclic), conflict in zip(running, conflicts, strict=True):
            accesses = access.get(key)
            if accesses is None:
                accesses = compute(key)
            moves.append((lane.table[key], accesses, conflict, cyclic))
        members = several(moves)
        if len(members) < len(moves):
            self._reduced.append(state)
        return [(running[member][0].cpu, moves[member][0]) for member in members]

    def _computer(self, lane: Lane) -> Callable[[int], int]:
        def compute(key: int) -> int:
            accesses = self._compute(lane, key)
            self._learn(lane.cpu, lane.nodes[key >> lane.shift])
            return accesses

        return compute

    def _compute(self, lane: Lane, key: int) -> int:
        """Work out a step, and return what it touches."""
        lane.compute(key)
        accesses = self._footprints.step(lane.nodes[key >> lane.shift], lane.edges)
        self._accesses[lane.cpu][key] = accesses
        return accesses

    def _learn(self, cpu: int, node: Node) -> None:
        """Take in what is new of a local state: what was concluded without it is to be looked at again."""
        if self._futures[cpu].learn(node):
            self._outdated = len(self._reduced) + 1
        if self._symmetry is not None and self._mirrored[cpu].get(node, 0) != len(node.edges):
            self._mirrored[cpu][node] = len(node.edges)
            # only one of the states that are alike is searched, and each CPU's future counts in all of them
            for other, image in self._symmetry.mirror(cpu, node):
                if self._futures[other].learn(image):
                    self._outdated = len(self._reduced) + 1


class _Errors(Goal):
    """Collects errors and ends."""

    def __init__(self, search: Reduction, *, first_only: bool) -> None:
        self._search = search
        self._first_only = first_only
        self.done = first_only and bool(search.findings)

    def error(self, state: int, agent: int, way: Way) -> None:
        assert way.finding is not None
        self._note(way.finding)

    def end(self, state: int) -> None:
        finding = self._search.ended(state)
        if finding is not None:
            self._note(finding)

    def _note(self, finding: Finding) -> None:
        self._search.findings[finding] = None
        self.done = self._first_only


def several(moves: Sequence[Move]) -> list[int]:
    """Return which moves are a persistent set: what they touch, no CPU outside may ever touch in conflict.

    Of those that contain several moves, as no single one is.
    """
    if len(moves) > 2:
        for index, move in enumerate(moves):
            if move[0]:
                members = _closure(index, moves)
                if len(members) < len(moves) and not any(moves[member][3] for member in members):
                    return members
    return list(range(len(moves)))


def _closure(first: int, moves: Sequence[Move]) -> list[int]:
    """Return the smallest set of CPUs with `first` in it such that no future outside conflicts with a step inside.

    A blocked member's step counts as well: who may unblock it conflicts with it, and so is a member.
    """
    members = [first]
    rest = [index for index in range(len(moves)) if index != first]
    accesses = moves[first][1]
    grown = True
    while grown:
        grown = False
        for index in rest:
            if accesses & moves[index][2]:
                rest.remove(index)
                members.append(index)
                accesses |= moves[index][1]
                grown = True
                break
    return members
