"""The walk of kernel page tables (mm/pagewalk.c, Linux 6.12), in the one shape that ptdump uses it.

Each entry is read once, where the kernel reads it with READ_ONCE, and what was read is then read through: that gap is
the race. The kernel reads an upper entry several times; a scenario's `walk_rereads` switches that on, and
docs/limits.md says what it finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.mmap_lock import WALK, WALK_BESIDE, AssertLocked, AssertWriteLocked, Mm
from fuzzvm.kernel.pagewalk_rereads import read_pmd, read_pud
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_pgtable
from fuzzvm.kernel.ptdump_notes import Rows, note_page
from fuzzvm.machine.ops import Address, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def walk_page_range(k: Kernel, mm: Mm, start: int, end: int) -> Steps[Rows]:
    """Walk a range of mm's page tables; return the rows noted."""
    if k.mitigation.walk_assertion == "write":
        yield AssertWriteLocked(mm.mmap_lock, WALK.assertion)
    elif k.mitigation.walk_assertion == "read":
        yield AssertLocked(mm.mmap_lock, WALK.assertion)
    rows = Rows()
    return (yield from walk_pgd_range(k, mm.pgd, start, end, rows))


def walk_pgd_range(k: Kernel, table: Address, addr: int, end: int, rows: Rows) -> Steps[Rows]:
    """Walk the part of the root table that maps a range."""
    while addr != end:
        following = k.geometry.addr_end(Level.PGD, addr, end)
        pgdp = table + k.geometry.index(Level.PGD, addr)
        pgd = yield Load(pgdp)
        if pxd_none(pgd) or pxd_leaf(pgd):
            rows = yield from note_page(rows, addr, following, Level.PGD, pgd)
        else:
            go_on = yield from k.mitigation.before_descend(k.in_role(WALK_BESIDE), Level.PGD, pgdp, pgd)
            if not go_on:
                continue
            rows = yield from walk_p4d_range(k, pgd, addr, following, rows)
            yield from k.mitigation.after_descend(k.in_role(WALK_BESIDE), Level.PGD, pgd)
        addr = following
    return rows


def walk_p4d_range(k: Kernel, pgd: int, addr: int, end: int, rows: Rows) -> Steps[Rows]:
    """Walk the part of a P4D table that maps a range, through the PGD entry that was read."""
    if k.geometry.folded(Level.P4D):
        return (yield from walk_pud_range(k, pgd, addr, end, rows))
    while addr != end:
        following = k.geometry.addr_end(Level.P4D, addr, end)
        p4dp = pxd_pgtable(pgd) + k.geometry.index(Level.P4D, addr)
        p4d = yield Load(p4dp)
        if pxd_none(p4d) or pxd_leaf(p4d):
            rows = yield from note_page(rows, addr, following, Level.P4D, p4d)
        else:
            go_on = yield from k.mitigation.before_descend(k.in_role(WALK_BESIDE), Level.P4D, p4dp, p4d)
            if not go_on:
                continue
            rows = yield from walk_pud_range(k, p4d, addr, following, rows)
            yield from k.mitigation.after_descend(k.in_role(WALK_BESIDE), Level.P4D, p4d)
        addr = following
    return rows


def walk_pud_range(k: Kernel, p4d: int, addr: int, end: int, rows: Rows) -> Steps[Rows]:
    """Walk the part of a PUD table that maps a range, through the P4D entry that was read."""
    if k.geometry.folded(Level.PUD):
        return (yield from walk_pmd_range(k, p4d, addr, end, rows))
    while addr != end:
        following = k.geometry.addr_end(Level.PUD, addr, end)
        pudp = pxd_pgtable(p4d) + k.geometry.index(Level.PUD, addr)
        if k.walk_rereads:
            rows, pud = yield from read_pud(k, pudp, addr, following, rows)
        else:
            pud = yield Load(pudp)
            if pxd_none(pud) or pxd_leaf(pud):
                rows = yield from note_page(rows, addr, following, Level.PUD, pud)
                pud = 0
        if pud:
            go_on = yield from k.mitigation.before_descend(k.in_role(WALK_BESIDE), Level.PUD, pudp, pud)
            if not go_on:
                continue
            rows = yield from walk_pmd_range(k, pud, addr, following, rows)
            yield from k.mitigation.after_descend(k.in_role(WALK_BESIDE), Level.PUD, pud)
        addr = following
    return rows


def walk_pmd_range(k: Kernel, pud: int, addr: int, end: int, rows: Rows) -> Steps[Rows]:
    """Walk the part of a PMD table that maps a range, through the PUD entry that was read."""
    if k.geometry.folded(Level.PMD):
        return (yield from walk_pte_range(k, pud, addr, end, rows))
    while addr != end:
        following = k.geometry.addr_end(Level.PMD, addr, end)
        pmdp = pxd_pgtable(pud) + k.geometry.index(Level.PMD, addr)
        if k.walk_rereads:
            rows, pmd = yield from read_pmd(k, pmdp, addr, following, rows)
        else:
            pmd = yield Load(pmdp)
            if pxd_none(pmd) or pxd_leaf(pmd):
                rows = yield from note_page(rows, addr, following, Level.PMD, pmd)
                pmd = 0
        if pmd:
            go_on = yield from k.mitigation.before_descend(k.in_role(WALK_BESIDE), Level.PMD, pmdp, pmd)
            if not go_on:
                continue
            rows = yield from walk_pte_range(k, pmd, addr, following, rows)
            yield from k.mitigation.after_descend(k.in_role(WALK_BESIDE), Level.PMD, pmd)
        addr = following
    return rows


def walk_pte_range(k: Kernel, pmd: int, addr: int, end: int, rows: Rows) -> Steps[Rows]:
    """Walk the part of a PTE table that maps a range, through the PMD entry that was read."""
    while addr != end:
        following = k.geometry.addr_end(Level.PTE, addr, end)
        rows = yield from ptdump_pte_entry(pxd_pgtable(pmd) + k.geometry.index(Level.PTE, addr), addr, following, rows)
        addr = following
    return rows


def ptdump_pte_entry(ptep: Address, addr: int, following: int, rows: Rows) -> Steps[Rows]:
    """Read a PTE without its lock (ptep_get_lockless) and note it."""
    pte = yield Load(ptep)
    return (yield from note_page(rows, addr, following, Level.PTE, pte))
