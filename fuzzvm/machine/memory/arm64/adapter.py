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
  a plain store overtakes earlier loads. The use of freed memory is the exception: `in_flight` names the CPUs that
  have stored since they loaded from an object, with nothing to order the two, so that a free of it that follows from
  the store is seen to race with the load.
- The store half of an atomic takes its place together with the load half. Missed bugs, where a later store of the
  same CPU is seen before a lock is seen taken by a load that does not take the lock.
- Where dependencies are not given, those of an ISB on branches are not known; it waits for addresses and for what a DSB
  waited for. False alarms, where only a branch and an ISB order a fetch or load.
- `in_flight` takes no account of dependencies: false alarms, where only these order a store after a load.
- TLBI is no event of memory here; the barriers around it are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from fuzzvm.machine.memory import Choose, MemoryModel, Needs, Unfinished
from fuzzvm.machine.memory.arm64.normal_form import normal_form
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


@dataclass(frozen=True, slots=True)
class Pending:
    """A store, DC or IC that has been executed and has no place on the timeline yet.

    `epoch` counts store barriers before it; `dependency` is the view of its address, `data` that of its value.
    """

    kind: int
    address: Address
    value: Value
    order: Order
    epoch: int
    dependency: int
    data: int = 0

    def key(self, key_of: Callable[[Value], Hashable]) -> tuple[Hashable, ...]:
        """Return a value that is equal for equal entries."""
        return self.kind, self.address, key_of(self.value), self.order, self.epoch, self.dependency, self.data

    def after(self, earlier: Pending) -> bool:
        """Return whether this must follow a message of the same CPU that was executed before it."""
        if self.kind == INVALIDATE or earlier.kind == INVALIDATE:
            return False  # ordered by DSB only, and a DSB leaves nothing pending
        if self.address == earlier.address:
            return True  # coherence, and po-scl-ob between store and DC
        if self.kind == CLEAN or earlier.kind == CLEAN:
            return False
        return self.order in RELEASES or self.epoch > earlier.epoch


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
    parts = ("_timeline", "_views", "_pending", "_epochs", "_learned", "_loads", "_overtaken", "_tokens")

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self._timeline = Timeline({})
        self._views = [Views() for _ in range(cpus)]
        self._own = 0
        """Bit n: the views of CPU n are looked at by this memory alone, and may change; others are copied first."""
        self._pending: list[tuple[Pending, ...]] = [() for _ in range(cpus)]
        self._epochs = [0] * cpus
        self._learned: list[dict[int, int]] = [{} for _ in range(cpus)]
        self._loads: list[frozenset[int]] = [frozenset() for _ in range(cpus)]
        """Objects that each CPU has loaded from since it last ordered its loads before what follows."""
        self._overtaken: list[frozenset[int]] = [frozenset() for _ in range(cpus)]
        """Those of them that a store of the CPU has followed, which nothing keeps from being seen first."""
        self._tokens: list[dict[int, int]] = [{} for _ in range(cpus)]
        """The views of the loads of each CPU that operations to come may depend on, by the names of these loads."""

    def copy(self) -> Arm64:
        # without the views of a new one, which nobody would look at
        other = Arm64.__new__(Arm64)
        other.cpus = self.cpus
        other.points_to = self.points_to
        other.key_of = self.key_of
        other._timeline = self._timeline
        other._views = list(self._views)
        self._own = other._own = 0
        other._pending = list(self._pending)
        other._epochs = list(self._epochs)
        other._learned = list(self._learned)
        other._loads = list(self._loads)
        other._overtaken = list(self._overtaken)
        other._tokens = list(self._tokens)
        return other

    def state(self) -> tuple[Hashable, ...]:
        key_of = self.key_of
        pending = self._pending
        # views that have been asked for their key stay as they are
        self._own = 0
        return (
            self._timeline.key(key_of),
            tuple([views.frozen_key() for views in self._views]),
            tuple([tuple([entry.key(key_of) for entry in entries]) for entries in pending]) if any(pending) else (),
            tuple(self._epochs),
            tuple([frozenset(learned.items()) for learned in self._learned]) if any(self._learned) else (),
            tuple(self._loads),
            tuple(self._overtaken),
            tuple([frozenset(tokens.items()) for tokens in self._tokens]) if any(self._tokens) else (),
        )

    def normalise(self, needs: Sequence[Needs]) -> None:
        pending = [bool(entries) for entries in self._pending]
        normal = normal_form(self._timeline, self._views, needs, self._learned, pending, self.points_to)
        self._timeline = normal.timeline
        self._views = normal.views
        self._own = 0
        for cpu, points in enumerate(normal.points):
            if self._learned[cpu]:
                rounded = {number: points.round_towards(number, view) for number, view in self._learned[cpu].items()}
                self._learned[cpu] = {number: view for number, view in rounded.items() if view}
            if self._tokens[cpu]:
                tokens = {token: points.round(view) for token, view in self._tokens[cpu].items()}
                self._tokens[cpu] = {token: view for token, view in tokens.items() if view}
            if self._pending[cpu]:
                # epochs of what is pending count from the one that a store would have now
                epochs = sorted({entry.epoch for entry in self._pending[cpu]} | {self._epochs[cpu]})
                self._pending[cpu] = tuple(
                    replace(
                        entry,
                        epoch=epochs.index(entry.epoch),
                        dependency=points.round(entry.dependency),
                        data=points.round(entry.data),
                    )
                    for entry in self._pending[cpu]
                )
                self._epochs[cpu] = len(epochs) - 1
            else:
                self._epochs[cpu] = 0
            if not needs[cpu].overtakes:
                self._loads[cpu] = frozenset()
            if self._loads[cpu] or self._overtaken[cpu]:
                # only a free by another CPU asks for them
                freed = frozenset().union(*(other.frees for number, other in enumerate(needs) if number != cpu))
                self._loads[cpu] &= freed
                self._overtaken[cpu] &= freed

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
        floor = self._views[cpu].load_floor(op.address, self._address_view(cpu, op.address, op.depends), order)
        sources = self._views[cpu].sources(self._timeline, op.address, floor)
        return tuple(self._timeline.value(op.address, source) for source in sources)

    def buffered(self, cpu: int) -> Sequence[tuple[Address, Value]]:
        return [(entry.address, entry.value) for entry in self._pending[cpu] if entry.kind == STORE]

    def in_flight(self, address: Address) -> tuple[int, ...]:
        number = object_of(address)
        return tuple(cpu for cpu, objects in enumerate(self._overtaken) if number in objects)

    def unfinished(self, cpu: int) -> Unfinished:
        locations = {entry.address for entry in self._pending[cpu]}
        for at in self._views[cpu].invalidations:
            address = self._timeline.messages[at - 1].address
            assert isinstance(address, int)
            locations.add(address)
        return Unfinished(frozenset(locations), self._loads[cpu] | self._overtaken[cpu])

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
        views = self._own_views(cpu)
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
            self._loads[cpu] |= {object_of(address)}
        return value

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self._overtake(cpu, op.order)
        dependency = self._address_view(cpu, op.address, op.depends)
        data = self._view_of(cpu, op.depends.data) if op.depends is not None else dependency
        entry = Pending(STORE, op.address, op.value, op.order, self._epochs[cpu], dependency, data)
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
        views = self._own_views(cpu)
        if op.order in RELEASES:
            # bob: [M]; po; [L]. Cache maintenance is not M: a release does not wait for a DC or IC.
            self._put(cpu, frozenset({STORE}))
            self._put_address(cpu, address)
        else:
            self._put_address(cpu, address)
            # bob: [W]; po; [dmb.st]; po; [W], for the store half
            epoch = self._epochs[cpu]
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
        views = self._own_views(cpu)
        self._executed(cpu, op.depends)
        kind = op.kind
        if kind is Barrier.DMB_ISHST:
            self._epochs[cpu] += 1
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
        views = self._own_views(cpu)
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
                self._own_views(other).interrupted(len(self._timeline))
        elif isinstance(op, CacheMaintenance):
            kind = CLEAN if op.operation is CacheOperation.DC_CVAU else INVALIDATE
            self._execute(cpu, Pending(kind, op.address, 0, Order.PLAIN, self._epochs[cpu], 0), choose)

    # Agents: one a CPU, which puts what is pending on the timeline

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, pending in enumerate(self._pending) if pending]

    def step(self, agent: int, choose: Choose) -> None:
        cpu = agent - self.cpus
        pending = self._pending[cpu]
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
        self._views = [Views() for _ in range(self.cpus)]
        self._own = 0
        self._learned = [{} for _ in range(self.cpus)]
        self._tokens = [{} for _ in range(self.cpus)]
        for cpu in range(self.cpus):
            self._order_loads(cpu)

    # Inner parts

    def _own_views(self, cpu: int) -> Views:
        """Return the views of a CPU, to be changed."""
        if not self._own >> cpu & 1:
            self._views[cpu] = self._views[cpu].copy()
            self._own |= 1 << cpu
        return self._views[cpu]

    def _execute(self, cpu: int, entry: Pending, choose: Choose) -> None:
        """Put a message on the timeline at once, with all that must precede it, or keep it pending."""
        self._pending[cpu] = (*self._pending[cpu], entry)
        if choose(2) == 0:
            self._put_last(cpu)
        else:
            self.remark = Buffered()

    def _put_last(self, cpu: int) -> None:
        pending = self._pending[cpu]
        needed = {len(pending) - 1}
        for index in range(len(pending) - 2, -1, -1):
            if any(pending[later].after(pending[index]) for later in needed):
                needed.add(index)
        for done, index in enumerate(sorted(needed)):
            self._take(cpu, index - done)

    def _take(self, cpu: int, index: int) -> None:
        pending = self._pending[cpu]
        entry = pending[index]
        self._pending[cpu] = (*pending[:index], *pending[index + 1 :])
        address = None if entry.kind == COMPLETE else entry.address
        old = self._timeline.latest(entry.address) if self.on_visible is not None else None
        self._timeline = self._timeline.extend(Message(entry.kind, cpu, address, entry.value))
        timestamp = len(self._timeline)
        views = self._own_views(cpu)
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
        while any(map(chosen, self._pending[cpu])):
            pending = self._pending[cpu]
            last = next(index for index, entry in enumerate(pending) if chosen(entry))
            self._pending[cpu] = pending[: last + 1]
            self._put_last(cpu)
            self._pending[cpu] = (*self._pending[cpu], *pending[last + 1 :])

    def _forwarded(self, cpu: int, address: Address) -> Pending | None:
        """Return this CPU's last pending store to a location, which its loads read from."""
        for entry in reversed(self._pending[cpu]):
            if entry.kind == STORE and entry.address == address:
                return entry
        return None

    def _order_loads(self, cpu: int) -> None:
        """Order the CPU's loads so far before everything that follows."""
        self._loads[cpu] = self._overtaken[cpu] = frozenset()

    def _overtake(self, cpu: int, order: Order) -> None:
        """Execute a store of that order: a release follows the CPU's loads, any other may be seen before them."""
        if order in RELEASES:
            self._order_loads(cpu)
        else:
            self._overtaken[cpu] |= self._loads[cpu]

    def _address_view(self, cpu: int, address: Address, depends: Dependencies | None) -> int:
        """Return the view of what an address depends on."""
        if depends is None:
            return self._learned[cpu].get(object_of(address), 0)
        return self._view_of(cpu, depends.address)

    def _view_of(self, cpu: int, loads: frozenset[int]) -> int:
        tokens = self._tokens[cpu]
        return max([tokens.get(token, 0) for token in loads], default=0)

    def _learn(self, cpu: int, value: Value, view: int, depends: Dependencies | None) -> None:
        """Take note of what a load has returned, and of the view that its value carries."""
        if depends is not None:
            self._executed(cpu, depends, view)
        elif number := self.points_to(value):
            # copies of this memory look at the old one
            self._learned[cpu] = {**self._learned[cpu], number: view}

    def _executed(self, cpu: int, depends: Dependencies | None, view: int = 0) -> None:
        """Take note of the branches before an operation, and of what can be depended on after it."""
        if depends is None:
            return
        if branch := self._view_of(cpu, depends.control):
            self._own_views(cpu).branched(branch)
        tokens = self._tokens[cpu]
        if tokens or view:
            kept = {token: tokens[token] for token in depends.live if token in tokens and token != depends.token}
            if view and depends.token >= 0:
                kept[depends.token] = view
            self._tokens[cpu] = kept
