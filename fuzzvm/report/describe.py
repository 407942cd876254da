"""Operations in words that a kernel developer uses: `write pmd[1] = none`."""

from __future__ import annotations

import re

from fuzzvm.kernel.jump_label import BRANCH, NOP
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import (
    PROT_EXEC,
    PROT_WRITE,
    CodeLabel,
    LockLabel,
    StaticLabel,
    TableLabel,
    pxd_cont,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.kernel.rcu import Elapsed, RcuState
from fuzzvm.kernel.rwsem import RwsemState, rwsem_state
from fuzzvm.kernel.workqueue import QueueState
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Alloc,
    Await,
    CacheMaintenance,
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
    offset_of,
)
from fuzzvm.machine.remarks import BecameVisible, Buffered, Forwarded, StaleFetch, StaleRead
from fuzzvm.machine.trace import TraceStep


class Describer:
    """Describes the steps of one machine's run.

    `cpu_names` is what its CPUs are called: the scenario's by their numbers, then the kernel's own threads.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        threads = machine.observer.kernel.threads if isinstance(machine.observer, Oracles) else ()
        scenario = [f"CPU {cpu}" for cpu in range(machine.memory.cpus - len(threads))]
        self.cpu_names = (*scenario, *[thread.name for thread in threads])

    def cpu(self, cpu: int) -> str:
        """Return what a CPU is called."""
        return self.cpu_names[cpu]

    def named(self, text: str) -> str:
        """Return a text of a lower layer, which knows CPUs by their numbers alone, with their names."""
        return re.sub(r"\bCPU (\d+)\b", lambda found: self.cpu(int(found[1])), text)

    def place(self, address: int) -> str:
        """Return what a location is called: `pmd[1]` in its table, or the name of a lock, key or site."""
        allocation = self._machine.allocator.lookup(address)
        if allocation is None:
            return f"{address:#x}"
        if isinstance(allocation.label, TableLabel):
            root = "" if allocation.label.mm == "init_mm" else f"{allocation.label.mm}."
            return f"{root}{allocation.label.level.name.lower()}[{offset_of(address)}]"
        return str(allocation.label)

    def entry(self, value: Value) -> str:
        """Return what a page-table entry says."""
        if not isinstance(value, int) or pxd_none(value):
            return "none"
        if pxd_table(value):
            allocation = self._machine.allocator.lookup(pxd_pgtable(value))
            return f"{value:#x}" if allocation is None else str(allocation.label).removeprefix("the ")
        if pxd_leaf(value):
            prot = pxd_pgprot(value)
            letters = ("w" if prot & PROT_WRITE else "-") + ("x" if prot & PROT_EXEC else "-")
            return f"pfn {pxd_pfn(value):#x} r{letters}{' cont' if pxd_cont(value) else ''}"
        return f"{value:#x}"

    def _table(self, address: int) -> str:
        allocation = self._machine.allocator.lookup(address)
        return f"{address:#x}" if allocation is None else str(allocation.label).removeprefix("the ")

    def value(self, address: int, value: Value) -> str:
        """Return what a location's value means."""
        allocation = self._machine.allocator.lookup(address)
        if allocation is not None and isinstance(allocation.label, TableLabel):
            return self.entry(value)
        match value:
            case RwsemState():
                return self.named(_rwsem(value))
            case RcuState():
                return self.named(_rcu(value))
            case QueueState():
                return _queue(value)
            case tuple() if value and all(isinstance(part, int) for part in value):
                return f"[{', '.join(map(self._table, value))}]"
            case int() if allocation is not None and isinstance(allocation.label, CodeLabel):
                return _instruction(value)
            case int() if allocation is not None and isinstance(allocation.label, LockLabel):
                return f"held by {self.cpu(value - 1)}" if value else "free"
            case _:
                return str(value)

    def step(self, step: TraceStep) -> str:
        """Return what a step did, in a few words, with what sequential consistency would not have done."""
        return self.named(self._operation(step)) + self.remark(step)

    def remark(self, step: TraceStep) -> str:
        """Return what the memory model did in a step that sequential consistency would not; '' if nothing."""
        match step.remark:
            case StaleRead(newest, writer):
                address = getattr(step.op, "address", 0)
                return f" -- an old value: {self.cpu(writer)} has written {self.value(address, newest)}"
            case StaleFetch(newest):
                return f" -- a stale instruction: there is {_instruction(newest)} now"
            case Buffered():
                return " -- not yet seen by others"
            case Forwarded():
                return " -- its own store, not yet seen by others"
            case _:
                return ""

    def _operation(self, step: TraceStep) -> str:
        op = step.op
        match op:
            case None:
                return self._became_visible(step)
            case Load():
                return f"read {self.place(op.address)} = {self.value(op.address, step.response)}{_order(op.order)}"
            case Store():
                return f"write {self.place(op.address)} = {self.value(op.address, op.value)}{_order(op.order)}"
            case Rmw():
                return self._rmw(op, step.response)
            case Await():
                elapsed = isinstance(op.when, Elapsed)
                return f"{self.place(op.address)}{': the grace period is over' if elapsed else ' is granted'}"
            case Fence():
                return op.kind.value
            case CacheMaintenance():
                return f"{op.operation.value} {self.place(op.address)}"
            case Tlbi():
                return f"{'' if op.operation.startswith('inv') else 'tlbi '}{op.operation} {op.virtual_address:#x}"
            case Fetch():
                return f"fetch {self.place(op.address)}: {_instruction(step.response)}"
            case InterruptAll():
                return "ipi to all CPUs"
            case Alloc():
                return f"alloc {str(op.label).removeprefix('the ')}"
            case Free():
                allocation = self._machine.allocator.lookup(op.address)
                return f"free {str(allocation.label if allocation else op.address).removeprefix('the ')}"

    def _became_visible(self, step: TraceStep) -> str:
        match step.remark:
            case BecameVisible("store", address, value):
                return f"now seen by all: {self.place(address)} = {self.value(address, value)}"
            case BecameVisible(what, address, _):
                return f"takes effect: {what} {self.place(address)}"
            case _:
                return "memory steps"

    def _rmw(self, op: Rmw, old: Value) -> str:
        allocation = self._machine.allocator.lookup(op.address)
        new = op.update(old)
        place = self.place(op.address)
        if isinstance(new, RwsemState):
            before = rwsem_state(old)
            queued = len(new.waiters) > len(before.waiters)
            return f"{place}: {'queue' if queued else _rwsem(new)}{_order(op.order)}"
        if isinstance(new, RcuState):
            return f"{place}: {_rcu(new)}{_order(op.order)}"
        if isinstance(new, QueueState):
            return f"{place}: {_queue(new)}{_order(op.order)}"
        if allocation is not None and isinstance(allocation.label, StaticLabel) and op.when is not None:
            return f"take {place}"
        return f"{place}: {self.value(op.address, old)} -> {self.value(op.address, new)}{_order(op.order)}"


def _order(order: Order) -> str:
    return "" if order is Order.PLAIN else f" ({order.value})"


def _instruction(code: Value) -> str:
    """Return NOP, branch, or the bytes in the order of their addresses."""
    if code in (NOP, BRANCH):
        return "branch" if code else "nop"
    assert isinstance(code, int)
    return code.to_bytes((code.bit_length() + 7) // 8, "little").hex(" ")


def _rwsem(sem: RwsemState) -> str:
    parts = []
    if sem.writer is not None:
        parts.append(f"CPU {sem.writer} writes")
    if sem.readers:
        parts.append(f"CPU {', '.join(map(str, sem.readers))} read" + ("s" if len(sem.readers) == 1 else ""))
    if sem.waiters:
        waiting = ", ".join(f"CPU {cpu} to {'write' if write else 'read'}" for cpu, write in sem.waiters)
        parts.append(f"waiting: {waiting}")
    return "; ".join(parts) or "free"


def _rcu(state: RcuState) -> str:
    parts = [f"CPU {cpu} reads" for cpu in state.readers]
    for waiter, readers in state.grace_periods:
        parts.append(f"CPU {waiter} waits for the section of {', '.join(f'CPU {cpu}' for cpu in readers)}")
    return "; ".join(parts) or "nobody reads"


def _queue(queue: QueueState) -> str:
    return f"{len(queue.pending) or 'nothing'} queued" + ("; the worker ends" if queue.ended else "")
