"""The walk of PUD and PMD tables with every read that mm/pagewalk.c and mm/ptdump.c have (Linux 6.12).

The kernel reads an upper entry once to see a hole, once in ptdump's callback, once to see that it is no block, and once
more for the address of the table below, each time from memory. Nothing keeps it from changing between two of these, and
the last one is not looked at again. Entries above the PUD only ever change from none to a table, so for them reading
once comes to the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuzzvm.kernel.errors import BAD_TABLE_POINTER
from fuzzvm.kernel.pgtable import Level, pxd_leaf, pxd_none, pxd_table
from fuzzvm.kernel.ptdump_notes import Rows, note_page
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import Address, Load, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def read_pud(k: Kernel, pudp: Address, addr: int, end: int, rows: Rows) -> Steps[tuple[Rows, int]]:
    """Read a PUD as walk_pud_range and walk_pmd_range do; return the rows, and the table entry to walk, 0 for none.

    Raises ModelError bad-table-pointer where what is walked at last is no table.
    """
    while True:
        # pud_none(*pud)
        pud = yield Load(pudp)
        if pxd_none(pud):
            rows = yield from note_page(rows, addr, end, Level.PUD, 0)
            return rows, 0
        # ptdump_pud_entry()
        pud = yield Load(pudp)
        if pxd_leaf(pud):
            rows = yield from note_page(rows, addr, end, Level.PUD, pud)
            return rows, 0
        # pud_leaf(*pud) || !pud_present(*pud)
        pud = yield Load(pudp)
        if not pxd_table(pud):
            return _nothing_noted(rows, end), 0
        # pudp_get() in walk_pmd_range(), which says ACTION_AGAIN where that is no table
        pud = yield Load(pudp)
        if pxd_table(pud):
            break
    pud = yield Load(pudp)
    return rows, pmd_offset(pud, addr, pudp)


def read_pmd(k: Kernel, pmdp: Address, addr: int, end: int, rows: Rows) -> Steps[tuple[Rows, int]]:
    """Read a PMD as walk_pmd_range and walk_pte_range do; return the rows, and the table entry to walk, 0 for none.

    Raises ModelError bad-table-pointer where what is walked at last is no table.
    """
    # pmd_none(*pmd)
    pmd = yield Load(pmdp)
    if pxd_none(pmd):
        rows = yield from note_page(rows, addr, end, Level.PMD, 0)
        return rows, 0
    # ptdump_pmd_entry()
    pmd = yield Load(pmdp)
    if pxd_leaf(pmd):
        rows = yield from note_page(rows, addr, end, Level.PMD, pmd)
        return rows, 0
    # pmd_leaf(*pmd) || !pmd_present(*pmd)
    pmd = yield Load(pmdp)
    if not pxd_table(pmd):
        return _nothing_noted(rows, end), 0
    pmd = yield Load(pmdp)
    return rows, pte_offset_kernel(pmd, addr, pmdp)


def _nothing_noted(rows: Rows, end: int) -> Rows:
    """Return the rows as they come out where an entry is passed over: the last one reaches to the next one noted."""
    return Rows((*rows[:-1], rows[-1]._replace(end=end))) if rows else rows


def pmd_offset(pud: int, addr: int, pudp: Address) -> int:
    """Return a PUD that is about to be read through. Raises ModelError bad-table-pointer where it is no table."""
    if not pxd_table(pud):
        raise _bad_table_pointer(pud, addr, pudp)
    return pud


def pte_offset_kernel(pmd: int, addr: int, pmdp: Address) -> int:
    """Return a PMD that is about to be read through. Raises ModelError bad-table-pointer where it is no table."""
    if not pxd_table(pmd):
        raise _bad_table_pointer(pmd, addr, pmdp)
    return pmd


def _bad_table_pointer(entry: int, addr: int, address: Address) -> ModelError:
    what = "a block" if pxd_leaf(entry) else "none"
    message = f"the entry of {addr:#x} is {what} by now and is read through"
    return ModelError(BAD_TABLE_POINTER, message, address=address)
