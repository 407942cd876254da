"""fuzzvm.kernel.dump_text: ranges and sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.dump_text import dump_text
from fuzzvm.kernel.pgtable import Level


def lines(*rows: DumpRow, units: str = "KMGTPE") -> list[str]:
    return dump_text(rows, units=units, markers=("begin", "end"), describe=lambda row: row.level.name).splitlines()


@given(st.integers(1, 1 << 30), st.sampled_from(["KMGTPE", "BKMGTPE"]))
def test_a_size_is_exact_and_in_the_largest_unit(pages: int, units: str) -> None:
    (_, text, _) = lines(DumpRow(0, pages << 12, Level.PTE, 0), units=units)
    size = text.split()[1]
    number, unit = int(size[:-1]), size[-1]
    assert number << (10 * "BKMGTPE".index(unit)) == pages << 12
    assert number % 1024 or unit == "E"


@pytest.mark.parametrize(("start", "end", "text"), [(0, 0x1000, "4K"), (0, 1 << 60, "1E"), (1 << 63, 1 << 64, "8E")])
def test_a_line(start: int, end: int, text: str) -> None:
    shown = 0 if end == 1 << 64 else end
    assert lines(DumpRow(start, end, Level.PMD, 0)) == [
        "---[ begin ]---",
        f"0x{start:016x}-0x{shown:016x}   {text[:-1]:>9}{text[-1]} PMD",
        "---[ end ]---",
    ]


def test_no_rows() -> None:
    assert lines() == ["---[ begin ]---", "---[ end ]---"]
