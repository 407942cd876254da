"""The page tables as they stand at the end of a run, as indented text."""

from __future__ import annotations

from collections.abc import Iterator

from fuzzvm.kernel.pgtable import Level, TableLabel, pxd_none, table_pointed_to
from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Value, address_of
from fuzzvm.report.describe import Describer

LONGEST_RUN = 4
"""Entries alike in a row that are shown one by one; of more, the first and the last."""


def page_tables(machine: Machine, describer: Describer) -> tuple[str, ...]:
    """Return a line an entry, indented by its level: what all CPUs can see. `[2-7] none` stands for several entries.

    Tables that no entry leads to follow, and those that were freed, with the step of it.
    """
    return tuple(_Tree(machine, describer).lines())


class _Tree:
    def __init__(self, machine: Machine, describer: Describer) -> None:
        self._machine = machine
        self._describer = describer
        self._shown: set[int] = set()
        self._dead = machine.allocator.dead

    def lines(self) -> Iterator[str]:
        tables = [one for one in self._machine.allocator.allocations if isinstance(one.label, TableLabel)]
        for root in tables:
            if isinstance(root.label, TableLabel) and root.label.level == Level.PGD:
                yield self._name(root)
                yield from self._entries(root, "  ")
        for table in tables:
            if table.number in self._dead:
                again = ", and an entry still leads there" if table.number in self._shown else ""
                yield f"{self._name(table)}: freed at step {self._dead[table.number]}{again}"
            elif table.number not in self._shown and getattr(table.label, "level", None) != Level.PGD:
                yield f"{self._name(table)}: no entry leads to it"
                yield from self._entries(table, "  ")

    def _name(self, table: Allocation) -> str:
        return str(table.label).removeprefix("the ")

    def _entries(self, table: Allocation, indent: str) -> Iterator[str]:
        """Yield the entries of a table, with the tables below them; entries alike are one line where they are many."""
        values = [self._machine.memory.peek(address_of(table.number, offset)) for offset in range(table.size)]
        start = 0
        while start < len(values):
            end = start + 1
            while end < len(values) and self._kind(values[end]) == self._kind(values[start]) != "table":
                end += 1
            if self._kind(values[start]) == "none":
                place = f"[{start}]" if end == start + 1 else f"[{start}-{end - 1}]"
                yield f"{indent}{place} none"
            elif end - start > LONGEST_RUN:
                first, last = (self._describer.entry(value) for value in (values[start], values[end - 1]))
                yield f"{indent}[{start}-{end - 1}] {first} to {last}"
            else:
                for offset in range(start, end):
                    yield from self._entry(offset, values[offset], indent)
            start = end

    def _entry(self, offset: int, value: Value, indent: str) -> Iterator[str]:
        yield f"{indent}[{offset}] {self._describer.entry(value)}"
        target = table_pointed_to(value)
        if target and target not in self._shown:
            self._shown.add(target)
            if target not in self._dead:
                yield from self._entries(self._machine.allocator.allocations[target], indent + "  ")

    def _kind(self, value: Value) -> str:
        if not isinstance(value, int) or pxd_none(value):
            return "none"
        return "table" if table_pointed_to(value) else "leaf"
