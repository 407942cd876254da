"""fuzzvm.kernel.ptdump_notes: what a walk notes, entry by entry."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_RO, Level, mk_leaf, pxd_pgprot
from fuzzvm.kernel.ptdump_notes import MappingNoted, Rows, note_page

ENTRIES = st.tuples(
    st.sampled_from([Level.PMD, Level.PTE]),
    st.one_of(
        st.just(0),
        st.builds(mk_leaf, st.integers(0, 5), st.sampled_from([PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_RO])),
    ),
)


def note_all(entries: list[tuple[Level, int]]) -> tuple[Rows, list[MappingNoted]]:
    rows = Rows()
    told = []
    for addr, (level, entry) in enumerate(entries):
        steps = note_page(rows, addr, addr + 1, level, entry)
        try:
            while True:
                annotation = next(steps)
                assert isinstance(annotation, MappingNoted)
                told.append(annotation)
        except StopIteration as stop:
            rows = stop.value
    return rows, told


@given(st.lists(ENTRIES, max_size=20))
def test_rows_join_entries_of_one_level_and_protection(entries: list[tuple[Level, int]]) -> None:
    """A break is another level, or another protection; a hole is none of the mappings, read-only ones too."""
    rows, told = note_all(entries)
    kinds = [(level, pxd_pgprot(entry) if entry else None) for level, entry in entries]
    expanded = []
    for row in rows:
        assert row.start < row.end
        assert row.entry == entries[row.start][1], "a row shows its first entry"
        kind = (row.level, pxd_pgprot(row.entry) if row.entry else None)
        expanded += [kind] * (row.end - row.start)
    assert expanded == kinds
    assert all(a.end == b.start for a, b in itertools.pairwise(rows))
    breaks = sum(a != b for a, b in itertools.pairwise(kinds))
    assert len(rows) == (breaks + 1 if kinds else 0), "no two neighbours are alike"
    assert told == [MappingNoted(level, addr, entry) for addr, (level, entry) in enumerate(entries) if entry]
