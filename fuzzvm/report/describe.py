"""Operations in words that a kernel developer uses: `write pmd[1] = none`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fuzzvm.kernel.jump_label import BRANCH, NOP
from fuzzvm.kernel.locking.lock import lock_action
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
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.arm64.forbidding import Ordering
from fuzzvm.machine.ops import (
    Alloc,
    Await,
    CacheMaintenance,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Order,
    Rmw,
    Store,
    Tlbi,
    Value,
    offset_of,
)
from fuzzvm.machine.remarks import BecameVisible, Buffered, Forwarded, StaleFetch, StaleRead
from fuzzvm.machine.trace import TraceStep
from fuzzvm.report.old_values import OldValue


class Describer:
    """Describes the steps of one machine's run.

    `old_values` are the reads of it that are old, by their steps. `cpu_names` is what its CPUs are called: the
    scenario's by their numbers, then the kernel's own threads.
    """

    def __init__(self, machine: Machine, old_values: Mapping[int, OldValue] | None = None) -> None:
        self._machine = machine
        self._old_values = old_values or {}
        kernel = machine.observer.kernel if isinstance(machine.observer, Oracles) else None
        beside = () if kernel is None else kernel.beside
        self._opaque = frozenset() if kernel is None else frozenset(kernel.opaque_words)
        scenario = [f"CPU {cpu}" for cpu in range(machine.memory.cpus - len(beside))]
        self.cpu_names = (*scenario, *beside)

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
        return f"{allocation.label}[{offset_of(address)}]" if allocation.size > 1 else str(allocation.label)

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
        if address in self._opaque:
            return str(value)
        if (in_words := getattr(value, "in_words", None)) is not None:
            return self.named(in_words())
        match value:
            case tuple() if value and all(isinstance(part, int) for part in value):
                return f"[{', '.join(map(self._table, value))}]"
            case int() if allocation is not None and isinstance(allocation.label, CodeLabel):
                return _instruction(value)
            case 0 if allocation is not None and isinstance(allocation.label, LockLabel):
                return allocation.label.unused
            case _:
                return str(value)

    def step(self, step: TraceStep) -> str:
        """Return what a step did, in a few words, with what sequential consistency would not have done."""
        return self.named(self._operation(step)) + self.remark(step)

    def remark(self, step: TraceStep) -> str:
        """Return what the memory model did in a step that sequential consistency would not; '' if nothing.

        Where it is known which barriers would have forbidden it, it ends with them.
        """
        old = self._old_values.get(step.number)
        forbidden = "" if old is None or not old.orderings else f"; {self._forbidden_by(old.orderings)}"
        match step.remark:
            case StaleRead(newest, writer):
                address = getattr(step.op, "address", 0)
                return f" -- an old value: {self.cpu(writer)} has written {self.value(address, newest)}{forbidden}"
            case StaleFetch(newest):
                return f" -- a stale instruction: there is {_instruction(newest)} now{forbidden}"
            case None if old is not None and forbidden:
                return f" -- an old value: what step {old.newer} has written is not seen yet{forbidden}"
            case Buffered():
                return " -- not yet seen by others"
            case Forwarded():
                return " -- its own store, not yet seen by others"
            case _:
                return ""

    def _forbidden_by(self, orderings: Sequence[Ordering]) -> str:
        """Return a sentence on the barriers that would have forbidden an old value."""
        parts = []
        for ordering in orderings:
            names = "; ".join(_barrier(op) for op in ordering.operations)
            after, before = f"step {ordering.after}", f"step {ordering.before}"
            where = f"between {after} and {before}" if ordering.after else f"before {before}"
            parts.append(f"{names} on {self.cpu(ordering.cpu)} {where if ordering.before else f'after {after}'}")
        return f"forbidden by {', with '.join(parts)}"

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
                if op.address in self._opaque:
                    return f"wait for {self.place(op.address)} = {self.value(op.address, step.response)}"
                return f"{self.place(op.address)}{getattr(op.when, 'ending', ' is granted')}"
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
        action = lock_action(op, old)
        if action is not None and action.queued:
            return f"{place}: queue{_order(op.order)}"
        speaks = hasattr(new, "in_words")
        waited = op.when is not None and allocation is not None and isinstance(allocation.label, StaticLabel)
        if waited and (action is not None or not speaks):
            return f"take {place}"
        if speaks:
            return f"{place}: {self.value(op.address, new)}{_order(op.order)}"
        return f"{place}: {self.value(op.address, old)} -> {self.value(op.address, new)}{_order(op.order)}"


def _barrier(op: Operation) -> str:
    assert isinstance(op, Fence | CacheMaintenance)
    return op.kind.value if isinstance(op, Fence) else op.operation.value


def _order(order: Order) -> str:
    return "" if order is Order.PLAIN else f" ({order.value})"


def _instruction(code: Value) -> str:
    """Return NOP, branch, or the bytes in the order of their addresses."""
    if code in (NOP, BRANCH):
        return "branch" if code else "nop"
    assert isinstance(code, int)
    return code.to_bytes((code.bit_length() + 7) // 8, "little").hex(" ")
