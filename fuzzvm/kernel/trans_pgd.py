"""The copy of the linear map's tables that kexec_load() makes (arch/arm64/mm/trans_pgd.c; Linux 7.3, 6.12 alike).

The new kernel's pages are moved through it, unless they lie where they are to run (machine_kexec_post_load). kexec_lock
is held, and neither mem_hotplug_lock nor device_hotplug_lock: nothing keeps memory from being taken out meanwhile.
Hibernation makes the same copy to resume, with one CPU left and interrupts off. The tables of the copy are nobody
else's, and not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.pagewalk_rereads import pte_offset_kernel
from fuzzvm.kernel.pgtable import Level, pxd_pgtable, pxd_table
from fuzzvm.machine.ops import Address, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def trans_pgd_create_copy(k: Kernel) -> Steps[None]:
    """Read every table from the root on."""
    yield from copy_page_tables(k, Level.PGD, k.init_mm.pgd, k.geometry.base)


def copy_page_tables(k: Kernel, level: Level, table: Address, addr: int) -> Steps[None]:
    """Read a table and those below it: copy_p4d, copy_pud, copy_pmd and copy_pte.

    An entry is read for what it is, a page is allocated, and the entry is read again for the table below (pmd_offset,
    pte_offset_kernel): two loads in any compiler's code. With `walk_rereads` both are made, else one.
    """
    index = 0
    while index < k.geometry.ptrs[level]:
        entry = yield Load(table + index)
        if level < Level.PTE and pxd_table(entry):
            if k.walk_rereads:
                entry = yield Load(table + index)
                entry = pte_offset_kernel(entry, addr, table + index)
            yield from copy_page_tables(k, k.geometry.below(level), pxd_pgtable(entry), addr)
        addr += k.geometry.size(level)
        index += 1
