"""What must hold of page tables of compiled code: none is freed while an entry points to it, and none is lost."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.tlb import Followed, ImageTlbs
from fuzzvm.compiled.run.units import Unit
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE, LEAKED_TABLE, LOCK_NOT_RELEASED
from fuzzvm.machine.allocator import Allocation
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.memory import MemoryModel
from fuzzvm.machine.ops import Address, Annotation, Fence, InterruptAll, Tlbi, Value, object_of
from fuzzvm.machine.property import Observed, Property, World
from fuzzvm.machine.tlb import TlbState

ENTRY = 8


def table_of(memory: MemoryMap, entry: int) -> Address | None:
    """Return the table that a page-table entry points to; None where it is none, or a block.

    An entry of the last level that maps a page looks the same, and counts only if that page is one of the kernel's.
    """
    phys = memory.arch.table_at(entry, memory.layout.page_shift)
    return None if phys is None else memory.object_at(phys)


class PageTables(Property):
    """The page tables below some roots, and locks that must be free in the end, by what reports call them.

    `followed` are the entries at which hardware is followed, None where it is not; TLBs may hold `held` then.
    """

    def __init__(
        self,
        memory: MemoryMap,
        roots: Sequence[Address],
        locks: dict[str, Unit],
        boot_objects: int,
        followed: Followed | None = None,
        held: TlbState | None = None,
    ) -> None:
        self.memory = memory
        self.roots = tuple(roots)
        self.locks = locks
        self.boot_objects = boot_objects
        """Objects that were there before any page was allocated."""
        self.followed = followed
        self.hardware = followed is not None
        self.initial = held

    def observer(self, world: World) -> Links:
        return Links(world, self)

    def observed(self, allocated: Iterable[Hashable] | None = None) -> Observed:
        return _AllLinks()


class _AllLinks(Observed):
    """All that tables point to is one location: an entry may lead anywhere."""

    all = ("links",)

    def store(self, address: Address) -> Sequence[Hashable]:
        return self.all

    def free(self, address: Address) -> Sequence[Hashable]:
        return self.all


class Links:
    """Watches the links between page tables in one run; remembers what TLBs may hold, where that is followed."""

    def __init__(self, world: World, tables: PageTables) -> None:
        self._world = world
        self._tables = tables
        self._tlbs: ImageTlbs | None = None
        if tables.followed is not None:
            memory = world.memory
            self._tlbs = ImageTlbs(tables.followed, memory.cpus, lambda: self._world.memory)
            self._told_when_visible = isinstance(memory, MemoryModel) and memory.delays_stores
            world.report_hardware()

    @property
    def remembered(self) -> TlbState | None:
        """What TLBs and walk caches may hold."""
        return None if self._tlbs is None else self._tlbs.state

    @remembered.setter
    def remembered(self, remembered: TlbState | None) -> None:
        if self._tlbs is not None and remembered is not None:
            self._tlbs.state = remembered

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        """Follow what hardware may read. Raises ModelError as `became_visible`."""
        if self._tables.followed is not None:
            self._tables.followed.wrote(address)
            if not self._told_when_visible:
                self.became_visible(address, old, new)

    def allocated(self, cpu: int, allocation: Allocation) -> None:
        """Watch the entries of every page: it may become a table."""
        self._world.watch(allocation.address)

    def freeing(self, cpu: int, allocation: Allocation) -> None:
        """Check that no entry points to a page that is about to be freed, none in memory and none in a walk cache.

        Raises ModelError free-of-linked-table, hardware-walk-of-freed-table.
        """
        if allocation.address in self._reachable():
            message = f"{allocation.label} is freed while an entry points to it"
            raise ModelError(FREE_OF_LINKED_TABLE, message, address=allocation.address)
        if self._tlbs is not None:
            self._tlbs.freeing(allocation)

    def annotated(self, cpu: int, annotation: Annotation) -> None:
        """Nothing is asked of what programs say."""

    def became_visible(self, address: Address, old: Value, new: Value) -> None:
        """Follow what hardware may read. Raises ModelError tlb-conflict, stale-translation."""
        if self._tlbs is not None:
            self._tlbs.wrote(address, old, new)

    def maintained(self, cpu: int, op: Fence | Tlbi | InterruptAll) -> None:
        """Follow what hardware may hold. Raises ModelError tlb-conflict."""
        if self._tlbs is not None:
            self._tlbs.maintained(cpu, op)

    def finished(self) -> None:
        """Check that every page is linked and every lock is free. Raises ModelError."""
        allocator = self._world.allocator
        reachable = self._reachable()
        for allocation in allocator.allocations[self._tables.boot_objects :]:
            if allocation.number not in allocator.dead and allocation.address not in reachable:
                message = f"{allocation.label} is allocated and no entry leads to it"
                raise ModelError(LEAKED_TABLE, message, address=allocation.address)
        for name, unit in self._tables.locks.items():
            if self._content(unit):
                raise ModelError(LOCK_NOT_RELEASED, f"{name} is still held", address=unit.address)

    def _reachable(self) -> set[Address]:
        """Return the tables that entries lead to from the roots."""
        found: set[Address] = set()
        todo = list(self._tables.roots)
        while todo:
            for table in self._pointed_to(todo.pop()):
                if table not in found:
                    found.add(table)
                    todo.append(table)
        return found

    def _pointed_to(self, table: Address) -> Iterator[Address]:
        memory = self._tables.memory
        for offset in range(0, 1 << memory.layout.page_shift, ENTRY):
            target = table_of(memory, self._content(Unit(table + offset, ENTRY)))
            if target is not None and object_of(target) not in self._world.allocator.dead:
                yield target

    def _content(self, unit: Unit) -> int:
        value = self._world.memory.peek(unit.address)
        return self._tables.memory.initial(unit) ^ (value if isinstance(value, int) else 0)


class BootLinks(Links):
    """Watches the calls of boot, which say where hardware is followed at the last level."""

    def wrote(self, cpu: int, address: Address, old: Value, new: Value) -> None:
        """Take note of the location, and follow what hardware may read."""
        if self._tables.followed is not None:
            self._tables.followed.wrote_at_boot(address)
        super().wrote(cpu, address, old, new)
