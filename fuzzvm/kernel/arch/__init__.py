"""What generic code may know of an architecture: the model's <asm/vmalloc.h>, <asm/pgtable.h> and <asm/tlbflush.h>.

One module or package an architecture, found by its name; generic code imports this module and no other of the package.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fuzzvm.kernel import set_memory
from fuzzvm.kernel.errors import BROKEN_INSTRUCTION
from fuzzvm.kernel.jump_label import BRANCH
from fuzzvm.kernel.pgtable import Geometry, Level, ptep_get_and_clear
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Steps
from fuzzvm.machine.program import Constant
from fuzzvm.machine.tlb import TlbRules

if TYPE_CHECKING:
    from fuzzvm.kernel.functions import Functions
    from fuzzvm.kernel.kernel import Boot, Kernel


FLUSH_TLBI = {Level.PMD: "flush-tlbi-pmd", Level.PUD: "flush-tlbi-pud"}
"""Points of the invalidation that follows the clear of an entry whose table will be freed, by the entry's level."""


class DumpRow(NamedTuple):
    """A run of entries alike in level and protection, as note_page() gathers them.

    `entry` is the first entry of the run, 0 for a hole; addresses are in bytes, `end` exclusive.
    """

    start: int
    end: int
    level: Level
    entry: int


class Architecture(Constant, ABC):
    """An architecture. Functions that act are generators and carry the kernel's names."""

    name: ClassVar[str]
    memory: ClassVar[str]
    """The memory model that the architecture has."""
    page_shifts: ClassVar[dict[str, int]]
    """Page sizes that it supports, as scenarios write them, and their shifts."""
    levels: ClassVar[tuple[int, ...]]
    """Numbers of page-table levels that it supports with its first page size; see `levels_with`."""
    vmalloc_start: ClassVar[int]
    """Address that the vmalloc area begins at: all that the model's root table maps."""
    has_contiguous_blocks: ClassVar[bool] = False
    """Whether runs of entries can form a block for the TLB."""
    tlb: ClassVar[TlbRules | None] = None
    """What its TLB maintenance does, and which translations must not meet; None where TLBs are not modelled."""
    collapses: ClassVar[bool] = False
    """Whether set_memory_rox may replace a table of pages by a block."""

    reads_entries_once: ClassVar[bool] = True
    """Whether kernel_page_present reads an upper entry once (READ_ONCE) for all that it asks of it."""

    branch: ClassVar[int] = BRANCH
    """What a fetch of a patched site gives while the branch is in it; NOP is 0 everywhere."""
    mms_sharing_kernel_tables: ClassVar[tuple[str, ...]] = ()
    """The mms beside init_mm whose root leads to the kernel's page tables."""

    # What a kernel is configured with

    def vmalloc_start_of(self, levels: int) -> int:
        """Return `vmalloc_start` with that many levels."""
        return self.vmalloc_start

    def attach(self, boot: Boot, functions: Functions) -> Any:
        """Make the locks and words that the architecture has of its own; what is returned is `Kernel.arch_data`."""
        return None

    def levels_with(self, page_size: str) -> tuple[int, ...]:
        """Return the numbers of levels that are possible with a page size (CONFIG_PGTABLE_LEVELS)."""
        return self.levels

    def contiguous_entries(self, page_shift: int, fanout: int) -> tuple[int, int]:
        """Return the entries of a contiguous block of PTEs and of PMDs where a scenario does not say; 1 is no block."""
        return 1, 1

    def configured(self, geometry: Geometry) -> Architecture:
        """Return the architecture of a kernel built for that geometry, where what it supports depends on it."""
        return self

    # <asm/vmalloc.h>: an architecture without a function of its own has the generic one of include/linux/vmalloc.h

    @abstractmethod
    def arch_vmap_p4d_supported(self, k: Kernel) -> bool:
        """Return whether a P4D entry can map a block."""

    @abstractmethod
    def arch_vmap_pud_supported(self, k: Kernel) -> bool:
        """Return whether a PUD entry can map a block."""

    @abstractmethod
    def arch_vmap_pmd_supported(self, k: Kernel) -> bool:
        """Return whether a PMD entry can map a block."""

    def arch_vmap_pte_range_map_size(self, k: Kernel, addr: int, end: int, pfn: int, max_page_shift: int) -> int:
        """Return the bytes that vmap_pte_range maps at addr in one go: a page, or a contiguous block of pages."""
        return k.geometry.size(Level.PTE)

    def arch_vmap_pte_range_unmap_size(self, k: Kernel, addr: int, ptep: Address) -> Steps[int]:
        """Return the bytes that vunmap_pte_range unmaps at addr in one go."""
        yield from ()
        return k.geometry.size(Level.PTE)

    def arch_vmap_pte_supported_shift(self, k: Kernel, size: int) -> int:
        """Return the shift of the largest run of PTEs that a mapping of that many bytes can be made of."""
        return k.geometry.page_shift

    # <asm/pgtable.h>

    @abstractmethod
    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        """Make an entry valid, with the barriers that this takes."""

    def set_pte_lazily(self, k: Kernel, ptep: Address, pte: int) -> Steps[None]:
        """Make a PTE valid in lazy MMU mode: arch_leave_lazy_mmu_mode() catches up on what is left out here."""
        yield from self.set_pxd(k, ptep, pte)

    def arch_leave_lazy_mmu_mode(self, k: Kernel) -> Steps[None]:
        """Do what was put off since lazy MMU mode was entered, in which at least one PTE was set."""
        yield from ()

    # <asm/hugetlb.h>, whose functions vmap uses for runs of PTEs; the generic ones know no such runs

    def arch_make_huge_pte(self, k: Kernel, pte: int, size: int) -> int:
        """Return a leaf as it is to be set for a mapping of that many bytes."""
        return pte

    def set_huge_pte_at(
        self, k: Kernel, addr: int, ptep: Address, pte: int, size: int, *, lazy: bool = False
    ) -> Steps[None]:
        """Make the entries of a mapping of that many bytes valid, with the barriers, or in lazy MMU mode."""
        if lazy:
            yield from self.set_pte_lazily(k, ptep, pte)
        else:
            yield from self.set_pxd(k, ptep, pte)

    def huge_ptep_get_and_clear(self, k: Kernel, addr: int, ptep: Address, size: int) -> Steps[int]:
        """Clear the entries of a mapping of that many bytes, with no flush; return what the first one was."""
        pte = yield ptep_get_and_clear(ptep)
        return int(pte)

    # Freeing what a block replaces

    @abstractmethod
    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        """Clear a PMD that points to an empty PTE table and free the table; return whether that was done."""

    @abstractmethod
    def pud_free_pmd_page(self, k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
        """Clear a PUD that points to a PMD table and free it with its PTE tables; return whether that was done."""

    @abstractmethod
    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        """Clear a P4D that points to a PUD table and free it; return whether that was done."""

    # Memory hotplug

    def arch_remove_memory(self, k: Kernel, start: int, end: int) -> Steps[None]:
        """Remove the linear map of memory that nobody uses, and the tables that are empty then.

        Raises NotImplementedError on an architecture without CONFIG_MEMORY_HOTREMOVE.
        """
        raise NotImplementedError(f"{self.name} has no hot-remove")

    # <asm/set_memory.h>

    def set_memory_ro(self, k: Kernel, addr: int, numpages: int) -> Steps[int]:
        """Make mapped pages read-only; return 0, or a negative errno where that cannot be."""
        return (yield from set_memory.set_memory_ro(k, addr, numpages))

    def set_memory_rox(self, k: Kernel, addr: int, numpages: int) -> Steps[int]:
        """Make mapped pages read-only and executable; return 0, or a negative errno where that cannot be."""
        return (yield from set_memory.set_memory_rox(k, addr, numpages))

    def update_range_prot(self, k: Kernel, start: int, end: int, set_mask: int, clear_mask: int) -> Steps[int]:
        """Change the protection of mapped pages in the page tables alone; return 0 or -EINVAL."""
        return (yield from set_memory.apply_to_page_range(k, start, end, set_mask, clear_mask))

    # <asm/kfence.h>

    def kfence_protect_page(self, k: Kernel, addr: int) -> Steps[int]:
        """Make a page of KFENCE's pool invalid. Raises NotImplementedError where that is not modelled."""
        raise NotImplementedError(f"KFENCE of {self.name} is not modelled")

    # <asm/tlbflush.h>

    @abstractmethod
    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int, point: str = "") -> Steps[None]:
        """Invalidate what TLBs hold of a range of kernel addresses; `point` is that of each invalidation."""

    # <asm/jump_label.h>, <asm/text-patching.h>

    @abstractmethod
    def arch_jump_label_transform(self, k: Kernel, sites: tuple[Address, ...], instruction: int) -> Steps[None]:
        """Replace the instructions at code locations by NOP or BRANCH, and make every CPU see it."""

    def trap(self, k: Kernel, site: Address, instruction: int) -> Steps[int]:
        """Return NOP or BRANCH for something else that a CPU has fetched at a patched site.

        Raises ModelError broken-instruction where the CPU cannot go on, which is so wherever patching leaves nothing
        but the two at a site.
        """
        yield from ()
        raise ModelError(BROKEN_INSTRUCTION, f"CPU {k.cpu} has fetched {instruction:#x}", address=site)

    # ptdump

    @abstractmethod
    def format_dump(self, rows: Sequence[DumpRow]) -> str:
        """Return the text of kernel_page_tables for the rows of a walk."""


def names() -> list[str]:
    """Return the names of the architectures that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@functools.cache
def get(name: str) -> Architecture:
    """Return the architecture of that name. Raises KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    architecture: Architecture = importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
    return architecture
