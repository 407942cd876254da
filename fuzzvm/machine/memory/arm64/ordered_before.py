"""What must come before what in a run, whichever way its CPUs were interleaved: Arm's ordered-before relation.

`views` runs programs: it keeps timestamps, which hold in one interleaving. Here the same rules are kept with sets of
events in place of timestamps, for a run that has ended: a set holds the events that something is ordered after. To them
come the edges that follow from what was read (reads-from, from-reads and coherence between CPUs). An edge is there only
if it is there in every run in which all reads return what they returned in this one, and in which interrupts come at
the same places of the programs: a cycle is a proof that no such run exists. Some rules are left out; with them there
would be more edges.

Sets of events are integers, bit n for event n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fuzzvm.machine.memory.arm64.views import ACQUIRES, RELEASES
from fuzzvm.machine.ops import (
    Address,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    object_of,
)

INITIAL = 0
"""The step of the stores that are there from the beginning."""


class Executed(NamedTuple):
    """An operation that a CPU has executed, in which step of the run: a number of its own, greater than 0.

    `source` is the step of the store that it read, `points_to` the number of the object that the value read points to,
    0 if none. Both are 0 for an operation that reads nothing. An IPI is in the program of each CPU: in all but the
    sender's it is `taken`, and has the step of the sender's.
    """

    step: int
    op: Operation
    source: int = INITIAL
    points_to: int = 0
    taken: bool = False


@dataclass
class _Events:
    """The events of a run. An atomic has two, one for each half."""

    after: list[int] = field(default_factory=list)
    """For each event, the set of those that it comes after at once."""
    cpus: list[int] = field(default_factory=list)
    reads: dict[int, int] = field(default_factory=dict)
    """By the step, the event that reads: of a load, of a fetch, of the read half of an atomic."""
    writes: dict[int, int] = field(default_factory=dict)
    stores: dict[Address, list[int]] = field(default_factory=dict)
    """By the location, the steps of its stores: those of one CPU in program order."""
    cpu_of: dict[int, int] = field(default_factory=dict)
    """By the step, the CPU."""
    cleans: dict[Address, list[int]] = field(default_factory=dict)
    invalidations: dict[Address, list[int]] = field(default_factory=dict)
    """Those that a DSB has completed."""
    interrupts: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By the step of an IPI, two events: it has been sent, and all CPUs have taken it."""

    def add(self, cpu: int, after: int) -> int:
        """Add an event and return its set: the bit that stands for it."""
        self.after.append(after)
        self.cpus.append(cpu)
        return 1 << len(self.after) - 1

    def before(self, event: int) -> int:
        """Return the set of all events that come before one."""
        seen = todo = self.after[event]
        while todo:
            lowest = todo & -todo
            more = self.after[lowest.bit_length() - 1] & ~seen
            seen |= more
            todo = (todo ^ lowest) | more
        return seen


class OrderedBefore:
    """The order of the events of a run. `programs` has what each CPU executed, in program order."""

    def __init__(self, programs: Sequence[Sequence[Executed]]) -> None:
        self._programs = programs
        self._events = _Events()
        for cpu, program in enumerate(programs):
            _add_program(self._events, cpu, program)
        self._later = {address: _coherence(programs, steps) for address, steps in self._events.stores.items()}
        self._add_observed()

    def excludes(self, step: int) -> bool:
        """Return whether the load or fetch of that step cannot have read what it read: it comes after a newer store.

        False does not say that it can have read it.
        """
        executed = next(one for program in self._programs for one in program if one.step == step)
        address = getattr(executed.op, "address", 0)
        events = self._events
        newer = self._newer(address, executed.source)
        before = events.before(events.reads[step])
        if not isinstance(executed.op, Fetch):
            return any(before >> events.writes[store] & 1 for store in newer if store)
        # IC-ca: a fetch after an IC, after a DC, after a newer store, does not read an older one
        return any(
            before >> invalidation & 1 and self._covers(address, store, invalidation)
            for invalidation in events.invalidations.get(address, ())
            for store in newer
            if store
        )

    def _newer(self, address: Address, source: int) -> set[int]:
        """Return the steps of the stores that come later in coherence order than that of one step, in any run."""
        later = self._later.get(address, {})
        return later.get(source, set())

    def _covers(self, address: Address, store: int, invalidation: int) -> bool:
        """Return whether there is a DC between a store and an IC."""
        events = self._events
        before = events.before(invalidation)
        return any(
            before >> clean & 1 and events.before(clean) >> events.writes[store] & 1
            for clean in events.cleans.get(address, ())
        )

    def _add_observed(self) -> None:
        """Add the edges between CPUs: rf, fr and co."""
        events = self._events
        for program, one in self._all():
            if one.step not in events.reads:
                continue
            event = events.reads[one.step]
            address = getattr(one.op, "address", 0)
            if one.source and events.cpu_of[one.source] != program:
                events.after[event] |= 1 << events.writes[one.source]
            if isinstance(one.op, Fetch):
                continue
            for store in self._newer(address, one.source):
                if events.cpu_of[store] != program:
                    events.after[events.writes[store]] |= 1 << event
        for later in self._later.values():
            for store, newer in later.items():
                for other in newer if store else ():
                    if events.cpu_of[other] != events.cpu_of[store]:
                        events.after[events.writes[other]] |= 1 << events.writes[store]

    def _all(self) -> Iterator[tuple[int, Executed]]:
        for cpu, program in enumerate(self._programs):
            for one in program:
                yield cpu, one


def _coherence(programs: Sequence[Sequence[Executed]], steps: Sequence[int]) -> dict[int, set[int]]:
    """Return which stores to a location come after which in every run, by their steps; INITIAL comes before all.

    Stores of one CPU are in program order, and an atomic's store comes right after the one that it read.
    """
    stores = set(steps)
    later: dict[int, set[int]] = {INITIAL: set(stores)} | {step: set() for step in stores}
    atomics: dict[int, int] = {}
    for program in programs:
        own = [one for one in program if one.step in stores]
        for number, one in enumerate(own):
            later[one.step] |= {other.step for other in own[number + 1 :]}
            if isinstance(one.op, Rmw):
                atomics[one.step] = one.source
    changed = True
    while changed:
        changed = False
        for store, newer in later.items():
            more = newer.union(*(later[other] for other in newer))
            more |= {atomic for atomic, source in atomics.items() if source == store}
            if store in atomics and atomics[store] in later:
                more |= later[atomics[store]] - {store}
            if more - newer:
                later[store] = more
                changed = True
    return later


def _add_program(events: _Events, cpu: int, program: Sequence[Executed]) -> None:
    """Add the events of a CPU, each after those that its program orders before it."""
    local = _Local(events, cpu)
    for one in program:
        match one.op:
            case Load(address, order) | Await(address, _, order):
                local.load(one, address, order)
            case Store(address, _, order):
                local.store(one, address, order)
            case Rmw(address, _, order):
                read = local.load(one, address, order if order in ACQUIRES else Order.PLAIN)
                written = local.store(one, address, order, after=read)
                if order is Order.ACQUIRE_RELEASE:  # bob: [range([A]; amo; [L])]; po; [M]
                    local.order_all(written)
            case Fence(kind):
                local.fence(kind)
            case CacheMaintenance(operation, address):
                local.maintain(address, clean=operation is CacheOperation.DC_CVAU)
            case Fetch():
                local.fetch(one)
            case InterruptAll():
                local.interrupt(one.step, taken=one.taken)


class _Local:
    """What `Views` remembers of a CPU, with sets of events in place of timestamps."""

    def __init__(self, events: _Events, cpu: int) -> None:
        self._events = events
        self._cpu = cpu
        self._loads = self._stores = self._cleans = 0
        self._invalidations: list[tuple[Address, int]] = []
        self._read_floor = self._write_floor = self._clean_floor = self._invalidate_floor = self._fetch_floor = 0
        self._synchronised = self._released = self._address = 0
        self._learned: dict[int, int] = {}
        """By the object, the last load that returned a pointer to it."""
        self._seen: dict[Address, int] = {}
        self._own: dict[Address, int] = {}
        self._cleaned: dict[Address, int] = {}

    def _depends(self, address: Address) -> int:
        depends = self._learned.get(object_of(address), 0)
        self._address |= depends
        return depends

    def load(self, one: Executed, address: Address, order: Order) -> int:
        after = self._read_floor | self._depends(address) | self._cleaned.get(address, 0)  # dob: addr; po-scl-ob
        if order in (Order.ACQUIRE, Order.ACQUIRE_RELEASE):
            after |= self._released  # bob: [L]; po; [A]
        event = self._events.add(self._cpu, after)
        self._events.reads[one.step] = event.bit_length() - 1
        self._events.cpu_of[one.step] = self._cpu
        self._loads |= event
        self._seen[address] = self._seen.get(address, 0) | event
        if order in ACQUIRES:  # bob: [A | Q]; po; [M]
            self._read_floor |= event
            self._write_floor |= event
        if one.points_to:
            self._learned[one.points_to] = event
        return event

    def store(self, one: Executed, address: Address, order: Order, after: int = 0) -> int:
        # dob: addr, and addr; po; [W]; lmws: R and W of the same location; po-scl-ob; rmw
        after |= self._write_floor | self._address | self._depends(address)
        for same in (self._own, self._seen, self._cleaned):
            after |= same.get(address, 0)
        if order in RELEASES:  # bob: [M]; po; [L]
            after |= self._loads | self._stores
        event = self._events.add(self._cpu, after)
        self._events.writes[one.step] = event.bit_length() - 1
        self._events.cpu_of[one.step] = self._cpu
        self._events.stores.setdefault(address, []).append(one.step)
        self._stores |= event
        self._own[address] = event
        if order in RELEASES:
            self._released |= event
        return event

    def fence(self, kind: Barrier) -> None:
        accesses = self._loads | self._stores | self._cleans
        if kind is Barrier.ISB:  # IFB-ob
            at = self._address | self._synchronised
            self._wait(at)
            self._fetch_floor |= at
        elif kind is Barrier.DMB_ISH:  # bob: dmb.full
            self.order_all(accesses)
            self._clean_floor |= accesses
        elif kind is Barrier.DMB_ISHLD:  # bob: dmb.ld
            self.order_all(self._loads)
        elif kind is Barrier.DMB_ISHST:  # bob: dmb.st
            self._write_floor |= self._stores
        elif kind is Barrier.DSB_ISH:
            self._wait(accesses)
            for address, event in self._invalidations:
                self._wait(event)
                self._events.invalidations.setdefault(address, []).append(event.bit_length() - 1)
            self._invalidations.clear()
        elif kind is Barrier.DSB_ISHLD:
            self._wait(self._loads)
        else:
            self._wait(self._stores)

    def order_all(self, events: int) -> None:
        """Order all loads and stores that follow after these events."""
        self._read_floor |= events
        self._write_floor |= events

    def _wait(self, events: int) -> None:
        """Order everything that follows after these events, fetches apart (DSB-ob)."""
        self.order_all(events)
        self._clean_floor |= events
        self._invalidate_floor |= events
        self._synchronised |= events

    def interrupt(self, step: int, *, taken: bool) -> None:
        """Send an IPI, or take it: who takes it goes on after it was sent, the sender when all have taken it."""
        events = self._events
        if step not in events.interrupts:
            sent = events.add(self._cpu, 0)
            events.interrupts[step] = sent.bit_length() - 1, events.add(self._cpu, sent).bit_length() - 1
        sent_event, done_event = events.interrupts[step]
        before = self._loads | self._stores | self._cleans | self._synchronised | self._write_floor
        events.after[done_event if taken else sent_event] |= before
        at = before | 1 << (sent_event if taken else done_event)
        self._wait(at)
        self._fetch_floor |= at

    def maintain(self, address: Address, *, clean: bool) -> None:
        if not clean:
            self._invalidations.append((address, self._events.add(self._cpu, self._invalidate_floor)))
            return
        after = self._clean_floor | self._own.get(address, 0) | self._seen.get(address, 0)  # po-scl-ob
        event = self._events.add(self._cpu, after | self._cleaned.get(address, 0))
        self._cleaned[address] = event
        self._cleans |= event
        self._events.cleans.setdefault(address, []).append(event.bit_length() - 1)

    def fetch(self, one: Executed) -> None:
        event = self._events.add(self._cpu, self._fetch_floor)
        self._events.reads[one.step] = event.bit_length() - 1
        self._events.cpu_of[one.step] = self._cpu
        # f-ob
        self.order_all(event)
        self._clean_floor |= event
        self._invalidate_floor |= event
