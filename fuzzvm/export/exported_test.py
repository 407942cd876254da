"""The litmus test that a run is exported as: can these threads make one use a table that the other has freed?

A litmus test has straight code. So each CPU's operations are taken as they were executed in the run, with the values
that it read as a condition: what else a branch would have done is not asked. Locks become a word that is taken by the
first try or not at all, as in the litmus test of the arm64 commit; a free becomes a write to a word of the table, and a
use a read of it that depends on the pointer. What only one CPU touches is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import run
from fuzzvm.export.errors import ExportError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.locking.lock import LockAction, lock_action
from fuzzvm.kernel.pgtable import TableLabel, table_pointed_to
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Address,
    Alloc,
    Await,
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Order,
    Rmw,
    Store,
    Tlbi,
    Value,
    object_of,
    offset_of,
)
from fuzzvm.machine.trace import TraceStep
from fuzzvm.report.states import StatesOf


@dataclass(frozen=True)
class Read:
    """A read that returned `value`; `depends` is the place in the thread of the read that its address came from."""

    place: str
    value: int
    order: Order = Order.PLAIN
    depends: int | None = None


@dataclass(frozen=True)
class Write:
    """A write; `depends` as for a read."""

    place: str
    value: int
    order: Order = Order.PLAIN
    depends: int | None = None


@dataclass(frozen=True)
class Update:
    """An atomic update that found `old`."""

    place: str
    old: int
    new: int
    order: Order = Order.PLAIN


@dataclass(frozen=True)
class Lock:
    """A lock that is taken at the first try."""

    place: str
    order: Order = Order.ACQUIRE


@dataclass(frozen=True)
class Unlock:
    """A lock that is released."""

    place: str
    order: Order = Order.RELEASE


@dataclass(frozen=True)
class Ordering:
    """A barrier."""

    kind: Barrier


@dataclass(frozen=True)
class Maintain:
    """DC or IC of a patched site."""

    place: str
    operation: CacheOperation


@dataclass(frozen=True)
class Execute:
    """The execution of a patched site that took the branch or did not."""

    place: str
    taken: bool


Action: TypeAlias = Read | Write | Update | Lock | Unlock | Ordering | Maintain | Execute


@dataclass(frozen=True)
class ExportedTest:
    """Threads, and what the places hold at first; the answer is whether all reads can return what they say.

    `meanings` says in words what a place is, and what its values stand for; `left_out` names what has no counterpart.
    """

    name: str
    case: TestCase
    threads: tuple[tuple[Action, ...], ...]
    cpus: tuple[int, ...]
    initial: dict[str, int]
    sites: dict[str, bool]
    """Patched sites, and whether their branch is there at first."""
    meanings: dict[str, str]
    left_out: tuple[str, ...]


FREED = 1
FREED_PLACE = "freed"
"""The word that the free of the table writes, and its use reads."""


def exported_test_of(case: TestCase, mitigation: type[Mitigation]) -> ExportedTest:
    """Return the litmus test of a run in which one CPU reads through a table that another one frees.

    Raises ExportError where there is none, ScheduleError where the schedule does not fit.
    """
    if case.scenario.arch != "arm64":
        raise ExportError(f"the code of {case.scenario.arch} has no counterpart in AArch64 instructions")
    if case.scenario.beyond_calls:
        raise ExportError(f"{case.scenario.beyond_calls} has no counterpart in a litmus test")
    states = StatesOf(case.schedule)
    machine, execution = run(case, mitigation, tracing=True, chooser=states)
    trace = [step for step in machine.trace or [] if step.op is not None]
    if execution.failure is not None and execution.failure.error not in (
        "use-after-free-read",
        "use-after-free-write",
        "use-after-free-reused",
    ):
        raise ExportError(f"{execution.failure.error} is no question of what a read returns: nothing to export")
    pair = _pair(machine, trace)
    if pair is None:
        raise ExportError("in this run no CPU reads through a table that another one frees: nothing to ask")
    return _Builder(case, machine, states.boot, trace, *pair).exported()


def _pair(machine: Machine, trace: Sequence[TraceStep]) -> tuple[TraceStep, TraceStep] | None:
    """Return the free of a table and the use of it by another CPU: the failing one, or the last one that went well."""
    freed = {object_of(step.op.address): step for step in trace if isinstance(step.op, Free)}
    found = None
    for step in trace:
        if isinstance(step.op, Load | Store | Rmw):
            free = freed.get(object_of(step.op.address))
            if free is not None and free.cpu != step.cpu:
                found = free, step
    return found


@dataclass
class _Thread:
    cpu: int
    actions: list[Action] = field(default_factory=list)
    pointers: dict[int, int] = field(default_factory=dict)
    """The place of the last read that returned a pointer to each object."""

    def add(self, action: Action) -> int:
        self.actions.append(action)
        return len(self.actions) - 1


class _Builder:
    def __init__(
        self,
        case: TestCase,
        machine: Machine,
        boot: Mapping[Address, Value],
        trace: Sequence[TraceStep],
        free: TraceStep,
        use: TraceStep,
    ) -> None:
        assert isinstance(free.op, Free)
        self._case = case
        self._machine = machine
        self._boot = boot
        self._trace = trace
        self._free = free
        self._use = use
        self._table = object_of(free.op.address)
        self._codes: dict[str, dict[Value, int]] = {}
        self._meanings: dict[str, str] = {}
        self._initial: dict[str, int] = {}
        self._sites: dict[str, bool] = {}
        self._left_out: dict[str, None] = {}
        self._threads: dict[int, _Thread] = {}
        self._exclusive = {
            step.op.address
            for step in trace
            if isinstance(step.op, Rmw | Await) and (action := lock_action(step.op, step.response)) and action.write
        }
        """Locks that somebody takes for writing: readers alone exclude nobody."""

    def exported(self) -> ExportedTest:
        for step in self._trace:
            thread = self._threads.setdefault(step.cpu, _Thread(step.cpu))
            if step.cpu == self._free.cpu and step.number > self._free.number:
                continue
            self._take(thread, step)
        threads = _sliced([_merged(self._threads[cpu].actions) for cpu in sorted(self._threads)])
        kept = {action.place for thread in threads for action in thread if not isinstance(action, Ordering)}
        cpus = [cpu for cpu, thread in zip(sorted(self._threads), threads, strict=True) if thread]
        return ExportedTest(
            name=self._name(),
            case=self._case,
            threads=tuple(tuple(thread) for thread in threads if thread),
            cpus=tuple(cpus),
            initial={place: value for place, value in self._initial.items() if place in kept} | _own_initial(threads),
            sites={place: taken for place, taken in self._sites.items() if place in kept},
            meanings={place: self._meaning(place) for place in sorted(kept)},
            left_out=tuple(self._left_out),
        )

    def _name(self) -> str:
        scheme = "".join(letter if letter.isalnum() else "-" for letter in self._case.mitigation).strip("-")
        return f"{scheme}-{self._case.expect.error or 'safe'}-{self._case.identity()}"

    def _take(self, thread: _Thread, step: TraceStep) -> None:
        op = step.op
        if step is self._use:
            thread.add(Read(self._freed(), FREED, depends=thread.pointers.get(self._table)))
            return
        action = lock_action(op, step.response)
        if action is not None:
            self._lock(thread, action, step)
            return
        match op:
            case Load(address, order) | Await(address, _, order):
                place = self._place(address)
                index = thread.add(Read(place, self._code(place, step.response), order, self._depends(thread, address)))
                if target := table_pointed_to(step.response):
                    thread.pointers[target] = index
            case Store(address, value, order):
                place = self._place(address)
                if place in self._sites:
                    thread.add(Write(place, int(bool(value)), order))
                else:
                    thread.add(Write(place, self._code(place, value), order, self._depends(thread, address)))
            case Rmw(address, update, order):
                place = self._place(address)
                old, new = self._code(place, step.response), self._code(place, update(step.response))
                thread.add(Update(place, old, new, order))
            case Fence(kind):
                thread.add(Ordering(kind))
            case Fetch(address):
                thread.add(Execute(self._place(address), bool(step.response)))
            case CacheMaintenance(operation, address):
                thread.add(Maintain(self._place(address), operation))
            case Free(address) if step is self._free:
                thread.add(Write(self._freed(), FREED, depends=thread.pointers.get(object_of(address))))
            case Tlbi():
                self._left_out["TLBI: no memory event here, the barriers around it are"] = None
            case InterruptAll():
                self._left_out[
                    "the IPI to all CPUs: without it a CPU may see less, never more, of what was patched"
                ] = None
            case Alloc() | Free():
                pass

    def _lock(self, thread: _Thread, action: LockAction, step: TraceStep) -> None:
        assert isinstance(step.op, Rmw | Await)
        if step.op.address not in self._exclusive:
            return
        place = self._place(step.op.address)
        if action.downgrade:
            raise ExportError(f"{place} is downgraded from writing to reading: a lock in a litmus test is one or free")
        if action.queued:
            return  # it is taken where the wait for it ends
        if action.release:
            thread.add(Unlock(place, step.op.order))
        elif action.failed:
            thread.add(Read(place, 1))
        else:
            thread.add(Lock(place, step.op.order))

    def _depends(self, thread: _Thread, address: Address) -> int | None:
        return thread.pointers.get(object_of(address))

    def _freed(self) -> str:
        place = FREED_PLACE
        label = self._machine.allocator.allocations[self._table].label
        self._meanings[place] = f"1 once {label} is freed"
        return place

    def _place(self, address: Address) -> str:
        allocation = self._machine.allocator.allocations[object_of(address)]
        label = allocation.label
        if isinstance(label, TableLabel):
            name = f"{label.level.name.lower()}{allocation.number}_{offset_of(address)}"
            meaning = f"entry {offset_of(address)} of {label}"
        else:
            meaning = f"{label}[{offset_of(address)}]" if allocation.size > 1 else str(label)
            name = "".join(letter if letter.isalnum() else "_" for letter in meaning).strip("_")
        if name not in self._meanings:
            self._meanings[name] = meaning
            initial = self._boot.get(address, 0)
            if any(isinstance(step.op, Fetch) and step.op.address == address for step in self._trace):
                self._sites[name] = bool(initial)
            else:
                self._codes[name] = {0: 0}
                self._initial[name] = self._code(name, initial)
        return name

    def _code(self, place: str, value: Value) -> int:
        codes = self._codes[place]
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2 and value not in codes:
            codes[value] = value
        if value not in codes:
            codes[value] = max(codes.values()) + 1
        return codes[value]

    def _meaning(self, place: str) -> str:
        values = ", ".join(f"{code} = {value!r}" for value, code in self._codes.get(place, {}).items() if code > 1)
        return self._meanings[place] + (f"; {values}" if values else "")


def _merged(thread: list[Action]) -> list[Action]:
    """Return a thread without plain reads that say nothing that the read of the place before them does not say.

    That is so where both return the same through the same pointer, and nothing between them is a barrier, an acquire,
    or a write to the place: whatever the first may read, the second may read too, and what is ordered before the
    second is ordered before the first.
    """
    kept: list[Action] = []
    moved: dict[int, int] = {}
    standing: dict[str, tuple[Read, int]] = {}
    for index, action in enumerate(thread):
        if isinstance(action, Read | Write) and action.depends is not None:
            action = replace(action, depends=moved[action.depends])
        plain = isinstance(action, Read | Write) and action.order in (Order.PLAIN, Order.RELEASE)
        if isinstance(action, Read) and plain:
            first, place = standing.get(action.place, (None, 0))
            if first == action:
                moved[index] = place
                continue
            standing[action.place] = action, len(kept)
        elif isinstance(action, Write) and plain:
            standing.pop(action.place, None)
        else:
            standing.clear()
        moved[index] = len(kept)
        kept.append(action)
    return kept


def _sliced(threads: list[list[Action]]) -> list[list[Action]]:
    """Return the threads without what only one of them touches, or all of them only read, and without idle barriers.

    An acquire or a release stays as a barrier does, whatever its place: it orders what is around it. `depends` is kept
    right. Taking something out can make something else idle, so it goes on until nothing changes.
    """
    while True:
        threads = [_fenced(thread, _elsewhere(threads, number)) for number, thread in enumerate(threads)]
        places = [{_place_of(action) for action in thread} - {None} for thread in threads]
        written = {
            _place_of(action) for thread in threads for action in thread if not isinstance(action, Read | Execute)
        }
        shared = {place for place in set().union(*places) if sum(place in mine for mine in places) > 1} & written
        following = [_kept(thread, shared) for thread in threads]
        if following == threads:
            return threads
        threads = following


def _elsewhere(threads: list[list[Action]], number: int) -> set[str | None]:
    """Return the places that threads other than that one touch."""
    return {_place_of(action) for other, thread in enumerate(threads) if other != number for action in thread}


def _fenced(thread: list[Action], elsewhere: set[str | None]) -> list[Action]:
    """Return a thread with DMB ISH for each atomic with acquire and release on a place that no other thread touches.

    What precedes such an atomic is before its store, what follows is after it, and nobody sees the store itself
    (aarch64.cat: `[M]; po; [L]` and `[range([A]; amo; [L])]; po; [M]`, beside `[M]; po; [dmb.full]; po; [M]`). A DMB
    orders cache maintenance too, so not in a thread that has any; nor where the place is ordered by in another way.
    """
    if any(isinstance(action, Maintain) for action in thread):
        return thread
    ordered = {_place_of(action) for action in thread if _orders(action) and not _is_full(action)}
    return [
        Ordering(Barrier.DMB_ISH) if _is_full(action) and _place_of(action) not in elsewhere | ordered else action
        for action in thread
    ]


def _is_full(action: Action) -> bool:
    return isinstance(action, Update) and action.order is Order.ACQUIRE_RELEASE


def _place_of(action: Action) -> str | None:
    return None if isinstance(action, Ordering) else action.place


def _kept(thread: list[Action], shared: set[str | None]) -> list[Action]:
    accesses = [index for index, action in enumerate(thread) if _place_of(action) in shared]
    if not accesses:
        return []
    first, last = accesses[0], accesses[-1]
    # what is ordered by an access is kept with all accesses of its place in between, so that its values stay right
    staying = shared | {_place_of(action) for action in thread[first:last] if _orders(action)}
    kept: list[Action] = []
    moved: dict[int, int] = {}
    for index, action in enumerate(thread[: last + 1]):
        # a barrier orders nothing before the first access, and one after the same one nothing more
        idle = index < first or (kept and kept[-1] == action)
        if (isinstance(action, Ordering) and not idle) or (_place_of(action) in staying and index >= first):
            moved[index] = len(kept)
            if isinstance(action, Read | Write) and action.depends is not None:
                action = replace(action, depends=moved.get(action.depends))
            kept.append(action)
    return kept


def _orders(action: Action) -> bool:
    return isinstance(action, Read | Write | Update | Lock | Unlock) and action.order is not Order.PLAIN


def _own_initial(threads: list[list[Action]]) -> dict[str, int]:
    """Return what the places of one thread alone hold where its first access that was kept finds them."""
    found: dict[str, int] = {}
    owners: dict[str, set[int]] = {}
    for number, thread in enumerate(threads):
        for action in thread:
            if isinstance(action, Ordering):
                continue
            owners.setdefault(action.place, set()).add(number)
            match action:
                case Read(place, value):
                    found.setdefault(place, value)
                case Update(place, old, _):
                    found.setdefault(place, old)
                case Lock(place) | Unlock(place):
                    found.setdefault(place, int(isinstance(action, Unlock)))
    return {place: value for place, value in found.items() if len(owners[place]) == 1}
