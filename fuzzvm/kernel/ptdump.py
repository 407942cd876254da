"""ptdump: reading kernel_page_tables and check_wx_pages (mm/ptdump.c, arch/*/mm/ptdump.c, Linux 6.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.memory_hotplug import get_online_mems, put_online_mems
from fuzzvm.kernel.mmap_lock import WALK, WALK_BESIDE, Mm, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pgtable import pgprot_wx, pxd_pgprot
from fuzzvm.kernel.ptdump_notes import Rows, WalkBegins, WalkEnds
from fuzzvm.machine.ops import Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def ptdump_walk_pgd(k: Kernel, mm: Mm) -> Steps[Rows]:
    """Walk all of mm's page tables under its mmap_lock, between the mitigation's hooks; return the rows noted."""
    token = yield from k.mitigation.before_walk(k.in_role(WALK_BESIDE), mm)
    yield from get_online_mems(k)
    yield from mmap_write_lock(k, mm, WALK)
    yield from k.mitigation.walk_locked(k.in_role(WALK_BESIDE), mm, token)
    while True:
        attempt = yield from k.mitigation.before_attempt(k.in_role(WALK_BESIDE), mm, token)
        yield WalkBegins()
        rows = yield from walk_page_range(k, mm, k.geometry.base, k.geometry.end)
        again = yield from k.mitigation.after_attempt(k.in_role(WALK_BESIDE), mm, attempt)
        if not again:
            break
    yield WalkEnds()
    yield from k.mitigation.walk_unlocking(k.in_role(WALK_BESIDE), mm, token)
    yield from mmap_write_unlock(k, mm, WALK)
    yield from put_online_mems(k)
    yield from k.mitigation.after_walk(k.in_role(WALK_BESIDE), mm, token)
    return rows


def ptdump_walk(k: Kernel, mm: Mm) -> Steps[str]:
    """Read kernel_page_tables; return its text."""
    rows = yield from ptdump_walk_pgd(k, mm)
    return k.arch.format_dump(rows)


def ptdump_check_wx(k: Kernel) -> Steps[bool]:
    """Read check_wx_pages; return whether no mapping is both writable and executable."""
    rows = yield from ptdump_walk_pgd(k, k.init_mm)
    return not any(pgprot_wx(pxd_pgprot(row.entry)) for row in rows)
