"""The oracle of TLBs and walk caches: page tables as hardware sees them, and what it must never come upon.

It reports an error as soon as the hardware could go wrong: a table is freed that a walk cache may still lead to, two
translations may be held for one address that the architecture does not allow together, or an address is mapped again
while the translation of its former mapping may still be held.

Hardware reads what every CPU can see, in the order in which stores become visible. A walk that reads a store of its own
CPU early (Arm ARM allows that) makes the copies that any walk makes a little later, so nothing is lost by leaving it
out: what an early copy could break, the later one, which no earlier invalidation ends, breaks as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Protocol

from fuzzvm.kernel.errors import HARDWARE_WALK_OF_FREED_TABLE, STALE_TRANSLATION, TLB_CONFLICT
from fuzzvm.kernel.pgtable import (
    PROT_DEVICE,
    PTE_CONT,
    Geometry,
    Level,
    TableLabel,
    pxd_cont,
    pxd_leaf,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Fence, InterruptAll, Tlbi, Value
from fuzzvm.machine.tlb import ConflictError, Ending, Entry, Format, TlbRules, Tlbs, TlbState

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class Reader(Protocol):
    """Memory as a walker reads it."""

    def peek(self, address: Address) -> Value:
        """Return a location's latest value that every CPU can see."""


class Tables(Format, Protocol):
    """Page tables as a walker reads them, with the names of their levels."""

    def size(self, level: int) -> int:
        """Return how many bytes an entry of a level maps."""

    def level_name(self, level: int) -> str:
        """Return what entries of a level are called: PTE for those of the last."""


class PageTables:
    """Page tables as a walker reads them: the `Format` of one kernel. `memory` is asked anew each time."""

    def __init__(self, geometry: Geometry, pgd: Address, memory: Callable[[], Reader]) -> None:
        self._geometry = geometry
        self._memory = memory
        start = geometry.table_start(Level.PGD, geometry.base)
        self.root = Entry(start, geometry.end, Level.PGD - 1, pgd)
        self._copies: dict[tuple[Level, int, int], tuple[Entry, ...]] = {}

    def size(self, level: int) -> int:
        """Return how many bytes an entry of a level maps."""
        return self._geometry.size(Level(level))

    def level_name(self, level: int) -> str:
        """Return what entries of a level are called."""
        return Level(level).name

    def entries(self, pointer: Entry) -> Iterator[Entry]:
        """Yield the copies that can be made now of the valid entries of the table that a copy leads to."""
        level = self._geometry.below(pointer.level)
        size = self._geometry.size(level)
        peek = self._memory().peek
        for index in range(self._geometry.ptrs[level]):
            value = peek(pointer.table + index)
            if value:
                yield from self.copies(level, pointer.start + index * size, value)

    def of_table(self, table: Allocation, leaving_out: int) -> Iterator[Entry]:
        """Yield the copies that can be made now of the entries of a table, but for one of them."""
        label = table.label
        assert isinstance(label, TableLabel)
        peek = self._memory().peek
        for index in range(self._geometry.ptrs[label.level]):
            if index != leaving_out and (value := peek(table.address + index)):
                yield from self.copies(label.level, label.va + index * self._geometry.size(label.level), value)

    def copies(self, level: Level, va: int, value: Value) -> tuple[Entry, ...]:
        """Return the copies that can be made of an entry of that level that maps from `va` on: the plain one first.

        An entry of a contiguous block may be held as what it is, and as the whole block.
        """
        if not isinstance(value, int):
            return ()
        found = self._copies.get((level, va, value))
        if found is None:
            found = self._copies[level, va, value] = tuple(self._make_copies(level, va, value))
        return found

    def _make_copies(self, level: Level, va: int, value: int) -> Iterator[Entry]:
        end = va + self._geometry.size(level)
        if pxd_table(value) and level < Level.PTE:
            yield Entry(va, end, level, pxd_pgtable(value))
        elif pxd_leaf(value):
            prot = pxd_pgprot(value)
            output = pxd_pfn(value) << self._geometry.page_shift
            attributes = prot & PROT_DEVICE, prot & ~(PROT_DEVICE | PTE_CONT), pxd_cont(value)
            yield Entry(va, end, level, 0, output, *attributes)
            if pxd_cont(value):
                size = self._geometry.cont_size(level)
                start = va & ~(size - 1)
                yield Entry(start, start + size, level, 0, output - (va - start), *attributes)


class HeldCopies:
    """What TLBs and walk caches may hold while one kernel runs. `state` is all that it remembers."""

    def __init__(self, tables: Tables, rules: TlbRules, cpus: int) -> None:
        self._tables = tables
        self._rules = rules
        self._tlbs = Tlbs(cpus, tables, rules)

    @property
    def state(self) -> TlbState:
        """All that it remembers of the run so far."""
        return self._tlbs.state

    @state.setter
    def state(self, state: TlbState) -> None:
        self._tlbs.state = state

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        """Take in a barrier, an invalidation or an interrupt. Raises ModelError tlb-conflict."""
        match op:
            case Tlbi():
                if op.operation not in self._rules.operations:
                    raise ValueError(f"what {op.operation!r} invalidates is not known; TlbRules must say")
                self._run(lambda: self._tlbs.invalidate(cpu, op), None)
            case Fence(kind):
                self._tlbs.barrier(cpu, kind)
            case InterruptAll():
                self._run(lambda: self._tlbs.interrupt_all(cpu), None)

    def freeing(self, allocation: Allocation) -> None:
        """Check that no walk cache may lead to a table that is about to be freed. Raises ModelError."""
        held = self._tlbs.leads_to(allocation.address)
        if not held:
            return
        cpu, entry, ending = held[0]
        cpus = sorted({cpu for cpu, _, _ in held})
        level = self._tables.level_name(entry.level)
        message = (
            f"{allocation.label} is freed while {_cpus(cpus)} may walk it: the {level} entry of {entry.start:#x} that "
            f"leads to it may be held there {self._why(cpu, ending)}"
        )
        raise ModelError(HARDWARE_WALK_OF_FREED_TABLE, message, address=allocation.address)

    # Inner parts

    def _filled(self, table: Address | None) -> None:
        """Take in what can be read now, after a change of a table. Raises ModelError tlb-conflict."""
        self._run(self._tlbs.fill, table)

    def _check_mapped_again(
        self, table: Address, written: Entry, neighbours: Callable[[], AbstractSet[Entry]] = frozenset
    ) -> None:
        """Check that no CPU holds a translation of what an address was mapped to before it was unmapped.

        `neighbours` returns copies of the other entries of the table, where they may be of one contiguous range.

        A scenario maps an address to the same page each time, a kernel does not: a stale translation that is equal to
        the new one is one to somebody else's page all the same.
        """
        held = self._tlbs.translations(written)
        if not held:
            return
        others = neighbours()
        for cpu, one in held:
            if message := self._rules.conflict(one, written):
                raise self._conflict(ConflictError(cpu, one, written, message), table)
            if one not in others:
                message = (
                    f"{written.start:#x} is mapped again while CPU {cpu} may hold {self._name(one)} of its former "
                    "mapping"
                )
                raise ModelError(STALE_TRANSLATION, message, address=table)

    def _run(self, change: Callable[[], None], table: Address | None) -> None:
        try:
            change()
        except ConflictError as error:
            raise self._conflict(error, table) from None

    def _conflict(self, error: ConflictError, table: Address | None) -> ModelError:
        held, filled = error.held, error.filled
        start = max(held.start, filled.start)
        message = (
            f"CPU {error.cpu} may hold {self._name(held)} beside {self._name(filled)}: {error.message} for {start:#x}, "
            "with no complete invalidation between"
        )
        return ModelError(TLB_CONFLICT, message, address=table)

    def _name(self, entry: Entry) -> str:
        """Return what a copy is called: the entry that it was made of, and where that leads."""
        level = self._tables.level_name(entry.level)
        if entry.table:
            return f"the {level} entry of {entry.start:#x} that leads to a table"
        size = entry.end - entry.start
        kind = "page" if level == "PTE" else f"{level} block"
        if entry.contiguous and size > self._tables.size(entry.level):
            kind = f"contiguous block of {size // self._tables.size(entry.level)} {level} entries"
        return f"the {kind} {entry.start:#x} -> {entry.output:#x}"

    def _why(self, cpu: int, ending: Ending) -> str:
        """Return what is missing before a copy on a CPU is gone."""
        if not ending:
            return "and no invalidation of it came after it was seen to be cleared"
        one = min(ending)
        if one.synchronised:
            return f"until CPU {one.cpu}, which invalidated it, executes an ISB"
        return f"until {one.operation} {one.address:#x} by CPU {one.cpu} is complete, for which it takes a DSB ISH"


class TlbOracle(HeldCopies):
    """What TLBs and walk caches may hold while the model of a kernel runs."""

    def __init__(self, kernel: Kernel, rules: TlbRules, cpus: int, memory: Callable[[], Reader]) -> None:
        self._entries = PageTables(kernel.geometry, kernel.init_mm.pgd, memory)
        self._geometry = kernel.geometry
        super().__init__(self._entries, rules, cpus)

    def wrote(self, allocation: Allocation, offset: int, old: Value, new: Value) -> None:
        """Take in an entry that has changed for every CPU. Raises ModelError tlb-conflict, stale-translation."""
        label = allocation.label
        if not isinstance(label, TableLabel) or old == new:
            return
        level = label.level
        va = label.va + offset * self._geometry.size(level)
        written = next(iter(self._entries.copies(level, va, new)), None)
        if old == 0 and written is not None and not written.table and self._tlbs.leads_to(allocation.address):
            # a contiguous range is set entry by entry: what its neighbours say is of the new mapping
            self._check_mapped_again(
                allocation.address, written, lambda: set(self._entries.of_table(allocation, leaving_out=offset))
            )
        self._filled(allocation.address)


def _cpus(cpus: Sequence[int]) -> str:
    return f"CPU {cpus[0]}" if len(cpus) == 1 else f"CPUs {', '.join(map(str, cpus))}"
