"""Partial-order reduction under memory models with buffers and stale reads: see `reduced`, and `weak_footprint`.

A CPU and its buffer's agent are one here: they are stepped together, or neither is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzzvm.explore.exhaustive.footprint import Footprints
from fuzzvm.explore.exhaustive.reduced import Move, Reduction, persistent
from fuzzvm.explore.exhaustive.space import SHARED_MASK, Entry, Lane, Way
from fuzzvm.explore.exhaustive.stepped import SteppedShared
from fuzzvm.explore.exhaustive.weak_footprint import WeakFootprints, idle
from fuzzvm.machine.ops import CacheMaintenance, InterruptAll, Load, Store, object_of

Begun = tuple[tuple[int, int], ...]
"""Accesses and conflicts of what each CPU has begun; empty where nobody has begun anything."""

_AT_ONCE = (0,)


class WeakReduction(Reduction):
    """The search of one space."""

    def _make_footprints(self, unwatched: frozenset[int]) -> Footprints:
        assert isinstance(self._space.shared, SteppedShared)
        self._unwatched = unwatched
        self._tlb = self._space.system.kernel.tlb
        self._weak = WeakFootprints(unwatched, self._space.shared.model, tlb=self._tlb)
        self._begun: dict[int, Begun] = {}
        self._entries: list[dict[int, Entry]] = [{} for _ in self._space.lanes]
        """Those of each lane's table of which ways are left out, without them."""
        self._equal: dict[int, int] = {}
        return self._weak

    def walk_ahead(self) -> None:
        """Do nothing: what CPUs may do was looked for under sequential consistency."""

    def _visit(self, todo: list[int], *, first_only: bool) -> None:
        space = self._space
        visited = self.visited
        lanes = self._lanes()
        stack = todo
        transitions = 0
        look = self._watch.next_look
        while stack and not (self.findings and first_only):
            state = stack.pop()
            before = transitions
            for _, entry in self._chosen(state, lanes):
                if isinstance(entry, int):
                    if entry:
                        transitions += 1
                        following = state + entry
                        if following not in visited:
                            visited.add(following)
                            stack.append(following)
                    continue
                for _, delta, finding in entry:
                    transitions += 1
                    if finding is not None:
                        self.findings[finding] = None
                    elif (following := state + delta) not in visited:
                        visited.add(following)
                        stack.append(following)
            if transitions == before:
                finding = space.ended(state)
                if finding is not None:
                    self.findings[finding] = None
                else:
                    self.ends.add(state)
            if len(visited) >= look:
                self._watch.look(len(visited))
                look = self._watch.next_look
        self.transitions += transitions

    def _lanes(self) -> list[Any]:
        """Return what `_chosen` looks at of each CPU, as far as it is known."""
        return [
            (lane, access, futures.of, futures.places, cyclic, self._computer(lane), entries)
            for lane, access, futures, cyclic, entries in zip(
                self._space.lanes, self._accesses, self._futures, self._cyclic, self._entries, strict=True
            )
        ]

    def _chosen(self, state: int, lanes: list[Any]) -> list[tuple[int, Entry]]:
        """Return the CPUs of a persistent set of a state, each with its steps and those of its buffer's agent."""
        space = self._space
        begun = self._begun_at(state & SHARED_MASK)
        agents = space.agent_steps(state) if begun else {}
        moves: list[Move] = []
        owners: list[int] = []
        for cpu, (lane, access, future, places, cyclic, compute, entries) in enumerate(lanes):
            key = state & lane.mask
            local = key >> lane.shift
            if local:
                accesses = access.get(key)
                if accesses is None:
                    accesses = compute(key)
                entry = entries.get(key) or lane.table[key]
                conflicts = future[places[local]]
            elif begun and begun[cpu][1]:
                entry, accesses, conflicts = 0, 0, 0
            else:
                continue
            if begun:
                accesses |= begun[cpu][0]
                conflicts |= begun[cpu][1]
                if local and isinstance(space.automata[cpu].nodes[local].op, InterruptAll):
                    for others, _ in begun:
                        accesses |= others
                buffered = agents.get(len(lanes) + cpu)
                if buffered is not None:
                    entry = (*_ways(entry), *buffered)
            moves.append((entry, accesses, conflicts, local in cyclic))
            owners.append(cpu)
        members = persistent(moves)
        if len(members) < len(moves):
            self._reduced.append(state)
        if len(members) == 1:
            moves[members[0]] = self._put_early(state, owners[members[0]], moves[members[0]])
        return [(owners[member], moves[member][0]) for member in members]

    def _put_early(self, state: int, cpu: int, move: Move) -> Move:
        """Return a step that conflicts with nobody without the way that keeps a page-table entry's store back."""
        entry = move[0]
        if isinstance(entry, int) or len(entry) < 2:
            return move
        lane = self._space.lanes[cpu]
        op = self._space.automata[cpu].nodes[lane.local(state)].op
        # code might be fetched by the CPU itself, which sees a difference; and hardware that walks page tables sees
        # whether a store is in place before an invalidation
        if self._tlb or not isinstance(op, Store) or object_of(op.address) in self._unwatched:
            return move
        key = state & lane.mask
        kept_back = self._entries[cpu].get(key) or lane.table[key]
        assert not isinstance(kept_back, int)
        ways = tuple(way for way in entry if way.choices == _AT_ONCE or way not in kept_back)
        return (ways, *move[1:])

    def _begun_at(self, number: int) -> Begun:
        found = self._begun.get(number)
        if found is None:
            assert isinstance(self._space.shared, SteppedShared)
            unfinished = self._space.shared.unfinished(number)
            found = self._begun[number] = tuple(map(self._weak.unfinished, unfinished))
        return found

    def _computer(self, lane: Lane) -> Callable[[int], int]:
        compute = super()._computer(lane)
        nodes = self._space.automata[lane.cpu].nodes
        entries = self._entries[lane.cpu]
        shared: Any = self._space.shared
        tlb = self._tlb

        def compute_entry(key: int) -> int:
            accesses = compute(key)
            entry = lane.table[key]
            node = nodes[key >> lane.shift]
            if not isinstance(entry, int) and isinstance(node.op, Store | CacheMaintenance) and len(entry) == 2:
                unfinished = shared.unfinished(key & SHARED_MASK)
                # where a store overtakes loads of what may be freed, it matters when it is executed
                if not (unfinished and unfinished[lane.cpu].objects) and idle(shared.model, node, tlb=tlb):
                    entry = tuple(way for way in entry if way.choices == _AT_ONCE)
            elif not isinstance(entry, int) and isinstance(node.op, Load) and all(way.finding is None for way in entry):
                targets = [((key + way.delta) & SHARED_MASK, (key + way.delta) >> lane.shift) for way in entry]
                covered = shared.covered(key & SHARED_MASK, lane.cpu, node, targets)
                entry = tuple(way for index, way in enumerate(entry) if index not in covered)
            if entry != lane.table[key]:
                entries[key] = entry
            if not isinstance(entry, int) and len(entry) > 1:
                accesses |= self._weak.branches[0]
            # there are few that differ, and one for each state and CPU
            accesses = self._accesses[lane.cpu][key] = self._equal.setdefault(accesses, accesses)
            return accesses

        return compute_entry


def _ways(entry: Entry) -> tuple[Way, ...]:
    if isinstance(entry, int):
        return (Way((), entry, None),) if entry else ()
    return entry
