"""Changing the protection of mapped pages, as architectures do it that never split or join entries.

arm64 above all (arch/arm64/mm/pageattr.c, mm/memory.c, include/linux/set_memory.h; Linux 6.12). x86_64 has its own, and
arm64 changes entries in another way since 6.18 (fuzzvm/kernel/arch/arm64/pageattr.py).
The linear map is not modelled, so the same change to the pages' other mapping is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.pgtable import (
    PROT_EXEC,
    PROT_WRITE,
    Level,
    mk_leaf,
    pxd_leaf,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.kernel.vmalloc import vm_unmap_aliases
from fuzzvm.machine.ops import Address, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel

EFAULT = 14
EINVAL = 22


def set_memory_rox(k: Kernel, addr: int, numpages: int) -> Steps[int]:
    """Make pages read-only, then executable; return 0 or -EINVAL."""
    ret = yield from set_memory_ro(k, addr, numpages)
    if ret:
        return int(ret)
    return (yield from set_memory_x(k, addr, numpages))


def set_memory_ro(k: Kernel, addr: int, numpages: int) -> Steps[int]:
    """Make pages read-only; return 0 or -EINVAL."""
    return (yield from change_memory_common(k, addr, numpages, 0, PROT_WRITE))


def set_memory_x(k: Kernel, addr: int, numpages: int) -> Steps[int]:
    """Make pages executable; return 0 or -EINVAL."""
    return (yield from change_memory_common(k, addr, numpages, PROT_EXEC, 0))


def change_memory_common(k: Kernel, addr: int, numpages: int, set_mask: int, clear_mask: int) -> Steps[int]:
    """Set and clear protection bits of pages and flush them from the TLBs; return 0 or -EINVAL."""
    yield from vm_unmap_aliases(k)
    end = addr + numpages * k.geometry.size(Level.PTE)
    ret = yield from k.arch.update_range_prot(k, addr, end, set_mask, clear_mask)
    yield from k.arch.flush_tlb_kernel_range(k, addr, end)
    return int(ret)


def apply_to_page_range(k: Kernel, addr: int, end: int, set_mask: int, clear_mask: int) -> Steps[int]:
    """Change each page of a range; return 0, or -EINVAL where one is not mapped by a page of its own.

    The kernel looks for the area first, whose pages are all mapped; the model finds a hole here.
    """
    while addr != end:
        ptep = yield from _pte_offset(k, addr)
        if ptep is None:
            return -EINVAL
        pte = yield Load(ptep)
        if not pxd_leaf(pte):
            return -EINVAL
        yield from k.arch.set_pxd(k, ptep, mk_leaf(pxd_pfn(pte), pxd_pgprot(pte) & ~clear_mask | set_mask))
        addr += k.geometry.size(Level.PTE)
    return 0


def _pte_offset(k: Kernel, addr: int) -> Steps[Address | None]:
    """Return the address of addr's PTE, or None where no table or a block is on the way."""
    level, table = Level.PGD, k.init_mm.pgd
    while level < Level.PTE:
        entry = yield Load(table + k.geometry.index(level, addr))
        if not pxd_table(entry):
            return None
        level, table = k.geometry.below(level), pxd_pgtable(entry)
    return table + k.geometry.index(Level.PTE, addr)
