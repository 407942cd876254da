"""Walks of the kernel's page tables with callbacks that may change what they come to (mm/pagewalk.c, Linux 7.3).

`walk_kernel_page_table_range` wants init_mm's lock, the lockless one nothing at all: the caller has to own the range,
so that nobody changes it or frees its tables meanwhile. Without `walk_rereads` an upper entry is read once, and again
after a callback that changes entries of that level; with it as often as C reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from fuzzvm.kernel.mmap_lock import AssertLocked
from fuzzvm.kernel.pagewalk_rereads import pte_offset_kernel
from fuzzvm.kernel.pgtable import Level, pxd_none, pxd_pgtable, pxd_table
from fuzzvm.machine.ops import Address, Annotation, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


@dataclass(frozen=True, slots=True)
class NeverLinked(Annotation):
    """A table is about to be freed that was filled for nothing: another CPU has put one in that place first."""

    table: Address


class Visited(NamedTuple):
    """What a callback has come to: 0 or a negative errno, the entry as it is now, and whether to walk below it."""

    ret: int
    entry: int
    subtree: bool


class MmWalkOps:
    """The callbacks of a walk: struct mm_walk_ops, with what `mm_walk.private` holds.

    `levels` are the levels above PTE that have a callback. They compare by value, as a program that is made again has
    others.
    """

    __slots__ = ()
    levels: ClassVar[frozenset[Level]] = frozenset()

    def pxd_entry(self, k: Kernel, level: Level, entryp: Address, entry: int, addr: int, end: int) -> Steps[Visited]:
        """Visit an upper entry that was not none when it was read; it maps [addr, end) of the range."""
        raise NotImplementedError

    def pte_entry(self, k: Kernel, ptep: Address, addr: int) -> Steps[int]:
        """Visit a PTE; return 0 or a negative errno."""
        raise NotImplementedError


def walk_kernel_page_table_range(k: Kernel, start: int, end: int, ops: MmWalkOps) -> Steps[int]:
    """Walk a range of the kernel's page tables with init_mm's lock held; return 0 or a negative errno.

    The lock keeps no hot-remove away: the caller has to do that, says the kernel's comment.
    """
    yield AssertLocked(k.init_mm.mmap_lock)
    return (yield from walk_kernel_page_table_range_lockless(k, start, end, ops))


def walk_kernel_page_table_range_lockless(k: Kernel, start: int, end: int, ops: MmWalkOps) -> Steps[int]:
    """Walk a range that the caller has to itself, with no lock; return 0 or a negative errno."""
    return (yield from walk_pxd_range(k, Level.PGD, k.init_mm.pgd, start, end, ops))


def walk_pxd_range(k: Kernel, level: Level, table: Address, addr: int, end: int, ops: MmWalkOps) -> Steps[int]:
    """Walk the part of a table that maps a range (walk_pgd_range down to walk_pte_range)."""
    while addr != end:
        following = k.geometry.addr_end(level, addr, end)
        entryp = table + k.geometry.index(level, addr)
        if level == Level.PTE:
            ret = yield from ops.pte_entry(k, entryp, addr)
        else:
            ret = yield from walk_pxd_entry(k, level, entryp, addr, following, ops)
        if ret:
            return int(ret)
        addr = following
    return 0


def walk_pxd_entry(k: Kernel, level: Level, entryp: Address, addr: int, end: int, ops: MmWalkOps) -> Steps[int]:
    """Visit an upper entry, and walk the table that it leads to afterwards."""
    entry = yield Load(entryp)
    if pxd_none(entry):
        # pte_hole, which none of the callers has
        return 0
    if level in ops.levels:
        visited = yield from ops.pxd_entry(k, level, entryp, entry, addr, end)
        if visited.ret or not visited.subtree:
            return int(visited.ret)
        entry = visited.entry
    if k.walk_rereads:
        # pmd_leaf(*pmd) || !pmd_present(*pmd)
        entry = yield Load(entryp)
    if not pxd_table(entry):
        return 0
    if k.walk_rereads:
        entry = yield Load(entryp)
        entry = pte_offset_kernel(entry, addr, entryp)
    return (yield from walk_pxd_range(k, k.geometry.below(level), pxd_pgtable(entry), addr, end, ops))
