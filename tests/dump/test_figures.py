"""fuzzvm.dump: figures of the samples, counted by hand; prefixes; geometry; regions."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.dump import DumpError, Summary, summarise
from fuzzvm.dump.entry import Kind
from fuzzvm.dump.figures import Figures
from fuzzvm.dump.layouts.arm64_tables import LAYOUT
from tests.dump import samples

K, M, G = 1 << 10, 1 << 20, 1 << 30


def read(tmp_path: Path, text: str, page_size: int | None = None) -> Summary:
    path = tmp_path / "dump"
    path.write_text(text)
    return summarise(str(path), page_size)


def region(summary: Summary, name: str) -> Figures:
    (found,) = (figures for figures in summary.regions if figures.name == name)
    return found


def parts(figures: Figures) -> dict[str, tuple[int, int, int]]:
    return {f"{s.level.name} {s.kind.value}": (s.bytes, s.rows, s.tlb_entries) for s in figures.shares}


def test_arm64(tmp_path: Path) -> None:
    summary = read(tmp_path, samples.ARM64)
    assert summary.layout.name == "arm64"
    assert (summary.geometry.page_size, summary.geometry.source, summary.geometry.certain) == (4 * K, "inferred", True)
    assert [figures.name for figures in summary.regions] == ["Linear Mapping", "Modules", "vmalloc() area"]
    assert summary.reading.rows == 23
    assert not summary.reading.cautions

    linear = region(summary, "Linear Mapping")
    assert parts(linear) == {
        "PTE page": (2 * M, 1, 512),
        "PMD block": (30 * M, 1, 15),
        "PMD contiguous block": (992 * M, 1, 31),
        "PUD block": (G, 1, 1),
    }
    assert (linear.mapped, linear.tlb_entries, linear.tlb_entries_as_pages) == (2 * G, 559, 524288)
    assert (linear.start, linear.end) == (0xFFFF000000000000, 0xFFFF800000000000)

    vmalloc = summary.vmalloc
    assert vmalloc is not None
    assert parts(vmalloc) == {
        "PTE page": (68 * K, 2, 17),
        "PTE contiguous page": (960 * K, 2, 15),
        "PMD block": (6 * M, 1, 3),
    }
    assert vmalloc.mapped == 7172 * K
    assert vmalloc.block_share == 6144 / 7172
    assert vmalloc.contiguous_share == 960 / 7172
    assert vmalloc.memory_block_share == 6144 / 7164
    assert (vmalloc.tlb_entries, vmalloc.tlb_entries_as_pages) == (35, 1793)

    modules = region(summary, "Modules")
    assert parts(modules) == {"PTE page": (36 * K, 3, 9)}
    assert modules.wx_bytes == 4 * K
    (wx,) = summary.wx
    assert (wx.start, wx.end, wx.region) == (0xFFFF80007C008000, 0xFFFF80007C009000, "Modules")
    assert summary.total.mapped == 2 * G + 36 * K + 7172 * K


def test_x86_64(tmp_path: Path) -> None:
    summary = read(tmp_path, samples.X86_64)
    assert summary.layout.name == "x86_64"
    assert (summary.geometry.page_size, summary.geometry.source) == (4 * K, "architecture")
    assert not summary.reading.cautions
    low = region(summary, "Low Kernel Mapping")
    assert parts(low) == {"PTE page": (2 * M, 3, 512), "PMD block": (1022 * M, 1, 511), "PUD block": (G, 1, 1)}
    vmalloc = summary.vmalloc
    assert vmalloc is not None
    assert vmalloc.name == "vmalloc() Area"
    assert parts(vmalloc) == {"PTE page": (20 * K, 2, 5), "PMD block": (4 * M, 1, 2)}
    assert (vmalloc.tlb_entries, vmalloc.tlb_entries_as_pages) == (7, 1029)
    assert vmalloc.block_share == 4096 / 4116
    assert vmalloc.memory_block_share == 4096 / 4112
    (wx,) = summary.wx
    assert (wx.start, wx.region) == (0xFFFFFFFFC0000000, "Modules")
    assert region(summary, "High Kernel Mapping").block_share == 1
    assert region(summary, "User Space").block_share is None


def test_arm64_with_tables(tmp_path: Path) -> None:
    summary = read(tmp_path, samples.ARM64_TABLES)
    assert summary.layout.name == "arm64-tables"
    assert summary.geometry.page_size == 4 * K
    assert summary.geometry.certain
    assert not summary.reading.cautions
    linear = region(summary, "Linear Mapping")
    assert parts(linear) == {
        "PTE page": (1984 * K, 2, 496),
        "PTE contiguous page": (64 * K, 1, 1),
        "PMD block": (4 * M, 1, 2),
    }
    assert (linear.mapped, linear.tlb_entries, linear.tlb_entries_as_pages) == (6 * M, 499, 1536)
    assert {level.name: count for level, count in summary.tables.items()} == {"PGD": 1, "PUD": 1, "PMD": 1}
    assert summary.vmalloc is None
    (wx,) = summary.wx
    assert (wx.start, wx.end) == (0xFFFF204000010000, 0xFFFF204000020000)
    assert wx.entry.attributes[:2] == ("RW", "x")


def test_arm64_with_tables_in_version_3(tmp_path: Path) -> None:
    summary = read(tmp_path, samples.ARM64_TABLES_3)
    assert summary.layout.name == "arm64-tables"
    assert not summary.reading.cautions
    assert summary.vmalloc is not None
    # rows of F map nothing, and what x means of a PUD block cannot be known
    assert parts(summary.vmalloc) == {"PTE page": (4 * K, 1, 1), "PMD block": (4 * M, 1, 2), "PUD block": (G, 1, 1)}
    assert not summary.wx


@pytest.mark.parametrize(
    ("words", "kind", "attributes", "executable"),
    [
        # version 4
        ("PMD TBL RW x NXTbl UXNTbl MEM/NORMAL", Kind.TABLE, None, False),
        ("PMD BLK ro SHD AF NG NX UXN MEM/NORMAL", Kind.BLOCK, "ro NX SHD AF NG UXN MEM/NORMAL", False),
        ("PUD BLK RW SHD AF NG CON x UXN MEM/NORMAL", Kind.CONTIGUOUS_BLOCK, "RW x SHD AF NG UXN MEM/NORMAL", True),
        ("PTE RW x SHD AF NG UXN MEM/NORMAL", Kind.PAGE, "RW x SHD AF NG UXN MEM/NORMAL", True),
        # version 5
        ("PMD TBL NX UXN KRN RO", Kind.TABLE, None, False),
        ("PTE RO X SHD AF CON UXN GP MEM/NORMAL", Kind.CONTIGUOUS_PAGE, "ro x SHD AF UXN GP MEM/NORMAL", True),
        # none
        ("PTE TBL RW", None, None, False),
        ("PMD TBL BLK RW", None, None, False),
        ("PMD BLK RW RO NX AF MEM/NORMAL", None, None, False),
        ("PMD BLK NX AF MEM/NORMAL", None, None, False),
        ("PMD BLK RW NX AF, MEM/NORMAL", None, None, False),
        ("PMD BLK RW NX ONE TWO THREE MEM/NORMAL", None, None, False),
        ("", None, None, False),
    ],
)
def test_rows_of_the_other_versions(words: str, kind: Kind | None, attributes: str | None, executable: bool) -> None:
    entry = LAYOUT.parse(words.split())
    assert (entry and entry.kind) is kind
    if entry is not None and attributes is not None:
        assert (" ".join(entry.attributes), entry.executable) == (attributes, executable)


def test_a_part_of_a_dump_with_tables_is_known_by_its_ends(tmp_path: Path) -> None:
    lines = [line for line in samples.ARM64_TABLES.splitlines(True) if "TBL" not in line]
    summary = read(tmp_path, "".join(lines))
    assert summary.layout.name == "arm64-tables"
    assert summary.total == read(tmp_path, samples.ARM64_TABLES).total
    assert not summary.reading.cautions


PREFIXES = {
    "dmesg": "[   12.345678] ",
    "caller": "[   12.345678][    T1] ",
    "caller, apart": "[   12.345678] [   C0] ",
    "raw": "<6>[   12.345678] ",
    "dmesg -T": "[Sun Nov 22 18:46:15 2026] ",
    "dmesg -x": "kern  :info  : [   12.345678] ",
    "journalctl": "Nov 22 18:46:15 host-0x1 kernel: ",
    "journalctl -o short-iso": "2026-11-22T18:46:15+0000 host kernel: ",
    "kern.log": "Nov 22 18:46:15 host kernel: [   12.345678] ",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES.keys())
@pytest.mark.parametrize("name", samples.SAMPLES)
def test_what_a_log_puts_in_front_changes_nothing(tmp_path: Path, name: str, prefix: str) -> None:
    text = samples.SAMPLES[name]
    plain = read(tmp_path, text).to_data()
    assert read(tmp_path, "".join(prefix + line for line in text.splitlines(True))).to_data() == plain
    assert read(tmp_path, text.replace("\n", "\r\n")).to_data() == plain


def test_lines_of_a_log_in_between_are_counted(tmp_path: Path) -> None:
    lines = samples.ARM64.splitlines(True)
    noise = "[    1.5] audit: type=1400 [mem 0x0000000000000000-0x0000000000000fff] usable\n"
    summary = read(tmp_path, noise.join(lines))
    assert (summary.reading.others, summary.reading.skipped) == (len(lines) - 1, 0)
    assert not summary.reading.cautions
    assert summary.total == read(tmp_path, samples.ARM64).total


def row(start: int, length: int, tail: str) -> str:
    units, size = "KMGTPE", length >> 10
    unit = 0
    while size % 1024 == 0 and unit < 5:
        size //= 1024
        unit += 1
    return f"0x{start:016x}-0x{start + length:016x}   {size:9d}{units[unit]} {tail}\n"


RW = "RW NX SHD AF UXN MEM/NORMAL"
BASE = 0xFFFF_8000_0000_0000


@pytest.mark.parametrize(
    ("rows", "candidates"),
    [
        ([(64 * K, f"PTE {RW}")], (4 * K, 16 * K, 64 * K)),
        ([(16 * K, f"PTE {RW}")], (4 * K, 16 * K)),
        ([(4 * K, "PTE"), (60 * K, f"PTE {RW}")], (4 * K,)),
        ([(2 * M, f"PMD BLK {RW}")], (4 * K,)),
        ([(32 * M, f"PMD BLK {RW}")], (4 * K, 16 * K)),
        ([(512 * M, f"PMD BLK {RW}"), (64 * K, f"PTE {RW}")], (4 * K, 16 * K, 64 * K)),
        ([(64 * K, f"PTE CON {RW}")], (4 * K,)),
        ([(2 * M, f"PTE CON {RW}")], (4 * K, 16 * K, 64 * K)),
        ([(1 * G, f"PUD BLK {RW}")], (4 * K,)),
        ([(1 * G, f"PMD CON BLK {RW}")], (4 * K, 16 * K)),
        ([(16 * G, f"PMD CON BLK {RW}")], (4 * K, 16 * K, 64 * K)),
        ([(512 * M, f"PMD TBL {RW}"), (512 * M, f"PTE {RW}")], (64 * K,)),
    ],
)
def test_the_page_size_is_the_largest_that_no_row_contradicts(
    tmp_path: Path, rows: list[tuple[int, str]], candidates: tuple[int, ...]
) -> None:
    text, at = "", BASE
    for length, tail in rows:
        text += row(at, length, tail)
        at += 0 if "TBL" in tail else length
    geometry = read(tmp_path, text).geometry
    assert geometry.candidates == candidates
    assert geometry.page_size == candidates[-1]
    assert geometry.certain == (len(candidates) == 1)
    for size in (4 * K, 16 * K, 64 * K):
        if size in candidates:
            assert read(tmp_path, text, size).geometry.page_size == size
        else:
            with pytest.raises(DumpError, match="pages are not of"):
                read(tmp_path, text, size)


@pytest.mark.parametrize(
    ("page_size", "tail", "length", "entries"),
    [
        (4 * K, "PTE", 2 * M, 512),
        (4 * K, "PTE CON", 2 * M, 32),
        (16 * K, "PTE", 2 * M, 128),
        (16 * K, "PTE CON", 2 * M, 1),
        (64 * K, "PTE", 2 * M, 32),
        (64 * K, "PTE CON", 4 * M, 2),
        (4 * K, "PMD BLK", 64 * M, 32),
        (4 * K, "PMD CON BLK", 64 * M, 2),
        (16 * K, "PMD CON BLK", 2 * G, 2),
        (64 * K, "PMD CON BLK", 32 * G, 2),
        (64 * K, "PMD BLK", G, 2),
        # folded levels: a PGD is a PUD of 4K pages, or a PMD of the larger ones
        (4 * K, "PGD BLK", 3 * G, 3),
        (64 * K, "PGD BLK", G, 2),
        (16 * K, "PGD BLK", 96 * M, 3),
    ],
)
def test_entries_of_the_tlb(tmp_path: Path, page_size: int, tail: str, length: int, entries: int) -> None:
    total = read(tmp_path, row(BASE, length, f"{tail} {RW}"), page_size).total
    assert total.tlb_entries == entries
    assert total.tlb_entries_as_pages == length // page_size


def test_blocks_finer_than_any_hardwares_are_said_to_be_so(tmp_path: Path) -> None:
    summary = read(tmp_path, row(BASE, 8 * K, f"PMD BLK {RW}") + row(BASE + 8 * K, 4 * K, f"PTE {RW}"))
    assert summary.geometry.scaled
    assert summary.geometry.page_size == 4 * K
    assert [caution.message for caution in summary.reading.cautions if "finer than any" in caution.message]
    assert parts(summary.total) == {"PTE page": (4 * K, 1, 1), "PMD block": (8 * K, 1, 1)}


def test_a_block_is_no_finer_than_a_page(tmp_path: Path) -> None:
    """Found by harnesses/parsers/fuzz_ptdump.py: with no row of a PTE, any page size seemed possible."""
    summary = read(tmp_path, row(BASE, 4 * K, f"PMD BLK {RW}") + row(BASE + 2 * M, 2 * M, f"PMD BLK {RW}"))
    assert (summary.geometry.scaled, summary.geometry.page_size) == (True, 4 * K)
    assert summary.total.tlb_entries == summary.total.tlb_entries_as_pages == 513


def test_other_page_sizes_than_the_architectures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="x86_64 has no pages of 16K"):
        read(tmp_path, samples.X86_64, 16 * K)


def test_attributes_of_newer_kernels_are_told_and_kept(tmp_path: Path) -> None:
    text = row(BASE, 4 * K, f"PTE POE {RW}") + row(BASE + 4 * K, 4 * K, f"PTE POE {RW}")
    summary = read(tmp_path, text)
    assert summary.total.mapped == 8 * K
    (caution,) = summary.reading.cautions
    assert caution.line == 1
    assert "POE" in caution.message


def test_lines_that_the_kernel_left_out_are_told(tmp_path: Path) -> None:
    text = samples.X86_64.replace("---[ Modules ]---", "... 7 entries skipped ... \n---[ Modules ]---")
    assert any("7 lines were left out" in caution.message for caution in read(tmp_path, text).reading.cautions)


def test_rows_outside_of_regions(tmp_path: Path) -> None:
    text = row(BASE, 4 * K, f"PTE {RW}") + samples.ARM64[samples.ARM64.index("---[ vmalloc() area") :]
    summary = read(tmp_path, text)
    assert [figures.name for figures in summary.regions] == ["vmalloc() area", "(outside)"]
    assert region(summary, "(outside)").mapped == 4 * K
    assert summary.reading.gaps == 1


def test_more_wx_ranges_than_are_listed(tmp_path: Path) -> None:
    text = "".join(row(BASE + n * 4 * K, 4 * K, "PTE RW x SHD AF UXN MEM/NORMAL") for n in range(1500))
    summary = read(tmp_path, text)
    assert (len(summary.wx), summary.wx_left_out, summary.total.wx_bytes) == (1000, 500, 1500 * 4 * K)
