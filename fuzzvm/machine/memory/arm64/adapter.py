"""Runs the programs of a `Machine` on AArch64 memory: each relaxation is a choice of the schedule.

A CPU executes in program order. A load chooses among the stores that its views allow, newest first. A store, DC or IC
takes its place on the timeline at once (way 0) or stays pending in the CPU until an agent of that CPU puts it there,
in any order that coherence, release, barriers and cache-line order allow. A fetch chooses as `Views.fetches` says.

Dependencies. Where an operation says what it depends on (`Dependencies`), that is exact: the view of each load is kept
under the load's name, as long as an operation to come may depend on it. Where it does not, a load through a pointer is
ordered after the load that the pointer came from: per CPU and object, the view of the last load whose value pointed
there is remembered; `points_to` tells which object a value points to.

What is left out, and in which direction it errs:

- Load buffering: a store is never seen before a load that precedes it in its program has returned. Missed bugs, where
  a plain store overtakes earlier loads, unless what CPUs do excludes it (docs/decisions/0024). The use of freed memory
  is the exception: `in_flight` names the CPUs that have stored since they loaded from an object, with nothing to order
  the two, so that a free of it that follows from the store is seen to race with the load.
- The store half of an atomic takes its place together with the load half. Missed bugs, where a later store of the
  same CPU is seen before a lock is seen taken by a load that does not take the lock.
- Where dependencies are not given, those of an ISB on branches are not known; it waits for addresses and for what a DSB
  waited for. False alarms, where only a branch and an ISB order a fetch or load.
- `in_flight` takes no account of dependencies: false alarms, where only these order a store after a load.
- TLBI is no event of memory here; the barriers around it are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from fuzzvm.machine.memory import NOTHING, Choose, MemoryModel, Needs, Unfinished
from fuzzvm.machine.memory.arm64 import kept
from fuzzvm.machine.memory.arm64.local import Local, Pending
from fuzzvm.machine.memory.arm64.normal_form import NormalForms
from fuzzvm.machine.memory.arm64.timeline import CLEAN, COMPLETE, INVALIDATE, STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.views import ACQUIRES, ORDERS_LOADS, RELEASES, Views
from fuzzvm.machine.ops import (
    Address,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Dependencies,
    Fence,
    Fetch,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Tlbi,
    Value,
    object_of,
)
from fuzzvm.machine.remarks import BecameVisible, Buffered, Forwarded, StaleFetch, StaleRead

_ORDERED: dict[Barrier, frozenset[int]] = {
    Barrier.DMB_ISH: frozenset({STORE, CLEAN}),
    Barrier.DSB_ISH: frozenset({STORE, CLEAN, INVALIDATE}),
    Barrier.DSB_ISHST: frozenset({STORE}),
}
"""The kinds of message that a barrier orders before everything, or all that is visible, after it."""

_KINDS = {STORE: "store", CLEAN: "dc cvau", INVALIDATE: "ic ivau"}


class Arm64(MemoryModel):
    """AArch64 memory under a machine."""

    name = "arm64"
    stale_reads = True
    reducible = True
    delays_stores = True
    without_load_buffering = True

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._timeline = Timeline({})
        self._locals = [Local(Views()) for _ in range(cpus)]
        self._fresh = (1 << cpus) - 1
        """Bit n: nobody else looks at the part of CPU n, so that it may change; others are copied first."""
        self._known: Timeline | None = None
        """The timeline, if `_forms` has it."""
        self._forms = NormalForms()

    def copy(self) -> Arm64:
        other = Arm64.__new__(Arm64)
        other.cpus = self.cpus
        other.points_to = self.points_to
        other.key_of = self.key_of
        other._timeline = self._timeline
        fresh = other._fresh = self._fresh
        other._locals = [local.copy() if fresh >> cpu & 1 else local for cpu, local in enumerate(self._locals)]
        other._known = self._known
        other._forms = self._forms
        return other

    def compared_by(self, key_of: Callable[[Value], Hashable]) -> None:
        super().compared_by(key_of)
        self._forms = NormalForms()
        self._known = None
        self._fresh = (1 << self.cpus) - 1
        self._locals = [local.copy() for local in self._locals]

    def state(self) -> tuple[Hashable, ...]:
        key_of = self.key_of
        return (self._timeline.key(key_of), *[local.key(key_of) for local in self._locals])

    def parts(self) -> tuple[Hashable, ...]:
        forms, key_of = self._forms, self.key_of
        if self._timeline is not self._known:
            self._timeline = self._known = forms.timeline(self._timeline, key_of)
        if self._fresh:
            for cpu, local in enumerate(self._locals):
                if self._fresh >> cpu & 1:
                    self._locals[cpu] = forms.local(local, key_of)
            self._fresh = 0
        return (self._timeline, *self._locals)

    def normalise(self, needs: Sequence[Needs]) -> None:
        self.parts()
        self._timeline, self._locals = self._forms.normal(
            self._timeline, self._locals, needs, self.points_to, self.key_of
        )
        self._known = self._timeline

    def kept(self, share: Callable[[Any], int], number: Callable[[Value], int]) -> Any:
        return list(map(share, self.parts()))

    def kept_part(self, part: Timeline | Local, number: Callable[[Value], int]) -> Any:
        return kept.data_of(part, number)

    def part_of(self, data: Any, value: Callable[[int], Value]) -> Timeline | Local:
        part = kept.part_of(data, value)
        forms, key_of = self._forms, self.key_of
        return forms.timeline(part, key_of) if isinstance(part, Timeline) else forms.local(part, key_of)

    def of_kept(self, data: Any, parts: Sequence[Any], value: Callable[[int], Value]) -> Arm64:
        other = self.copy()
        timeline, *locals_ = [parts[number] for number in data]
        if not isinstance(timeline, Timeline) or [type(one) for one in locals_] != [Local] * self.cpus:
            raise ValueError("a memory has other parts")
        if max(map(kept.latest, locals_)) > len(timeline):
            raise ValueError("a view is behind the end of the timeline")
        other._timeline = other._known = timeline
        other._locals = locals_
        other._fresh = 0
        return other

    def contents(self) -> Mapping[Address, Value]:
        return self._timeline.contents()  # type: ignore[return-value]

    def peek(self, address: Address) -> Value:
        return self._timeline.latest(address)

    def visible(self, cpu: int, address: Address) -> Value:
        own = self._forwarded(cpu, address)
        return self._timeline.latest(address) if own is None else own.value

    def readable(self, cpu: int, address: Address) -> tuple[Value, ...]:
        return self._may_read(cpu, Load(address), Order.PLAIN)

    def _may_read(self, cpu: int, op: Load | Rmw, order: Order) -> tuple[Value, ...]:
        own = self._forwarded(cpu, op.address)
        if own is not None:
            return (own.value,)
        views = self._locals[cpu].views
        floor = views.load_floor(op.address, self._address_view(cpu, op.address, op.depends), order)
        sources = views.sources(self._timeline, op.address, floor)
        return tuple(self._timeline.value(op.address, source) for source in sources)

    def buffered(self, cpu: int) -> Sequence[tuple[Address, Value]]:
        return [(entry.address, entry.value) for entry in self._locals[cpu].pending if entry.kind == STORE]

    def in_flight(self, address: Address) -> tuple[int, ...]:
        number = object_of(address)
        return tuple(cpu for cpu, local in enumerate(self._locals) if number in local.overtaken)

    def unfinished(self, cpu: int) -> Unfinished:
        local = self._locals[cpu]
        if not (local.pending or local.loads or local.overtaken or local.views.invalidations):
            return NOTHING
        locations = {entry.address for entry in local.pending}
        for at in local.views.invalidations:
            address = self._timeline.messages[at - 1].address
            assert isinstance(address, int)
            locations.add(address)
        return Unfinished(frozenset(locations), local.loads | local.overtaken)

    @classmethod
    def settles(cls, op: Operation, earlier: Operation) -> bool:
        if isinstance(op, InterruptAll):
            return True
        kind = STORE
        if isinstance(earlier, CacheMaintenance):
            kind = CLEAN if earlier.operation is CacheOperation.DC_CVAU else INVALIDATE
        if isinstance(op, Fence):
            return kind in _ORDERED.get(op.kind, ())
        return isinstance(op, Rmw) and op.order in RELEASES and kind == STORE and op.expected is None

    @classmethod
    def orders_loads(cls, op: Operation) -> bool:
        match op:
            case Fence(kind):
                return kind in ORDERS_LOADS
            case Store(order=order):
                return order in RELEASES
            case Rmw(order=order):
                # one that compares may be a load
                return order in RELEASES and op.expected is None
        return isinstance(op, InterruptAll)

    # Operations

    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        if op.order in (Order.ACQUIRE, Order.ACQUIRE_RELEASE):
            self._put_releases(cpu)
        # A wait has ended: it reads what ended it.
        return self._load(cpu, op, op.order, (lambda ways: 0) if isinstance(op, Await) else choose)

    def _load(
        self, cpu: int, op: Load | Await | Rmw, order: Order, choose: Choose, other_than: tuple[Value] | None = None
    ) -> Value:
        """Load a value that may be read; with `other_than`, one that is not that."""
        views = self._own(cpu).views
        address = op.address
        dependency = self._address_view(cpu, address, op.depends)
        own = self._forwarded(cpu, address)
        floor = views.load_floor(address, dependency, order)
        if own is not None:
            source = views.cells[address].own if address in views.cells else 0
            value = own.value
            if op.depends is not None:
                floor = max(floor, own.dependency, own.data)  # dob: (addr | data); lmrs
            self.remark = Forwarded()
        else:
            sources = views.sources(self._timeline, address, floor)
            if other_than is not None:
                sources = [source for source in sources if self._timeline.value(address, source) != other_than[0]]
            source = sources[choose(len(sources)) if len(sources) > 1 else 0]
            value = self._timeline.value(address, source)
            stores = self._timeline.stores(address)
            if stores and source != stores[-1]:
                newest = self._timeline.messages[stores[-1] - 1]
                self.remark = StaleRead(newest.value, newest.cpu)
        loaded = views.loaded(address, source, floor, dependency, order)
        self._learn(cpu, value, loaded.view, op.depends)
        if order not in ACQUIRES:
            self._own(cpu).loads |= {object_of(address)}
        return value

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self._overtake(cpu, op.order)
        dependency = self._address_view(cpu, op.address, op.depends)
        data = self._view_of(cpu, op.depends.data) if op.depends is not None else dependency
        entry = Pending(STORE, op.address, op.value, op.order, self._locals[cpu].epoch, dependency, data)
        self._executed(cpu, op.depends)
        self._execute(cpu, entry, choose)

    def rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        address = op.address
        if op.expected is not None:
            order = Order.ACQUIRE if op.order in ACQUIRES else Order.PLAIN
            if order is Order.ACQUIRE:
                self._put_releases(cpu)
            writes = self.visible(cpu, address) == op.expected[0]
            others = [value for value in self._may_read(cpu, op, order) if value != op.expected[0]]
            way = choose(writes + len(others)) if writes + len(others) > 1 else 0
            if not writes or way:
                return self._load(cpu, op, order, lambda ways: way - writes, op.expected)
        views = self._own(cpu).views
        if op.order in RELEASES:
            # bob: [M]; po; [L]. Cache maintenance is not M: a release does not wait for a DC or IC.
            self._put(cpu, frozenset({STORE}))
            self._put_address(cpu, address)
        else:
            self._put_address(cpu, address)
            # bob: [W]; po; [dmb.st]; po; [W], for the store half
            epoch = self._locals[cpu].epoch
            self._put_chosen(cpu, lambda entry: entry.kind == STORE and entry.epoch < epoch)
            if op.order is Order.ACQUIRE:
                self._put_releases(cpu)
        dependency = self._address_view(cpu, address, op.depends)
        self._overtake(cpu, op.order)
        load_order = op.order if op.order in ACQUIRES else Order.PLAIN
        floor = views.load_floor(address, dependency, load_order)
        source = views.sources(self._timeline, address, floor)[0]
        old = self._timeline.value(address, source)
        loaded = views.loaded(address, source, floor, dependency, load_order, quiet=op.quiet)
        data = self._view_of(cpu, op.depends.data) if op.depends is not None else 0
        self._learn(cpu, old, loaded.view, op.depends)
        new = op.update(old)
        self._timeline = self._timeline.extend(Message(STORE, cpu, address, new))
        timestamp = len(self._timeline)
        views.stored(
            address, timestamp, op.order, dependency=max(dependency, data), chain=max(loaded.view, data),
            chain_pick=max(loaded.pick, data), exclusive=loaded.at,
        )  # fmt: skip
        if op.order is Order.ACQUIRE_RELEASE:
            views.after_atomic(timestamp)
        if self.on_visible is not None:
            self.on_visible(address, old, new)
        return old

    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        views = self._own(cpu).views
        self._executed(cpu, op.depends)
        kind = op.kind
        if kind is Barrier.DMB_ISHST:
            self._own(cpu).epoch += 1
        elif kind in _ORDERED:
            # The barrier is executed once what it orders is in place; put there earlier, it was the agent's choice.
            self._put(cpu, _ORDERED[kind])
        if kind in ORDERS_LOADS:
            self._order_loads(cpu)
        views.fence(kind)
        if kind is Barrier.DSB_ISH and views.invalidations:
            self._timeline = self._timeline.extend(Message(COMPLETE, cpu, None, views.invalidations))
            views.completed(len(self._timeline))

    def fetch(self, cpu: int, op: Fetch, choose: Choose) -> Value:
        views = self._own(cpu).views
        self._executed(cpu, op.depends)
        ways = views.fetches(self._timeline, op.address)
        source, place = ways[choose(len(ways)) if len(ways) > 1 else 0]
        views.fetch(place)
        newest = self._timeline.latest(op.address)
        instruction = self._timeline.value(op.address, source)
        if instruction != newest:
            self.remark = StaleFetch(newest)
        return instruction

    def maintain(self, cpu: int, op: CacheMaintenance | Tlbi | InterruptAll, choose: Choose) -> None:
        self._executed(cpu, op.depends)
        if isinstance(op, InterruptAll):
            # kick_all_cpus_sync: full barrier of the sender, then each CPU takes an exception, whose handler's
            # acquire and release order it after the sender and the sender's return after it (kernel/smp.c).
            self._put_all(cpu)
            for other in (*[other for other in range(self.cpus) if other != cpu], cpu):
                self._put_all(other)
                self._order_loads(other)
                self._own(other).views.interrupted(len(self._timeline))
        elif isinstance(op, CacheMaintenance):
            kind = CLEAN if op.operation is CacheOperation.DC_CVAU else INVALIDATE
            self._execute(cpu, Pending(kind, op.address, 0, Order.PLAIN, self._locals[cpu].epoch, 0), choose)

    # Agents: one a CPU, which puts what is pending on the timeline

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, local in enumerate(self._locals) if local.pending]

    def step(self, agent: int, choose: Choose) -> None:
        cpu = agent - self.cpus
        pending = self._locals[cpu].pending
        ready = [
            index for index, entry in enumerate(pending) if not any(entry.after(earlier) for earlier in pending[:index])
        ]
        index = ready[choose(len(ready)) if len(ready) > 1 else 0]
        entry = pending[index]
        self.remark = BecameVisible(_KINDS[entry.kind], entry.address, entry.value)
        self._take(cpu, index)

    def owner(self, agent: int) -> int:
        return agent - self.cpus

    def synchronise(self) -> None:
        for cpu in range(self.cpus):
            self._put_all(cpu)
        self._timeline = Timeline(self._timeline.contents())
        self._locals = [Local(Views()) for _ in range(self.cpus)]
        self._fresh = (1 << self.cpus) - 1

    # Inner parts

    def _own(self, cpu: int) -> Local:
        """Return the part of a CPU, to be changed."""
        if not self._fresh >> cpu & 1:
            self._locals[cpu] = self._locals[cpu].copy()
            self._fresh |= 1 << cpu
        return self._locals[cpu]

    def _execute(self, cpu: int, entry: Pending, choose: Choose) -> None:
        """Put a message on the timeline at once, with all that must precede it, or keep it pending."""
        self._own(cpu).pending += (entry,)
        if choose(2) == 0:
            self._put_last(cpu)
        else:
            self.remark = Buffered()

    def _put_last(self, cpu: int) -> None:
        pending = self._locals[cpu].pending
        needed = {len(pending) - 1}
        for index in range(len(pending) - 2, -1, -1):
            if any(pending[later].after(pending[index]) for later in needed):
                needed.add(index)
        for done, index in enumerate(sorted(needed)):
            self._take(cpu, index - done)

    def _take(self, cpu: int, index: int) -> None:
        local = self._own(cpu)
        pending = local.pending
        entry = pending[index]
        local.pending = (*pending[:index], *pending[index + 1 :])
        address = None if entry.kind == COMPLETE else entry.address
        old = self._timeline.latest(entry.address) if self.on_visible is not None else None
        self._timeline = self._timeline.extend(Message(entry.kind, cpu, address, entry.value))
        timestamp = len(self._timeline)
        views = local.views
        if entry.kind == STORE:
            views.stored(
                entry.address, timestamp, entry.order, dependency=max(entry.dependency, entry.data),
                address_pick=entry.dependency, chain=entry.data, chain_pick=entry.data,
            )  # fmt: skip
        elif entry.kind == CLEAN:
            views.cleaned(entry.address, timestamp)
        else:
            views.invalidated(timestamp)
        if self.on_visible is not None and entry.kind == STORE:
            self.on_visible(entry.address, old, entry.value)

    def _put(self, cpu: int, kinds: frozenset[int]) -> None:
        """Put the pending messages of some kinds on the timeline, oldest first, with what must precede them."""
        self._put_chosen(cpu, lambda entry: entry.kind in kinds)

    def _put_all(self, cpu: int) -> None:
        self._put_chosen(cpu, lambda entry: True)

    def _put_address(self, cpu: int, address: Address) -> None:
        self._put_chosen(cpu, lambda entry: entry.address == address and entry.kind != INVALIDATE)

    def _put_releases(self, cpu: int) -> None:
        """Put pending releases on the timeline: an acquire that follows waits for them."""
        self._put_chosen(cpu, lambda entry: entry.order in RELEASES)

    def _put_chosen(self, cpu: int, chosen: Callable[[Pending], bool]) -> None:
        while any(map(chosen, self._locals[cpu].pending)):
            local = self._own(cpu)
            pending = local.pending
            last = next(index for index, entry in enumerate(pending) if chosen(entry))
            local.pending = pending[: last + 1]
            self._put_last(cpu)
            local.pending += pending[last + 1 :]

    def _forwarded(self, cpu: int, address: Address) -> Pending | None:
        """Return this CPU's last pending store to a location, which its loads read from."""
        for entry in reversed(self._locals[cpu].pending):
            if entry.kind == STORE and entry.address == address:
                return entry
        return None

    def _order_loads(self, cpu: int) -> None:
        """Order the CPU's loads so far before everything that follows."""
        local = self._locals[cpu]
        if local.loads or local.overtaken:
            local = self._own(cpu)
            local.loads = local.overtaken = frozenset()

    def _overtake(self, cpu: int, order: Order) -> None:
        """Execute a store of that order: a release follows the CPU's loads, any other may be seen before them."""
        if order in RELEASES:
            self._order_loads(cpu)
        else:
            local = self._own(cpu)
            local.overtaken |= local.loads

    def _address_view(self, cpu: int, address: Address, depends: Dependencies | None) -> int:
        """Return the view of what an address depends on."""
        if depends is None:
            return self._locals[cpu].learned.get(object_of(address), 0)
        return self._view_of(cpu, depends.address)

    def _view_of(self, cpu: int, loads: frozenset[int]) -> int:
        tokens = self._locals[cpu].tokens
        return max([tokens.get(token, 0) for token in loads], default=0)

    def _learn(self, cpu: int, value: Value, view: int, depends: Dependencies | None) -> None:
        """Take note of what a load has returned, and of the view that its value carries."""
        if depends is not None:
            self._executed(cpu, depends, view)
        elif number := self.points_to(value):
            # copies of this memory look at the old one
            local = self._own(cpu)
            local.learned = {**local.learned, number: view}

    def _executed(self, cpu: int, depends: Dependencies | None, view: int = 0) -> None:
        """Take note of the branches before an operation, and of what can be depended on after it."""
        if depends is None:
            return
        if branch := self._view_of(cpu, depends.control):
            self._own(cpu).views.branched(branch)
        tokens = self._locals[cpu].tokens
        if tokens or view:
            kept = {token: tokens[token] for token in depends.live if token in tokens and token != depends.token}
            if view and depends.token >= 0:
                kept[depends.token] = view
            self._own(cpu).tokens = kept
