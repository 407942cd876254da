"""Whether load buffering could add an execution to those that a search has explored.

The arm64 memory of kernel threads lets no store be seen before an earlier load of its CPU has returned. This looks for
what could come of it, once a search has visited every state and found nothing. A load and a later store of one CPU are
an *early pair* if nothing orders the store behind the load. Load buffering matters only if there is a cycle: from the
store, along accesses of several CPUs that may follow one another, to a store that the load could read. Without such a
cycle over the accesses of the explored automata there is no further execution: docs/decisions/0024 has the proof.

The answer errs on one side. `excluded` is a proof; a pair that is named may be one that no execution makes use of.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fuzzvm.exhaustive.automaton import Automaton, Edge, Node
from fuzzvm.exhaustive.early_pairs import EarlyPairs
from fuzzvm.exhaustive.exclusion import Exclusion
from fuzzvm.exhaustive.futures import Futures
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Await,
    CacheMaintenance,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
)
from fuzzvm.machine.program import Place

ALLOCATOR: Address = -1
"""Stands for what the allocator orders: an allocation comes after earlier frees."""
INTERRUPT: Address = -2
"""Stands for what an IPI to all CPUs orders."""

Event = tuple[bool, Address]
"""An access as far as other CPUs tell it: whether it writes, and its location."""


@dataclass(frozen=True)
class EarlyPair:
    """A load, and a later store of its CPU that could be seen before it: where each stands in its source."""

    cpu: int
    load: Place
    store: Place


@dataclass(frozen=True)
class LoadBuffering:
    """What is known of load buffering beside a verdict.

    `pairs` are those through which it could matter; none means that it adds no execution. `not_looked_at` says why
    nothing is claimed, '' where something is.
    """

    pairs: tuple[EarlyPair, ...] = ()
    not_looked_at: str = ""

    @property
    def in_words(self) -> str:
        """'excluded', 'not excluded' or 'not looked at'."""
        if self.not_looked_at:
            return "not looked at"
        return "not excluded" if self.pairs else "excluded"

    @property
    def excluded(self) -> bool:
        """Whether it is proven that load buffering adds no execution."""
        return not (self.pairs or self.not_looked_at)


def load_buffering(space: Space, *, complete: bool) -> LoadBuffering | None:
    """Look at the automata of a space that was searched and has no error; None where memory leaves nothing out.

    `complete` says whether every state was visited.
    """
    if not memory_models.get(space.task.memory).without_load_buffering:
        return None
    if not complete:
        return LoadBuffering(not_looked_at="the search was cut")
    if space.task.property.hardware:
        return LoadBuffering(not_looked_at="TLBs are followed")
    if any(_loads_code(automaton) for automaton in space.automata):
        return LoadBuffering(not_looked_at="code is loaded as data")
    return LoadBuffering(tuple(_pairs(space)))


def _loads_code(automaton: Automaton) -> bool:
    """Return whether a CPU loads from a location that it does cache maintenance for: a DC orders such loads."""
    nodes = automaton.nodes
    maintained = {node.op.address for node in nodes if isinstance(node.op, CacheMaintenance)}
    return any(isinstance(node.op, Load | Rmw) and node.op.address in maintained for node in nodes)


def _pairs(space: Space) -> Iterator[EarlyPair]:
    """Yield the early pairs that lie on a cycle, each pair of lines once."""
    automata = space.automata
    causes = _Causes(automata)
    closing = [causes.closing(cpu) for cpu in range(len(automata))]
    if not any(closing):
        return
    points_to = space.task.booted().memory.points_to
    early = [EarlyPairs(automaton, space.values, points_to) for automaton in automata]
    exclusion = Exclusion(space)

    @functools.cache
    def apart(cpu: int, address: Address, after: frozenset[int]) -> bool:
        """Return whether no other CPU stores to a location while a CPU stands at one of these places."""
        return all(
            exclusion.apart(cpu, after, other, pairs.until_released(place))
            for other, pairs in enumerate(early)
            if other != cpu
            for place in pairs.stores_to(address)
        )

    for cpu, automaton in enumerate(automata):
        seen = set()
        for load, store, after in early[cpu].on_cycles(closing[cpu]):
            if apart(cpu, load.op.address, after):  # type: ignore[union-attr]
                continue
            pair = EarlyPair(cpu, automaton.place_of(load), automaton.place_of(store))
            if pair not in seen:
                seen.add(pair)
                yield pair


def events_of(op: Operation | None) -> tuple[Event, ...]:
    """Return what an operation may do with locations that other CPUs access."""
    match op:
        case Load(address) | Await(address) | Fetch(address):
            return ((False, address),)
        case Store(address):
            return ((True, address),)
        case Rmw(address):
            return ((False, address), (True, address))
        case CacheMaintenance(_, address):
            # it may come before or after any access of other CPUs to its line
            return ((False, address), (True, address))
        case Alloc() | Free():
            return ((False, ALLOCATOR), (True, ALLOCATOR))
        case InterruptAll():
            return ((False, INTERRUPT), (True, INTERRUPT))
    return ()


class _Events:
    """Facts for `Futures`: one bit for each event of the CPUs."""

    def __init__(self) -> None:
        self.bits: dict[Event, int] = {}

    def of_operation(self, node: Node) -> int:
        """Return the events of a local state's operation."""
        found = 0
        for event in events_of(node.op):
            found |= self.bit(event)
        return found

    def bit(self, event: Event) -> int:
        """Return the bit of an event."""
        return 1 << self.bits.setdefault(event, len(self.bits))

    def of_notes(self, edge: Edge) -> int:
        """Return 0: what a program says is no event."""
        return 0

    def is_last(self, node: Node) -> bool:
        """Return whether what follows does not count."""
        return False


class _Causes:
    """Which events may follow which, over all CPUs: in program order, or by accesses to one location."""

    def __init__(self, automata: Sequence[Automaton]) -> None:
        self._events = _Events()
        futures = [Futures(automaton, self._events) for automaton in automata]
        self._follows: list[dict[Event, int]] = []
        """By CPU and event, the events of the CPU that may follow it, itself included."""
        for automaton, future in zip(automata, futures, strict=True):
            follows: dict[Event, int] = {}
            for node in _first_of_places(automaton):
                for event in events_of(node.op):
                    follows[event] = follows.get(event, 0) | future.of[node.place]
            self._follows.append(follows)
        if any((True, INTERRUPT) in follows for follows in self._follows):
            self._interrupt()

    def _interrupt(self) -> None:
        """Let each CPU be interrupted at any time."""
        sent = self._events.bit((False, INTERRUPT)) | self._events.bit((True, INTERRUPT))
        for follows in self._follows:
            everything = sent
            for event in follows:
                everything |= self._events.bit(event)
                follows[event] |= sent
            follows[False, INTERRUPT] = follows[True, INTERRUPT] = everything

    def closing(self, cpu: int) -> dict[Address, frozenset[Address]]:
        """Return, by the location of a store of a CPU, the locations of its loads that may read what comes of it."""
        loads = {address for write, address in self._follows[cpu] if not write}
        found = {}
        for write, address in self._follows[cpu]:
            if write and (closed := self._written_after(cpu, address) & loads - {address}):
                found[address] = frozenset(closed)
        return found

    def _written_after(self, cpu: int, address: Address) -> set[Address]:
        """Return the locations that other CPUs may write after a CPU's store."""
        known = [0] * len(self._follows)
        todo = [(cpu, self._follows[cpu][True, address])]
        names = list(self._events.bits)
        while todo:
            at, events = todo.pop()
            new = events & ~known[at]
            known[at] |= new
            for event in _of_bits(new, names):
                for other, follows in enumerate(self._follows):
                    if other != at:
                        for entered in _next(event):
                            if entered in follows:
                                todo.append((other, follows[entered]))
        return {
            address
            for other, events in enumerate(known)
            if other != cpu
            for write, address in _of_bits(events, names)
            if write
        }


def _next(event: Event) -> tuple[Event, ...]:
    """Return what may come after an event on another CPU: from-reads; reads-from and coherence."""
    write, address = event
    return ((False, address), (True, address)) if write else ((True, address),)


def _of_bits(bits: int, names: Sequence[Event]) -> Iterator[Event]:
    while bits:
        lowest = bits & -bits
        yield names[lowest.bit_length() - 1]
        bits ^= lowest


def _first_of_places(automaton: Automaton) -> Iterable[Node]:
    """Return one local state of each place: they have one operation."""
    return {node.place: node for node in reversed(automaton.nodes)}.values()
