"""What generic code may know of an architecture: the model's <asm/vmalloc.h>, <asm/pgtable.h> and <asm/tlbflush.h>.

One file an architecture, found by its module's name; generic code imports this module and no other of the package.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Address, Steps
from fuzzvm.machine.tlb import TlbRules

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class DumpRow(NamedTuple):
    """A run of entries alike in level and protection, as note_page() gathers them.

    `entry` is the first entry of the run, 0 for a hole; addresses are in bytes, `end` exclusive.
    """

    start: int
    end: int
    level: Level
    entry: int


class Architecture(ABC):
    """An architecture. Functions that act are generators and carry the kernel's names."""

    name: ClassVar[str]
    memory: ClassVar[str]
    """The memory model that the architecture has."""
    page_shifts: ClassVar[dict[str, int]]
    """Page sizes that it supports, as scenarios write them, and their shifts."""
    levels: ClassVar[tuple[int, ...]]
    """Numbers of page-table levels that it supports."""
    vmalloc_start: ClassVar[int]
    """Address that the vmalloc area begins at: all that the model's root table maps."""
    tlb: ClassVar[TlbRules | None] = None
    """What its TLB maintenance does, and which translations must not meet; None where TLBs are not modelled."""

    # <asm/vmalloc.h>

    @abstractmethod
    def arch_vmap_p4d_supported(self) -> bool:
        """Return whether a P4D entry can map a block."""

    @abstractmethod
    def arch_vmap_pud_supported(self) -> bool:
        """Return whether a PUD entry can map a block."""

    @abstractmethod
    def arch_vmap_pmd_supported(self) -> bool:
        """Return whether a PMD entry can map a block."""

    # <asm/pgtable.h>

    @abstractmethod
    def set_pxd(self, k: Kernel, pxdp: Address, entry: int) -> Steps[None]:
        """Make an entry valid, with the barriers that this takes."""

    @abstractmethod
    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        """Clear a PMD that points to an empty PTE table and free the table; return whether that was done."""

    @abstractmethod
    def pud_free_pmd_page(self, k: Kernel, pudp: Address, addr: int) -> Steps[bool]:
        """Clear a PUD that points to a PMD table and free it with its PTE tables; return whether that was done."""

    @abstractmethod
    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        """Clear a P4D that points to a PUD table and free it; return whether that was done."""

    # <asm/tlbflush.h>, <asm/text-patching.h>

    @abstractmethod
    def flush_tlb_kernel_range(self, k: Kernel, start: int, end: int) -> Steps[None]:
        """Invalidate what TLBs hold of a range of kernel addresses."""

    @abstractmethod
    def patch_text(self, k: Kernel, site: Address, instruction: int) -> Steps[None]:
        """Replace the instruction at a code location (arch_jump_label_transform)."""

    @abstractmethod
    def patch_text_sync(self, k: Kernel) -> Steps[None]:
        """Make every CPU see the text patched so far (arch_jump_label_transform_apply)."""

    # ptdump

    @abstractmethod
    def format_dump(self, rows: Sequence[DumpRow]) -> str:
        """Return the text of kernel_page_tables for the rows of a walk."""


def names() -> list[str]:
    """Return the names of the architectures that exist."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Architecture:
    """Return the architecture of that name. Raises KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    architecture: Architecture = importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
    return architecture
