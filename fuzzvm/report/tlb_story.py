"""What led to an error of TLBs and walk caches: who wrote and cleared the entries in question, and what was flushed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from fuzzvm.corpus.format import TestCase
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.errors import HARDWARE_WALK_OF_FREED_TABLE, STALE_TRANSLATION, TLB_CONFLICT
from fuzzvm.kernel.pgtable import Geometry, TableLabel, pxd_leaf, pxd_none, pxd_pgtable, pxd_table
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Barrier, Fence, InterruptAll, Rmw, Store, Tlbi, Value, object_of, offset_of
from fuzzvm.machine.remarks import BecameVisible, Buffered
from fuzzvm.machine.tlb import Reach, TlbRules
from fuzzvm.machine.trace import TraceStep

ERRORS = frozenset({HARDWARE_WALK_OF_FREED_TABLE, TLB_CONFLICT, STALE_TRANSLATION})


class HardwareEvent(NamedTuple):
    """What happened to what a TLB or walk cache may hold, in which step (0: at boot; None: what did not happen)."""

    what: str
    step: int | None


class _Write(NamedTuple):
    step: TraceStep
    label: TableLabel
    start: int
    end: int
    old: Value
    new: Value


def hardware_events(
    case: TestCase, machine: Machine, trace: Sequence[TraceStep], failure: Failure
) -> list[HardwareEvent]:
    """Return what led to a failure, oldest first; nothing for a failure that is not of TLBs.

    Of a freed table: when the entry that leads to it was written and cleared. Of two translations: the last write of
    each kind, by each function, to an entry for the same addresses. Then the flushes of those addresses since.
    """
    rules = architectures.get(case.scenario.arch).tlb
    if failure.error not in ERRORS or rules is None:
        return []
    geometry = case.scenario.geometry()
    writes = list(_writes(machine, trace, geometry))
    tell = _of_freed_table if failure.error == HARDWARE_WALK_OF_FREED_TABLE else _of_translations
    events = tell(writes, trace, failure, rules)
    return sorted(events, key=lambda event: len(trace) + 1 if event.step is None else event.step)


def _of_freed_table(
    writes: Sequence[_Write], trace: Sequence[TraceStep], failure: Failure, rules: TlbRules
) -> list[HardwareEvent]:
    cleared = [write for write in writes if _leads_to(write.old, failure.object_number)]
    linked = [write for write in writes if _leads_to(write.new, failure.object_number)]
    since = f"{cleared[-1].label.level.name} entry" if cleared else "entry"
    events = [
        HardwareEvent(f"held by any CPU, at the earliest: {since} that leads to it written", _number(linked)),
    ]
    for clear in cleared[-1:]:
        events.append(HardwareEvent("that entry cleared", clear.step.number))
        seen = _seen_by_all(clear, trace)
        if seen > clear.step.number:
            events.append(HardwareEvent("that clear seen by all CPUs", seen))
        events += _flushes(trace, clear.step.number, seen, clear.start, clear.end, rules, tables=True)
    return events


def _of_translations(
    writes: Sequence[_Write], trace: Sequence[TraceStep], failure: Failure, rules: TlbRules
) -> list[HardwareEvent]:
    last = _failing_write(writes, trace, failure)
    if last is None:
        return []
    found: dict[tuple[str, int, str], HardwareEvent] = {}
    for write in writes:
        if write.start < last.end and last.start < write.end and write.step.number < last.step.number:
            what = f"{write.label.level.name} entry {'cleared' if pxd_none(_entry(write.new)) else 'written'}"
            function = write.step.stack[0] if write.step.stack else ""
            found[what, write.step.cpu, function] = HardwareEvent(what, write.step.number)
    events = list(found.values())
    if last.step.number != failure.step:
        events.append(HardwareEvent("the entry that must not meet it written", last.step.number))
    first = min((event.step or 0 for event in events), default=0)
    if not any(pxd_leaf(_entry(write.new)) for write in writes if write.step.number < last.step.number):
        events.append(HardwareEvent("held by any CPU, at the earliest: the former mapping made", 0))
    return events + _flushes(trace, first, first, last.start, last.end, rules, tables=False)


def _failing_write(writes: Sequence[_Write], trace: Sequence[TraceStep], failure: Failure) -> _Write | None:
    """Return the write that made the entry which must not be held beside others."""
    match trace[failure.step - 1].remark:
        case BecameVisible("store", place, _) if trace[failure.step - 1].op is None:
            writes = [write for write in writes if getattr(write.step.op, "address", None) == place]
    return next((write for write in reversed(writes) if write.step.number <= failure.step), None)


def _flushes(
    trace: Sequence[TraceStep], since: int, seen: int, start: int, end: int, rules: TlbRules, *, tables: bool
) -> list[HardwareEvent]:
    """Return the invalidations of a range of addresses after a step, each with what completes it.

    `seen` is the step in which every CPU has seen what the invalidation is for.
    """
    events = []
    for step in trace[since:]:
        op = step.op
        if not isinstance(op, Tlbi):
            continue
        scope = rules.operations[op.operation]
        reach = scope.tables if tables else scope.translations
        if reach is Reach.ALL or (reach is Reach.COVERING and start <= op.virtual_address < end):
            early = "too early, before that clear was seen by all CPUs; " if step.number < seen else ""
            complete = _completion(trace, step, broadcast=rules.broadcast)
            what = f"flushed by {op.operation} {op.virtual_address:#x} ({early}{complete})"
            events.append(HardwareEvent(what, step.number))
    return events or [HardwareEvent("not flushed since", None)]


def _completion(trace: Sequence[TraceStep], flush: TraceStep, *, broadcast: bool) -> str:
    """Return when a flush was complete, in words."""
    if not broadcast:
        made = _first(trace, flush, lambda step: isinstance(step.op, InterruptAll))
        return f"on the other CPUs at step {made}" if made else "on no other CPU"
    done = _first(trace, flush, lambda step: step.op == Fence(Barrier.DSB_ISH))
    if not done:
        return "not complete"
    own = _first(trace, trace[done - 1], lambda step: step.op == Fence(Barrier.ISB))
    return f"complete at step {done}, on CPU {flush.cpu} itself " + (f"at step {own}" if own else "not yet")


def _first(trace: Sequence[TraceStep], after: TraceStep, wanted: Callable[[TraceStep], bool]) -> int:
    """Return the first step after another, of the same CPU, that is as wanted; 0 if there is none."""
    return next((step.number for step in trace[after.number :] if step.cpu == after.cpu and wanted(step)), 0)


def _seen_by_all(write: _Write, trace: Sequence[TraceStep]) -> int:
    """Return the step in which every CPU has seen a store: its own, where it was not kept back."""
    if not isinstance(write.step.remark, Buffered):
        return write.step.number
    address = getattr(write.step.op, "address", None)
    for step in trace[write.step.number :]:
        match step.remark:
            case BecameVisible("store", place, value) if (place, value) == (address, write.new):
                return step.number
        waits = isinstance(step.op, InterruptAll) or step.op in (Fence(Barrier.DSB_ISH), Fence(Barrier.DSB_ISHST))
        if waits and step.cpu == write.step.cpu:
            return step.number
    return len(trace) + 1


def _writes(machine: Machine, trace: Sequence[TraceStep], geometry: Geometry) -> Iterator[_Write]:
    """Yield every write to a page-table entry that changed it."""
    for step in trace:
        op = step.op
        if isinstance(op, Store):
            old, new = step.old, op.value
        elif isinstance(op, Rmw):
            old, new = step.response, op.update(step.response)
        else:
            continue
        allocation = machine.allocator.lookup(op.address)
        if allocation is None or not isinstance(allocation.label, TableLabel) or old == new:
            continue
        size = geometry.size(allocation.label.level)
        start = allocation.label.va + offset_of(op.address) * size
        yield _Write(step, allocation.label, start, start + size, old, new)


def _entry(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _leads_to(value: Value, number: int | None) -> bool:
    return pxd_table(_entry(value)) and object_of(pxd_pgtable(_entry(value))) == number


def _number(writes: Sequence[_Write]) -> int:
    return writes[-1].step.number if writes else 0
