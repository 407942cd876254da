"""fuzzvm.kernel.tables: page tables read from outside, against what was mapped and against the kernel's own walk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, pxd_leaf, pxd_pfn
from fuzzvm.kernel.ptdump import ptdump_walk_pgd
from fuzzvm.kernel.tables import linked_tables, mappings, path
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from tests.support import boot

PAGES = 64


@given(
    levels=st.sampled_from([2, 3, 4, 5]),
    ranges=st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES), st.sampled_from([12, 64])), max_size=5),
    part=st.tuples(st.integers(0, PAGES), st.integers(0, PAGES)),
)
def test_what_is_read_is_what_was_mapped(
    levels: int, ranges: list[tuple[int, int, int]], part: tuple[int, int]
) -> None:
    # 64 pages fit below one root whatever the levels
    machine, kernel = boot(levels=levels, fanout={2: 8, 3: 4, 4: 4, 5: 4}[levels])
    geometry, root, peek = kernel.geometry, kernel.init_mm.pgd, machine.memory.peek
    page, base = geometry.size(Level.PTE), geometry.base
    mapped: set[int] = set()
    for first, count, shift in ranges:
        pages = range(first, min(first + count, PAGES))
        if mapped.isdisjoint(pages):
            addr, end = base + pages.start * page, base + pages.stop * page
            machine.boot(vmap_range(kernel, addr, end, addr - base, PAGE_KERNEL, shift))
            mapped |= set(pages)
    start, end = sorted(part)
    found = list(mappings(geometry, Level.PGD, root, base + start * page, base + end * page, peek))
    assert [one.addr for one in found] == sorted({one.addr for one in found})
    covered = {
        (one.addr - base) // page + number for one in found for number in range(geometry.size(one.level) // page)
    }
    assert covered & set(range(start, end)) == mapped & set(range(start, end))
    for number in range(PAGES):
        level, _, entry = path(geometry, root, base + number * page, peek)[-1]
        assert pxd_leaf(entry) == (number in mapped)
        if pxd_leaf(entry):
            assert pxd_pfn(entry) == number & ~(geometry.size(level) // page - 1)
    whole = mappings(geometry, Level.PGD, root, geometry.table_start(Level.PGD, base), geometry.end, peek)
    rows = machine.boot(ptdump_walk_pgd(kernel, kernel.init_mm))
    mapped_by_rows = [row for row in rows if row.entry]
    assert {(one.level, one.addr) for one in whole} <= {
        (row.level, addr) for row in mapped_by_rows for addr in range(row.start, row.end, geometry.size(row.level))
    }


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_every_table_that_is_linked(levels: int) -> None:
    machine, kernel = boot(levels=levels, fanout=4)
    geometry, root, peek = kernel.geometry, kernel.init_mm.pgd, machine.memory.peek
    assert list(linked_tables(geometry, root, peek)) == [root]
    page = geometry.size(Level.PTE)
    machine.boot(vmap_range(kernel, geometry.base, geometry.base + page, 0, PAGE_KERNEL, 12))
    machine.boot(vunmap_range(kernel, geometry.base, geometry.base + page))
    tables = list(linked_tables(geometry, root, peek))
    assert tables == [one.table for one in path(geometry, root, geometry.base, peek)]
    assert len(tables) == levels


@pytest.mark.parametrize(
    ("levels", "below"),
    [
        (2, [Level.PGD, Level.PTE]),
        (3, [Level.PGD, Level.PMD, Level.PTE]),
        (5, list(Level)),
    ],
)
def test_the_next_level_that_is_not_folded(levels: int, below: list[Level]) -> None:
    _, kernel = boot(levels=levels, fanout=4)
    found = [kernel.geometry.below(-1)]
    while found[-1] != Level.PTE:
        found.append(kernel.geometry.below(found[-1]))
    assert found == below
    assert all(isinstance(level, Level) for level in found)
