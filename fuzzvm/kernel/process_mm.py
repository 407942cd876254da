"""The mm of the process that reads a file: its root leads to the kernel's tables (arch/x86/mm/pgtable.c, Linux 7.3).

page_tables/current_kernel dumps it on x86_64. Only the kernel's half is modelled. page_tables/current_user, with
CONFIG_MITIGATION_PAGE_TABLE_ISOLATION, is of the root for user mode, which leads to none of the kernel's tables that
anybody frees; the lock is that of the same mm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.efi import preallocate_vmalloc_pages
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.ops import Load, Steps, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel
    from fuzzvm.kernel.mmap_lock import Mm

NAME = "current_mm"


def pgd_ctor(k: Kernel, mm: Mm) -> Steps[None]:
    """Copy the kernel's root entries into a process' root, when it is made (clone_pgd_range of swapper_pg_dir)."""
    yield from preallocate_vmalloc_pages(k)
    index = 0
    while index < k.geometry.ptrs[Level.PGD]:
        pgd = yield Load(k.init_mm.pgd + index)
        yield Store(mm.pgd + index, pgd)
        index += 1
