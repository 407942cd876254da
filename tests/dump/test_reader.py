"""fuzzvm.dump: what is no dump, what is broken, what is cut off, and where each is said to be."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzzvm.dump import DumpError, source, summarise
from fuzzvm.dump.reader import Reader, Rows
from fuzzvm.dump.source import BLOCK_SIZE
from tests.dump import samples

LINES = samples.ARM64.splitlines(True)


def fails(tmp_path: Path, data: bytes | str) -> tuple[int, str]:
    path = tmp_path / "dump"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(DumpError) as caught:
        summarise(str(path))
    place = f"{path}:{caught.value.line}: " if caught.value.line else f"{path}: "
    assert str(caught.value) == place + caught.value.message
    assert "\n" not in str(caught.value)
    return caught.value.line, caught.value.message


@pytest.mark.parametrize(
    ("data", "line", "message"),
    [
        (b"", 1, "empty"),
        (gzip.compress(b"", mtime=0), 1, "empty"),
        (b"\n\n\n", 3, "no row"),
        (b"root:x:0:0:root:/root:/bin/bash\n" * 10, 10, "no row"),
        (b"---[ vmalloc() area ]---\n---[ vmalloc() end ]---\n", 2, "no row"),
        (b"first\nsecond\0\n", 2, "binary"),
        (bytes(range(256)) * 4096, 1, "binary"),
        (b"\x7fELF" + bytes(1000), 1, "binary"),
        (b"x" * (3 * BLOCK_SIZE), 1, "no row"),
        (gzip.compress(samples.ARM64.encode() * 100, mtime=0)[:500], 1, "compressed file is broken"),
        (lzma.compress(samples.ARM64.encode() * 100)[:200], 1, "compressed file is broken"),
        (b"\x1f\x8b and no more of gzip", 1, "compressed file is broken"),
        (b"\xfd7zXZ\x00 and no more of xz", 1, "compressed file is broken"),
        ("---[ x ]---\n0x0000000000000000-0x0000000000001000           4K PTE RW X\n", 2, "no layout known"),
        ("0xffff800080000000-0xffff800080001000           8K PTE\n", 1, "no row that can be read: row skipped: 8192"),
        ("0xc0000000-0xc0001000           4K PTE RW X\n", 1, "no row"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes | str) else str(value),
)
def test_what_is_no_dump(tmp_path: Path, data: bytes | str, line: int, message: str) -> None:
    assert fails(tmp_path, data)[0] == line
    assert message in fails(tmp_path, data)[1]


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DumpError, match=r"(No such file|directory)"):
            summarise(str(path))


def test_a_broken_archive_names_the_line_where_it_breaks(tmp_path: Path) -> None:
    rows = "".join(f"0x{n << 16:016x}-0x{(n + 1) << 16:016x}   {64:9d}K PTE\n" for n in range(1, 200_000))
    packed = gzip.compress(rows.encode())
    line, message = fails(tmp_path, packed[: len(packed) // 2])
    assert 1000 < line < 200_000
    assert "broken here or soon after" in message


def xz_with_dictionary_of_4_gib(text: bytes) -> bytes:
    """Return an xz file whose header asks for as much memory as the format allows."""
    packed = bytearray(lzma.compress(text, format=lzma.FORMAT_XZ, preset=0))
    # the block's header begins at 12: its size, flags, the filter's number, the size of its properties, the dictionary
    assert packed[14:16] == b"\x21\x01"
    packed[16] = 40
    end = 12 + (packed[12] + 1) * 4
    packed[end - 4 : end] = zlib.crc32(bytes(packed[12 : end - 4])).to_bytes(4, "little")
    return bytes(packed)


def test_xz_does_not_get_the_memory_that_it_asks_for(tmp_path: Path) -> None:
    assert "Memory usage limit exceeded" in fails(tmp_path, xz_with_dictionary_of_4_gib(samples.ARM64.encode()))[1]


def test_xz_as_programs_write_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text(samples.ARM64)
    begin, end = samples.ARM64[:300].encode(), samples.ARM64[300:].encode()
    for name, packed in {
        "best": lzma.compress(begin + end, preset=9 | lzma.PRESET_EXTREME),
        "joined": lzma.compress(begin) + lzma.compress(end),
        "padded": lzma.compress(begin) + bytes(8) + lzma.compress(end) + bytes(4),
    }.items():
        (tmp_path / name).write_bytes(packed)
        assert summarise(str(tmp_path / name)).total == summarise(str(plain)).total, name
    assert "broken" in fails(tmp_path, lzma.compress(begin) + b"more")[1]


@pytest.mark.parametrize("name", ["file", "packed", "-"])
def test_a_dump_has_an_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 100_000)
    text = (samples.ARM64 * 200).encode()
    assert len(text) > 100_000
    path = tmp_path / "dump"
    path.write_bytes(gzip.compress(text) if name == "packed" else text)
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(DumpError, match=r"larger than 100000 bytes|more than 100000 bytes of text"):
            summarise(name if name == "-" else str(path))


def test_standard_input_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(DumpError, match="<stdin>: not read, as it is a character device"):
            summarise("-")


def swapped(at: int) -> str:
    lines = list(LINES)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return "".join(lines)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        # the second of two rows lies before the first
        (swapped(1), 3, "before 0xffff000002000000, where the one before it ends"),
        (samples.ARM64 + samples.ARM64, len(LINES) + 2, "two dumps in one file"),
        ("".join([*LINES[:2], LINES[1], *LINES[2:]]), 3, "rows overlap"),
        (samples.ARM64.replace("0xffff000000200000-0xffff000002000000          30M",
                               "0xffff000000100000-0xffff000001f00000          30M"), 3, "overlap"),
        ("".join(LINES[:2]) + "0xffff000002000000-0xffff000000200000           2M PMD\n", 3, "before it begins"),
        ("".join(LINES[:2]) + "0xffff000002000000-0xffff000002000000           2M PMD\n", 3, "before it begins"),
    ],
)  # fmt: skip
def test_rows_that_overlap_or_run_backwards(tmp_path: Path, text: str, line: int, message: str) -> None:
    assert fails(tmp_path, text)[0] == line
    assert message in fails(tmp_path, text)[1]
    # and so behind a megabyte of others
    many = 12_000
    before = "".join(f"0x{n << 16:016x}-0x{(n + 1) << 16:016x}   {64:9d}K PTE\n" for n in range(1, many + 1))
    assert fails(tmp_path, before + text)[0] == line + many


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LINES[2].replace("30M", "31M"), "by its size"),
        (LINES[2].replace("30M", "30Q"), "size, level or attributes"),
        (LINES[2].replace("30M", " 0M"), "size, level or attributes"),
        (LINES[2].replace("PMD", "PMX"), "size, level or attributes"),
        (LINES[2].replace(" ro ", " ro RW "), "size, level or attributes"),
        (LINES[2].replace(" ro ", "    "), "size, level or attributes"),
        (LINES[2].replace("AF", "A[").replace("MEM/NORMAL", ""), "size, level or attributes"),
        (LINES[2].replace("0xffff000000200000-0xffff000002000000", "0xffff000000200800-0xffff000002000800"), "within"),
        (LINES[2].replace("0xffff000000200000-", "0xffff0000002000-"), "no row that can be read"),
        (LINES[2].rstrip() + LINES[2], "size, level or attributes"),
    ],
)
def test_a_row_that_is_wrong_is_skipped_counted_and_told(tmp_path: Path, bad: str, message: str) -> None:
    path = tmp_path / "dump"
    path.write_text("".join([*LINES[:2], bad, *LINES[3:]]))
    summary = summarise(str(path))
    assert summary.reading.skipped == 1
    assert summary.reading.rows == 22
    told = [caution for caution in summary.reading.cautions if "row skipped" in caution.message]
    assert [caution.line for caution in told] == [3]
    assert message in told[0].message
    # what it would have covered is missing
    assert (summary.reading.gaps, summary.reading.gap_bytes) == (1, 30 << 20)
    path.write_text("".join([*LINES[:2], *LINES[3:]]))
    assert summarise(str(path)).total == summary.total


def test_a_row_that_lies_across_pages_is_skipped_where_nothing_follows_it(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text("".join(LINES[:2]) + "0xffff000000200800-0xffff000000201800           4K PTE\n")
    reading = summarise(str(path)).reading
    assert (reading.rows, reading.skipped) == (1, 1)
    assert [caution.line for caution in reading.cautions] == [3]


def test_tables_are_passed_over_where_a_row_among_them_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(samples.ARM64_TABLES.replace("1018M", "1017M"))
    reading = summarise(str(path)).reading
    assert (reading.rows, reading.skipped, reading.gap_bytes) == (11, 1, 1018 << 20)


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_a_first_and_a_last_line_cut_anywhere(tmp_path: Path, name: str) -> None:
    lines = samples.SAMPLES[name].splitlines(True)
    path = tmp_path / "dump"
    mapped = [at for at, line in enumerate(lines) if "NX" in line and "TBL" not in line]
    whole = lines[mapped[0] : mapped[-1] + 1]
    first, last = whole[0], whole[-1]
    path.write_text("".join(whole[1:-1]))
    without = summarise(str(path)).total.mapped
    path.write_text("".join(whole))
    with_both = summarise(str(path)).total.mapped
    for cut in range(len(first)):
        path.write_text("".join([first[cut:], *whole[1:-1], last[: max(1, len(last) - cut - 1)]]))
        summary = summarise(str(path))
        assert without <= summary.total.mapped <= with_both
        assert summary.reading.skipped == 0, cut
        assert not [c for c in summary.reading.cautions if "skipped" in c.message]
    path.write_text("".join([first.lstrip()[4:], *whole[1:-1], last[:30]]))
    reading = summarise(str(path)).reading
    assert reading.truncated_first
    assert reading.truncated_last


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_compressed_and_from_standard_input(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "dump"
    path.write_text(samples.ARM64)
    wanted = summarise(str(path)).to_data()
    # the name says nothing: the first bytes do
    path.write_bytes(pack(samples.ARM64.encode()))
    assert summarise(str(path)).to_data() == wanted
    code = "from fuzzvm.dump import summarise; print(summarise('-').total.mapped)"
    with path.open("rb") as stdin:
        done = subprocess.run([sys.executable, "-c", code], stdin=stdin, capture_output=True, text=True, check=True)
    assert int(done.stdout) == wanted["total"]["mapped_bytes"]


def test_blocks_are_cut_between_lines(tmp_path: Path) -> None:
    """Rows, markers and noise at every place of the border between two blocks."""
    path = tmp_path / "dump"
    lines = [f"0x{n << 16:016x}-0x{(n + 1) << 16:016x}   {64:9d}K PTE\n" for n in range(1, 6000)]
    lines[3000:3000] = ["---[ Modules start ]---\n", "noise\n"]
    for shift in range(0, 60, 7):
        path.write_text("".join(["n" * shift + "\n", *lines]))
        reading = summarise(str(path)).reading
        assert (reading.rows, reading.others, reading.lines, reading.gaps) == (5999, 2, 6002, 0)


def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text(samples.ARM64 + "x" * (3 * BLOCK_SIZE) + "\n---[ Fixmap start ]---\n")
    summary = summarise(str(path))
    assert summary.reading.lines == len(LINES) + 2
    assert [figures.name for figures in summary.regions][-1] == "Fixmap"


def test_too_many_regions_or_kinds_of_rows_are_refused(tmp_path: Path) -> None:
    markers = "".join(f"---[ region {n} ]---\n" for n in range(1000))
    line, message = fails(tmp_path, samples.ARM64 + markers)
    assert "regions" in message
    assert len(LINES) < line < len(LINES) + 1000
    rows = "".join(
        f"0x{n << 12:016x}-0x{(n + 1) << 12:016x}   {4:9d}K PTE A{n} RW NX AF MEM/NORMAL\n" for n in range(1, 9000)
    )
    assert "sets of attributes" in fails(tmp_path, rows)[1]


def test_what_is_remembered_of_rows_is_forgotten_again(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    at = 0x1000
    with path.open("w") as file:
        for n in range(1, 50_000):
            # an odd number of pages, so that each size is printed otherwise
            length = (2 * n + 1) << 12
            file.write(f"0x{at:016x}-0x{at + length:016x}   {length >> 10:9d}K PTE\n")
            at += length
    reader = Reader(str(path))
    rows = sum(len(event.starts) for event in reader.events() if isinstance(event, Rows))
    assert rows == 49_999
    assert len(reader.entry_of) == len(reader.size_of) < 40_000


def test_memory_does_not_grow_with_rows_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    with path.open("w") as file:
        file.write(samples.ARM64)
        for n in range(300):
            file.write(f"0xffff800080000000-0xffff800080001000           4K PTE {n:0100000d}\n")
    tracemalloc.start()
    try:
        reading = summarise(str(path)).reading
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (reading.rows, reading.skipped) == (23, 300)
    assert peak < 8e6


PEAK = """
import sys
from pathlib import Path
from fuzzvm.dump import summarise
rows = summarise(sys.argv[1]).reading.rows
# not ru_maxrss, which begins with what the process before exec had
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(rows, int(peak) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    for rows in (10_000, 150_000):
        path = tmp_path / f"{rows}"
        with path.open("w") as file:
            # every size another, so that no two rows have the same tail for long; half are W+X
            at = 0xFFFF_8000_0000_0000
            for n in range(rows):
                length = 0x1000 * (n % 50_000 + 1)
                x = "x " if n % 2 else "NX"
                file.write(
                    f"0x{at:016x}-0x{at + length:016x}   {length >> 10:9d}K PTE       RW {x} SHD AF UXN    MEM/NORMAL\n"
                    if length >> 10 & 1023
                    else f"0x{at:016x}-0x{at + length:016x}   {length >> 20:9d}M PTE\n"
                )
                at += length
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, env=environment
        )
        read, peak = map(int, done.stdout.split())
        assert read == rows
        peaks.append(peak)
    assert peaks[1] < 100e6
    assert peaks[1] - peaks[0] < 30e6
