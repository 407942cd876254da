"""fuzzvm.dump.diff: what changed between two dumps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.dump import Difference, DumpError, compare
from fuzzvm.dump.diff import What
from tests.dump import samples

K, M = 1 << 10, 1 << 20
BASE = 0xFFFF_8000_8000_0000
PAGE = "PTE       RW NX SHD AF                UXN    MEM/NORMAL"
CONT = "PTE       RW NX SHD AF        CON     UXN    MEM/NORMAL"
RO = "PTE       ro NX SHD AF                UXN    MEM/NORMAL"
BLOCK = "PMD       RW NX SHD AF            BLK UXN    MEM/NORMAL"
RO_BLOCK = "PMD       ro NX SHD AF            BLK UXN    MEM/NORMAL"
HOLE = "PTE"


def dump(*rows: tuple[int, str], base: int = BASE) -> str:
    """Return the text of rows of these lengths that follow each other in vmalloc space."""
    text, at = "---[ vmalloc() area ]---\n", base
    for length, tail in rows:
        size, unit = length >> 10, 0
        while size % 1024 == 0 and unit < 5:
            size, unit = size >> 10, unit + 1
        text += f"0x{at:016x}-0x{at + length:016x}   {size:9d}{'KMGTPE'[unit]} {tail}\n"
        at += length
    return text + "---[ vmalloc() end ]---\n"


def compared(tmp_path: Path, before: str, after: str, limit: int = 1000) -> Difference:
    (tmp_path / "before").write_text(before)
    (tmp_path / "after").write_text(after)
    return compare(str(tmp_path / "before"), str(tmp_path / "after"), limit=limit)


def listed(difference: Difference) -> list[tuple[int, int, What]]:
    return [(change.start - BASE, change.end - BASE, change.what) for change in difference.changes]


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_a_dump_and_itself(tmp_path: Path, name: str) -> None:
    difference = compared(tmp_path, samples.SAMPLES[name], samples.SAMPLES[name])
    assert not difference.changes
    assert not difference.totals
    assert difference.before.total == difference.after.total


@pytest.mark.parametrize(
    ("before", "after", "what", "other_attributes"),
    [
        (HOLE, PAGE, What.MAPPED, False),
        (PAGE, HOLE, What.UNMAPPED, False),
        (PAGE, CONT, What.PROMOTED, False),
        (PAGE, BLOCK, What.PROMOTED, False),
        (CONT, BLOCK, What.PROMOTED, False),
        (BLOCK, CONT, What.SPLIT, False),
        (CONT, PAGE, What.SPLIT, False),
        (BLOCK, PAGE, What.SPLIT, False),
        (PAGE, RO_BLOCK, What.PROMOTED, True),
        (BLOCK, RO, What.SPLIT, True),
        (PAGE, RO, What.PROTECTION, True),
        (BLOCK, RO_BLOCK, What.PROTECTION, True),
    ],
)
def test_each_kind_of_change(tmp_path: Path, before: str, after: str, what: What, other_attributes: bool) -> None:
    difference = compared(tmp_path, dump((2 * M, before)), dump((2 * M, after)))
    (change,) = difference.changes
    assert (change.start, change.end, change.what) == (BASE, BASE + 2 * M, what)
    assert change.other_attributes == other_attributes
    assert difference.totals == {("vmalloc() area", what): (2 * M, 1)}


def test_ranges_of_one_change_are_one_and_others_stay_apart(tmp_path: Path) -> None:
    before = dump((64 * K, PAGE), (4 * K, HOLE), (2 * M - 68 * K, PAGE), (4 * M, HOLE))
    after = dump((16 * K, PAGE), (48 * K, RO), (4 * K, HOLE), (2 * M - 68 * K, HOLE), (4 * M, BLOCK))
    difference = compared(tmp_path, before, after)
    assert listed(difference) == [
        (16 * K, 64 * K, What.PROTECTION),
        (68 * K, 2 * M, What.UNMAPPED),
        (2 * M, 6 * M, What.MAPPED),
    ]
    assert difference.totals["vmalloc() area", What.MAPPED] == (4 * M, 1)
    assert difference.before.total.block_share == 0
    assert difference.after.total.mapped == 64 * K + 4 * M
    assert not difference.moved


def test_more_changes_than_are_listed_are_counted(tmp_path: Path) -> None:
    before = dump(*[(4 * K, PAGE if n % 2 else HOLE) for n in range(100)])
    after = dump(*[(4 * K, HOLE if n % 2 else PAGE) for n in range(100)])
    difference = compared(tmp_path, before, after, limit=7)
    assert (len(difference.changes), difference.left_out) == (7, 93)
    assert difference.totals["vmalloc() area", What.MAPPED] == (200 * K, 50)


def test_another_boot_is_told(tmp_path: Path) -> None:
    assert compared(tmp_path, dump((2 * M, PAGE)), dump((2 * M, PAGE), base=BASE + 64 * M)).moved


def test_two_layouts_of_an_architecture_compare_and_two_architectures_do_not(tmp_path: Path) -> None:
    start = samples.ARM64_TABLES.index("        0xffff204000000000")
    leaves = [line.strip() for line in samples.ARM64_TABLES[start:].splitlines()[:3]]
    tail = "UXN    MEM/NORMAL"
    plain = (
        "---[ Linear Mapping start ]---\n"
        f"0xffff204000000000-0xffff204000010000          64K PTE       RW NX SHD AF NG CON     {tail}-TAGGED\n"
        f"0xffff204000010000-0xffff204000020000          64K PTE       RW x  SHD AF NG         {tail}\n"
        f"0xffff204000020000-0xffff204000200000        1920K PTE       ro NX SHD AF NG         {tail}\n"
        f"0xffff204000200000-0xffff204000600000           4M PMD       RW NX SHD AF NG     BLK {tail}\n"
    )
    assert len(leaves) == 3
    assert not compared(tmp_path, samples.ARM64_TABLES, plain).changes
    with pytest.raises(DumpError, match="a dump of x86_64, while"):
        compared(tmp_path, samples.ARM64, samples.X86_64)


Rows = list[tuple[int, str]]
rows = st.lists(st.tuples(st.integers(1, 6).map(lambda n: n * 2 * M), st.sampled_from([PAGE, CONT, RO, BLOCK, HOLE])))


def by_block(given_rows: Rows) -> dict[int, str]:
    """Return what is mapped at each 2M."""
    mapped, at = {}, 0
    for length, tail in given_rows:
        mapped.update({place: tail for place in range(at, at + length, 2 * M) if tail != HOLE})
        at += length
    return mapped


@settings(deadline=None)
@given(rows, rows)
def test_the_changes_are_what_differs_place_by_place(
    tmp_path_factory: pytest.TempPathFactory, a: Rows, b: Rows
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    # a hole before and behind, since a dump without rows is none
    a, b = [(2 * M, HOLE), *a], [(2 * M, HOLE), *b]
    difference = compared(folder, dump(*a), dump(*b))
    old, new = by_block(a), by_block(b)
    differ = {place for place in old.keys() | new.keys() if old.get(place) != new.get(place)}
    found: set[int] = set()
    for start, end, _ in listed(difference):
        places = set(range(start, end, 2 * M))
        assert not places & found
        found |= places
    assert found == differ
    mapped = sum(size for (_, what), (size, _) in difference.totals.items() if what is What.MAPPED)
    assert mapped == 2 * M * len(new.keys() - old.keys())
    assert sum(size for size, _ in difference.totals.values()) == 2 * M * len(differ)
