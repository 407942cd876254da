"""What must hold of page tables, walks, locks and keys, checked from outside while a run goes on.

An oracle sees the latest value of every location at once. What it remembers of a walk is a function of what changed
since the walk began, small and immutable, so that it can be part of a state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from fuzzvm.kernel.contexts import Fact, Taken, cycle, irq_conflict
from fuzzvm.kernel.errors import (
    FREE_OF_LINKED_TABLE,
    INVENTED_MAPPING,
    IOMMU_WALK_OF_FREED_TABLE,
    IRQ_UNSAFE_LOCK,
    LEAKED_TABLE,
    LOCK_NOT_RELEASED,
    LOCK_ORDER,
    MAP_OVER_MAPPING,
    MISSING_DESTRUCTOR,
    UNBALANCED_STATIC_KEY,
    WALK_WITHOUT_LOCK,
    WX_MISSED,
)
from fuzzvm.kernel.iommu_sva import IommuInvalidated
from fuzzvm.kernel.irq_safety import Used
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.lock import left
from fuzzvm.kernel.locking.rwsem import rwsem_state
from fuzzvm.kernel.memory_hotplug import FreedAsPage
from fuzzvm.kernel.mmap_lock import AssertLocked, AssertWriteLocked
from fuzzvm.kernel.pagewalk_ops import NeverLinked
from fuzzvm.kernel.pgtable import (
    Level,
    TableLabel,
    pgprot_wx,
    pxd_flags,
    pxd_leaf,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.kernel.ptdump_notes import MappingNoted, WalkBegins, WalkEnds
from fuzzvm.kernel.tables import Mapping, Read, linked_tables, mappings, mappings_at, path
from fuzzvm.kernel.tlb import TlbOracle
from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.memory import MemoryModel
from fuzzvm.machine.ops import Address, Annotation, Fence, InterruptAll, Tlbi, Value, offset_of
from fuzzvm.machine.property import World
from fuzzvm.machine.tlb import TlbState


@dataclass(frozen=True, slots=True)
class WalkRecord:
    """A walk that is under way: what was unmapped since it began, the W+X mappings not unmapped, those reported."""

    removed: frozenset[Mapping]
    wx_all_along: frozenset[Mapping]
    wx_noted: frozenset[Mapping]


class Remembered(NamedTuple):
    """All that the oracles remember of a run, immutable: a part of the state that a search compares.

    `walks` has the walk under way on each CPU that walks, by ascending CPU. `gone` has, where loads may be stale, every
    mapping that was ever taken away. `tlb` is what TLBs and walk caches may hold, None where that is not watched.
    """

    walks: tuple[tuple[int, WalkRecord], ...] = ()
    gone: frozenset[Mapping] = frozenset()
    tlb: TlbState | None = None
    orders: frozenset[Fact] = frozenset()
    """The orders and uses of locks that were watched for and have come about."""
    unlinked: frozenset[Address] = frozenset()
    """Tables that are about to be freed, filled, though no entry has ever led to them."""
    in_iommus: frozenset[Address] = frozenset()
    """Tables that no entry leads to any more and that an IOMMU may hold still; none where no device walks any."""

    def renamed(self, names: Sequence[int]) -> Remembered:
        """Return it after CPU `i` has become CPU `names[i]`."""
        walks = [(names[cpu], walk) for cpu, walk in self.walks]
        tlb = None if self.tlb is None else self.tlb.renamed(names)
        return self._replace(walks=tuple(sorted(walks, key=lambda item: item[0])), tlb=tlb)


def _overlaid(seen: dict[Address, Value], read: Read, address: Address) -> Value:
    return seen[address] if address in seen else read(address)


def _label_of(allocation: Allocation | None) -> TableLabel:
    assert allocation is not None
    assert isinstance(allocation.label, TableLabel)
    return allocation.label


class Oracles:
    """The observer of a machine that runs one kernel. Raises ModelError from every check.

    `remembered` is all that it remembers of the run.
    """

    def __init__(self, machine: World, kernel: Kernel) -> None:
        self._machine = machine
        self._kernel = kernel
        self._walks: dict[int, WalkRecord] = {}
        memory = machine.memory
        self._stale_reads = isinstance(memory, MemoryModel) and memory.stale_reads
        self._gone: frozenset[Mapping] = frozenset()
        """Where loads may be stale: every mapping that was ever taken away, since a walk may still see it."""
        self._tlb: TlbOracle | None = None
        rules = kernel.arch.tlb
        if kernel.tlb and rules is not None:
            self._tlb = TlbOracle(kernel, rules, memory.cpus, lambda: self._machine.memory)
            machine.report_hardware()
        self._orders: frozenset[Fact] = frozenset()
        if kernel.unmarked_tables is not None:
            # an IOMMU's walks depend on each store to an entry, whether or not a CPU walks
            machine.report_hardware()
        self._unlinked: frozenset[Address] = frozenset()
        self._in_iommus: frozenset[Address] = frozenset()
        self._told_when_visible = isinstance(memory, MemoryModel) and memory.delays_stores

    @property
    def kernel(self) -> Kernel:
        """The kernel that they watch."""
        return self._kernel

    @property
    def remembered(self) -> Remembered:
        """All that it remembers of the run so far."""
        tlb = None if self._tlb is None else self._tlb.state
        walks = tuple(sorted(self._walks.items(), key=lambda item: item[0]))
        return Remembered(walks, self._gone, tlb, self._orders, self._unlinked, self._in_iommus)

    @remembered.setter
    def remembered(self, remembered: Remembered) -> None:
        self._walks = dict(remembered.walks)
        self._gone = remembered.gone
        self._orders = remembered.orders
        self._unlinked = remembered.unlinked
        self._in_iommus = remembered.in_iommus
        if self._tlb is not None and remembered.tlb is not None:
            self._tlb.state = remembered.tlb

    # The observer's side

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        """Remember, for each walk under way, the mappings that a write to an entry took away."""
        if self._tlb is not None and not self._told_when_visible:
            self.became_visible(address, old, new)
        if self._kernel.unmarked_tables is not None and old != new and isinstance(old, int) and pxd_table(old):
            self._in_iommus |= set(self._tables_from(address, old))
        if not (self._walks or self._stale_reads) or not old or old == new:
            return
        # what this CPU has stored below the entry before, though nobody sees it yet, goes as well
        removed = frozenset(self._mappings_at(address, old, partial(self._seen_by, cpu)))
        if self._stale_reads:
            self._gone |= removed
        for walker, walk in self._walks.items():
            self._walks[walker] = WalkRecord(walk.removed | removed, walk.wx_all_along - removed, walk.wx_noted)

    def became_visible(self, address: Address, old: Value, new: Value) -> None:
        """Follow what hardware may read. Only where TLBs are watched."""
        allocation = self._machine.allocator.lookup(address)
        if self._tlb is not None and allocation is not None and isinstance(allocation.label, TableLabel):
            self._tlb.wrote(allocation, offset_of(address), old, new)

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        """Follow what hardware may hold. Only where TLBs are watched."""
        if self._tlb is not None:
            self._tlb.maintained(cpu, op)

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        """Watch the entries of every page table."""
        if isinstance(allocation.label, TableLabel):
            self._machine.watch(allocation.address)

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        """Check that no entry points to a table that is about to be freed, none in a TLB and none in memory, and that
        nothing it maps is lost by that.

        The table that CPA has put a block over still maps what the block maps now.
        """
        label = allocation.label
        if not isinstance(label, TableLabel):
            return
        if any(self._leads_to(mm.pgd, label.va, allocation.address) for mm in self._kernel.mms):
            message = f"{label} is freed while an entry points to it"
            raise ModelError(FREE_OF_LINKED_TABLE, message, address=allocation.address)
        if allocation.address in self._unlinked:
            # nothing was ever mapped through it
            self._unlinked -= {allocation.address}
            return
        if allocation.address in self._in_iommus:
            message = f"{label} is freed while an IOMMU may hold what leads to it"
            raise ModelError(IOMMU_WALK_OF_FREED_TABLE, message, address=allocation.address)
        lost = (one for one in self._mappings_of(label, allocation.address) if not self._mapped_elsewhere(one))
        mapping = next(lost, None)
        if mapping is not None:
            message = f"{label} is freed while {mapping.addr:#x} is mapped through it"
            raise ModelError(MAP_OVER_MAPPING, message, address=allocation.address)
        if self._tlb is not None:
            self._tlb.freeing(allocation)

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        """Follow walks, and check what they report."""
        match annotation:
            case AssertWriteLocked(lock):
                if rwsem_state(self._machine.memory.peek(lock.address)).writer != cpu:
                    message = f"CPU {cpu} walks page tables without {lock.name} held for writing"
                    raise ModelError(WALK_WITHOUT_LOCK, message, address=lock.address)
            case AssertLocked(lock):
                state = rwsem_state(self._machine.memory.peek(lock.address))
                if state.writer != cpu and cpu not in state.readers:
                    message = f"CPU {cpu} walks page tables without {lock.name} held"
                    raise ModelError(WALK_WITHOUT_LOCK, message, address=lock.address)
            case Taken() | Used():
                self._check_locks(annotation)
            case IommuInvalidated():
                self._in_iommus = frozenset()
            case NeverLinked(table):
                self._unlinked |= {table}
            case FreedAsPage(table, destructed):
                label = _label_of(self._machine.allocator.lookup(table))
                constructed = self._kernel.mitigation.functions.hot_add_constructs or label.constructed
                if constructed and not destructed:
                    message = f"{label} is freed without its destructor"
                    raise ModelError(MISSING_DESTRUCTOR, message, address=table)
            case WalkBegins():
                # taken away already, and this walk may still come before that is seen
                leaving = frozenset(self._leaving())
                wx = frozenset(
                    mapping
                    for mapping in self.mappings()
                    if pgprot_wx(pxd_pgprot(mapping.entry)) and self._settled(cpu, mapping)
                )
                self._walks[cpu] = WalkRecord(self._gone | leaving, wx - leaving, frozenset())
            case MappingNoted(level, addr, entry):
                self._check_noted(cpu, Mapping(level, addr, entry))
            case WalkEnds():
                walk = self._walks.pop(cpu)
                missed = walk.wx_all_along - walk.wx_noted
                if missed:
                    first = min(missed)
                    message = f"W+X mapping at {first.addr:#x} was there all along and was not reported"
                    raise ModelError(WX_MISSED, message)

    def _check_locks(self, fact: Fact) -> None:
        """Remember how a lock is about to be taken, and check that it goes with how locks were taken so far."""
        self._orders |= {fact}
        name = self._kernel.lock_name
        closed = cycle(one for one in self._orders if isinstance(one, Taken)) if isinstance(fact, Taken) else ()
        if isinstance(fact, Taken) and closed:
            ways = [f"{name(one.taken)} under {name(one.held)}" for one in closed]
            message = f"this run takes {', and '.join(ways)}"
            raise ModelError(LOCK_ORDER, message, address=fact.taken)
        found = irq_conflict(self._orders)
        if found is not None:
            context = found.inside.context.value
            way = " while it holds ".join(map(name, reversed(found.way)))
            under = f", and some CPU takes {way}" if len(found.way) > 1 else ""
            message = (
                f"this run takes {name(found.inside.lock)} in {context}, "
                f"and {name(found.outside.lock)} where {context} may interrupt it{under}"
            )
            raise ModelError(IRQ_UNSAFE_LOCK, message, address=found.outside.lock)

    def finished(self) -> None:
        """Check that every table is linked, every lock free and every key off."""
        allocator = self._machine.allocator
        peek = self._machine.memory.peek
        linked = {table for mm in self._kernel.mms for table in linked_tables(self._kernel.geometry, mm.pgd, peek)}
        for allocation in allocator.allocations:
            if allocation.number in allocator.dead or not isinstance(allocation.label, TableLabel):
                continue
            if allocation.address not in linked:
                message = f"{allocation.label} is allocated and no entry leads to it"
                raise ModelError(LEAKED_TABLE, message, address=allocation.address)
        for key in self._kernel.static_keys:
            if peek(key.enabled) != 0:
                message = f"{key.name} is left at {peek(key.enabled)}"
                raise ModelError(UNBALANCED_STATIC_KEY, message, address=key.enabled)
        for lock in self._kernel.locks:
            if message := left(peek(lock.address), lock.name):
                raise ModelError(LOCK_NOT_RELEASED, message, address=lock.address)

    # Reading page tables from outside

    def mappings(self) -> Iterator[Mapping]:
        """Yield every mapping that the page tables hold now, in ascending order of address."""
        start = self._kernel.geometry.table_start(Level.PGD, self._kernel.geometry.base)
        return self._mappings_of(TableLabel(Level.PGD, start), self._kernel.init_mm.pgd)

    def _leaving(self) -> Iterator[Mapping]:
        """Yield the mappings that stores take away which are not in memory yet, each as its CPU saw it go."""
        memory = self._machine.memory
        if not isinstance(memory, MemoryModel):
            return
        for cpu in range(memory.cpus):
            seen: dict[Address, Value] = {}
            for address, value in memory.buffered(cpu):
                read = partial(_overlaid, seen, memory.peek)
                old = read(address)
                if old != value:
                    yield from self._mappings_at(address, old, read)
                seen[address] = value

    def _seen_by(self, cpu: int, address: Address) -> Value:
        memory = self._machine.memory
        return memory.visible(cpu, address) if isinstance(memory, MemoryModel) else memory.peek(address)

    def _mappings_at(self, address: Address, entry: Value, read: Read) -> Iterator[Mapping]:
        """Yield the mappings that an entry at an address leads to; none where that is no entry of a page table."""
        allocation = self._machine.allocator.lookup(address)
        if isinstance(entry, int) and allocation is not None and isinstance(allocation.label, TableLabel):
            level = allocation.label.level
            size = self._kernel.geometry.size(level)
            va = allocation.label.va + offset_of(address) * size
            yield from mappings_at(self._kernel.geometry, level, entry, va, va + size, read)

    def _tables_from(self, address: Address, entry: int) -> Iterator[Address]:
        """Yield the table that an entry leads to and all below it; none where it is no entry of an upper table."""
        allocation = self._machine.allocator.lookup(address)
        if allocation is not None and isinstance(allocation.label, TableLabel) and allocation.label.level < Level.PTE:
            below = self._kernel.geometry.below(allocation.label.level)
            peek = self._machine.memory.peek
            yield from linked_tables(self._kernel.geometry, pxd_pgtable(entry), peek, below)

    def _check_noted(self, cpu: int, noted: Mapping) -> None:
        if not pxd_leaf(noted.entry):
            raise ModelError(INVENTED_MAPPING, f"{noted.addr:#x} is reported with entry {noted.entry:#x}, no mapping")
        walk = self._walks[cpu]
        if noted not in walk.removed and self._translate(noted.addr) != noted:
            message = f"{noted.level.name} mapping of {noted.addr:#x} was there at no time during the walk"
            raise ModelError(INVENTED_MAPPING, message)
        if pgprot_wx(pxd_pgprot(noted.entry)):
            self._walks[cpu] = WalkRecord(walk.removed, walk.wx_all_along, walk.wx_noted | {noted})

    def _mappings_of(self, label: TableLabel, table: Address) -> Iterator[Mapping]:
        """Yield the mappings of a table and of those below it."""
        geometry = self._kernel.geometry
        end = label.va + geometry.size(label.level) * geometry.ptrs[label.level]
        return mappings(geometry, label.level, table, label.va, end, self._machine.memory.peek)

    def _leads_to(self, root: Address, addr: int, table: Address) -> bool:
        """Whether the walk of an address goes through a table."""
        visited = path(self._kernel.geometry, root, addr, self._machine.memory.peek)
        return any(one.table == table for one in visited)

    def _settled(self, cpu: int, mapping: Mapping) -> bool:
        """Whether a CPU that walks to a mapping now can see nothing older on its way."""
        memory = self._machine.memory
        if not (self._stale_reads and isinstance(memory, MemoryModel)):
            return True
        geometry = self._kernel.geometry
        visited = path(geometry, self._kernel.init_mm.pgd, mapping.addr, memory.peek)
        entries = (table + geometry.index(level, mapping.addr) for level, table, _ in visited)
        return all(len(memory.readable(cpu, entry)) <= 1 for entry in entries)

    def _translate(self, addr: int) -> Mapping | None:
        """Return the mapping that an address has now."""
        geometry = self._kernel.geometry
        level, _, entry = path(geometry, self._kernel.init_mm.pgd, addr, self._machine.memory.peek)[-1]
        return Mapping(level, addr & ~(geometry.size(level) - 1), entry) if pxd_leaf(entry) else None

    def _mapped_elsewhere(self, mapping: Mapping) -> bool:
        """Whether the address of a mapping is mapped to the same memory, with the same protection, by what is there."""
        now = self._translate(mapping.addr)
        if now is None:
            return False
        pfn = pxd_pfn(now.entry) + ((mapping.addr - now.addr) >> self._kernel.geometry.page_shift)
        return pfn == pxd_pfn(mapping.entry) and pxd_flags(now.entry) == pxd_flags(mapping.entry)
