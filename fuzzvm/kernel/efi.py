"""efi_mm: an mm of its own whose root table leads to the kernel's tables (arch/x86/platform/efi/efi_64.c, Linux 6.12).

Only where an architecture keeps kernel and user mappings under one root is there anything to share: x86_64 copies the
kernel's PGD entries into efi_mm's root. On arm64 the kernel's tables hang off TTBR1 and efi_mm's off TTBR0, so its dump
(efi_page_tables) never meets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.pgtable import Level
from fuzzvm.kernel.vmap import p4d_alloc, pgd_offset_k, pud_alloc
from fuzzvm.machine.ops import Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.mmap_lock import Mm

NAME = "efi_mm"


def preallocate_vmalloc_pages(k: Kernel) -> Steps[None]:
    """Give every root entry of the vmalloc area its table, once and for all (arch/x86/mm/init_64.c).

    What roots share then never changes again: no entry of init_mm's root is ever missing in another.
    """
    addr = k.geometry.base
    while addr < k.geometry.end:
        p4dp = yield from p4d_alloc(k, pgd_offset_k(k, addr), addr)
        if p4dp is not None and k.geometry.folded(Level.P4D):
            # only with four levels: with five the P4D tables are what is shared
            yield from pud_alloc(k, p4dp, addr)
        addr += k.geometry.size(Level.PGD)


def efi_sync_low_kernel_mappings(k: Kernel, efi_mm: Mm) -> Steps[None]:
    """Copy the kernel's root entries into efi_mm's root, as before each call of the firmware."""
    index = 0
    while index < k.geometry.ptrs[Level.PGD]:
        pgd = yield Load(k.init_mm.pgd + index)
        yield Store(efi_mm.pgd + index, pgd)
        index += 1


def efi_enter_virtual_mode(k: Kernel, efi_mm: Mm) -> Steps[None]:
    """Make efi_mm's root lead to the kernel's tables: what boot does, before the first call of a scenario."""
    yield from preallocate_vmalloc_pages(k)
    yield from efi_sync_low_kernel_mappings(k, efi_mm)
