"""Partial-order reduction under memory models with buffers and stale reads: see `reduced`, and `weak_footprint`.

A CPU and its buffer's agent are one here: they are stepped together, or neither is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fuzzvm.exhaustive.checkpoint.kept import Kept
from fuzzvm.exhaustive.footprint import Footprints
from fuzzvm.exhaustive.reduced import Move, Reduction, several
from fuzzvm.exhaustive.space import SHARED_MASK, Entry, Lane, ways_of
from fuzzvm.exhaustive.stepped import SteppedShared
from fuzzvm.exhaustive.weak_footprint import Looks, WeakFootprints
from fuzzvm.machine.ops import Alloc, CacheMaintenance, InterruptAll, Load, Store, object_of

Begun = tuple[tuple[int, int], ...]
"""Accesses and conflicts of what each CPU has begun; empty where nobody has begun anything."""

_AT_ONCE = (0,)


class WeakReduction(Reduction):
    """The search of one space."""

    def _make_footprints(self, unwatched: frozenset[int]) -> Footprints:
        assert isinstance(self._space.shared, SteppedShared)
        self._unwatched = unwatched
        prop = self._space.task.property
        self._hardware = prop.hardware
        automata = self._space.automata
        self._known = [len(automaton.nodes) for automaton in automata]
        """How many local states of each CPU were known when the search began."""
        self._not_idle: list[dict[int, None]] = [{} for _ in automata]
        """Steps whose store is kept back, as it was not known yet that this changes nothing (`WeakFootprints.idle`)."""
        if self._restored is not None:
            (self._known,) = self._restored.counts("known")
            self._not_idle = [dict.fromkeys(some) for some in self._restored.counts("not_idle")]
        known = [automaton.nodes[:count] for automaton, count in zip(automata, self._known, strict=True)]
        ops = [node.op for nodes in known for node in nodes]
        observed = prop.observed([op.label for op in ops if isinstance(op, Alloc)])
        self._weak = WeakFootprints(unwatched, observed, self._space.shared.model, hardware=self._hardware)
        looks = Looks(self._weak, self._space.shared.model)
        self._looks = self._learned("looks", looks)
        self._begun: dict[int, Begun] = {}
        self._entries: list[dict[int, Entry]] = [{} for _ in self._space.lanes]
        """Those of each lane's table of which ways are left out, without them."""
        self._equal: dict[int, int] = {}
        return self._weak

    def kept(self) -> Kept:
        kept = super().kept()
        kept.facts |= {
            "known": [self._known],
            "not_idle": [list(some) for some in self._not_idle],
            "looks": [futures.seen for futures in self._looks],
        }
        return kept

    def walk_ahead(self) -> None:
        """Do nothing: what CPUs may do was looked for under sequential consistency."""

    def _lanes(self) -> list[Any]:
        return [(*known, entries) for known, entries in zip(super()._lanes(), self._entries, strict=True)]

    def _chosen(self, state: int, lanes: list[Any]) -> list[tuple[int, Entry]]:
        """Return the CPUs of a persistent set of a state, each with its steps and those of its buffer's agent."""
        begun = self._begun_at(state & SHARED_MASK)
        running = []
        conflicts = []
        for cpu, known in enumerate(lanes):
            lane = known[0]
            key = state & lane.mask
            local = key >> lane.shift
            conflict = begun[cpu][1] if begun else 0
            if local:
                conflict |= known[2][known[3][local]]
            elif not conflict:
                continue
            running.append((known, key, local))
            conflicts.append(conflict)
        if len(running) > 1:
            least = self._footprints.least
            for index, (known, key, local) in enumerate(running):
                if local in known[4]:
                    continue
                others = 0
                for other, conflict in enumerate(conflicts):
                    if other != index:
                        others |= conflict
                if local and least(known[0].nodes[local]) & others:
                    continue
                entry, accesses = self._step(state, known, key, local, begun)
                if entry and not accesses & others:
                    self._reduced.append(state)
                    return [(known[0].cpu, self._put_early(known[0], key, entry, begun))]
        moves: list[Move] = []
        for (known, key, local), conflict in zip(running, conflicts, strict=True):
            entry, accesses = self._step(state, known, key, local, begun)
            moves.append((entry, accesses, conflict, local in known[4]))
        members = several(moves)
        if len(members) < len(moves):
            self._reduced.append(state)
        elif len(members) == 1:
            # a store that is not kept back is a step left out, too
            self._reduced.append(state)
            known, key, _ = running[0]
            return [(known[0].cpu, self._put_early(known[0], key, moves[0][0], begun))]
        return [(running[member][0][0].cpu, moves[member][0]) for member in members]

    def _step(self, state: int, known: Any, key: int, local: int, begun: Begun) -> tuple[Entry, int]:
        """Return the steps of a CPU and its buffer's agent, and what they touch."""
        lane, access, _, _, _, compute, entries = known
        entry: Entry = 0
        accesses = 0
        if local:
            accesses = access.get(key)
            if accesses is None:
                accesses = compute(key)
            entry = entries.get(key) or lane.table[key]
        if begun:
            accesses |= begun[lane.cpu][0]
            if local and isinstance(lane.nodes[local].op, InterruptAll):
                for others, _ in begun:
                    accesses |= others
            buffered = self._space.agent_steps(state).get(len(self._space.lanes) + lane.cpu)
            if buffered is not None:
                entry = (*ways_of(entry), *buffered)
        return entry, accesses

    def _put_early(self, lane: Lane, key: int, entry: Entry, begun: Begun) -> Entry:
        """Return a step that conflicts with nobody without the way that keeps a page-table entry's store back."""
        if isinstance(entry, int) or len(entry) < 2:
            return entry
        op = lane.nodes[key >> lane.shift].op
        # code might be fetched by the CPU itself, which sees a difference; and hardware that walks page tables sees
        # whether a store is in place before an invalidation
        if self._hardware or not isinstance(op, Store) or object_of(op.address) in self._unwatched:
            return entry
        looks = self._looks[lane.cpu]
        looked_at = looks.of[looks.places[key >> lane.shift]]
        # what the CPU has kept back before may be put in place along with it
        if looked_at and looked_at & (self._weak.written(op) | (begun[lane.cpu][1] if begun else 0)):
            return entry
        kept_back = self._entries[lane.cpu].get(key) or lane.table[key]
        assert not isinstance(kept_back, int)
        return tuple(way for way in entry if way.choices == _AT_ONCE or way not in kept_back)

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
        looks = self._looks[lane.cpu]
        not_idle = self._not_idle[lane.cpu]
        shared: Any = self._space.shared

        def compute_entry(key: int) -> int:
            accesses = compute(key)
            entry = lane.table[key]
            node = nodes[key >> lane.shift]
            if looks.learn(node):
                self._outdated = len(self._reduced) + 1
            if not isinstance(entry, int) and isinstance(node.op, Store | CacheMaintenance) and len(entry) == 2:
                unfinished = shared.unfinished(key & SHARED_MASK)
                # where a store overtakes loads of what may be freed, it matters when it is executed
                if unfinished and unfinished[lane.cpu].objects:
                    pass
                elif key in not_idle or not self._weak.idle(node):
                    not_idle[key] = None
                else:
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
