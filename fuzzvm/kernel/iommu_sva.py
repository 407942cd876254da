"""IOMMUs that walk the kernel's page tables, and the flag by which tables wait for them (x86_64, Linux 7.3).

A device with shared virtual addresses (IOMMU_SVA) walks a process' page tables, and on x86_64 with these the kernel's.
What it holds of them, the kernel invalidates before it frees a table: in the work item that frees tables with PT_kernel
(include/linux/mm.h: pagetable_free; mm/pgtable-generic.c). A table without that flag is freed at once.

Where a scenario has such a device, the model keeps the tables of CPA's splits that lack the flag in one word. All other
tables that are freed so have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.machine.ops import Address, Annotation, Free, Load, Rmw, Steps, Value

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.pgtable import Level

PTDESC_SET_KERNEL = "ptdesc-set-kernel"


@dataclass(frozen=True, slots=True)
class IommuInvalidated(Annotation):
    """No IOMMU holds anything of the kernel's page tables that was gone before (iommu_sva_invalidate_kva_range)."""


@dataclass(frozen=True, slots=True)
class _Add:
    table: Address

    def __call__(self, tables: Value) -> tuple[Address, ...]:
        return (*_tables(tables), self.table)


@dataclass(frozen=True, slots=True)
class _Remove:
    table: Address

    def __call__(self, tables: Value) -> Value:
        return tuple(one for one in _tables(tables) if one != self.table) or 0


def _tables(word: Value) -> tuple[Address, ...]:
    """Return the tables that the word holds, which is 0 before the first."""
    return word if isinstance(word, tuple) else ()


def pte_alloc_one_kernel(k: Kernel, table: Address) -> Steps[None]:
    """Mark a table that was just allocated as one of the kernel's: __pte_alloc_one_kernel sets PT_kernel."""
    if k.unmarked_tables is None:
        return
    # as alloc_pages() gives it
    yield Rmw(k.unmarked_tables, _Add(table))
    yield Rmw(k.unmarked_tables, _Remove(table), point=PTDESC_SET_KERNEL)


def pagetable_free(k: Kernel, table: Address, level: Level) -> Steps[None]:
    """Free a table: as the kernel's tables are freed, or at once where it is not marked as one of these."""
    if k.unmarked_tables is not None:
        unmarked = yield Load(k.unmarked_tables)
        if table in _tables(unmarked):
            yield Rmw(k.unmarked_tables, _Remove(table))
            yield Free(table)
            return
    yield from k.mitigation.free_table(k, table, level)


def iommu_sva_invalidate_kva_range(k: Kernel) -> Steps[None]:
    """Have all IOMMUs forget what they hold of the kernel's page tables."""
    if k.unmarked_tables is not None:
        yield IommuInvalidated()
