"""The matrix of verdicts as text: what stands out, what is short, what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.cli.matrix_table import (
    GAP,
    UNEXPECTED_STYLE,
    Matrix,
    blocks,
    heading,
    matrices,
    plain_lines,
    short_count,
    short_seconds,
    summary,
)
from fuzzvm.exhaustive import Verdict
from fuzzvm.machine.errors import Failure
from fuzzvm.scenario import shipped
from fuzzvm.verify.matrix import Cell, VerifiedCell

FAILURE = Failure("use-after-free-read", "", 1, ("ptdump_pte_entry",), 3)
SAFE = Verdict(None, None, True, "", 8390, 9000, 0.156)
CUT = Verdict(None, None, False, "--max-states 50 reached", 50, 60, 12.34)
BUG = Verdict(FAILURE, ((0,),), True, "", 580, 600, 0.354)


def run(
    verdict: Verdict, mitigation: str, scenario: str, expected: str | None = "safe", memory: str = "sc"
) -> VerifiedCell:
    return VerifiedCell(Cell(mitigation, shipped.get(scenario), memory), verdict, expected, bounded=False)


RUNS = [
    run(SAFE, "static-key", "pmd-promotion"),
    run(BUG, "static-key", "two-walkers"),
    run(BUG, "none", "pmd-promotion", "bug"),
    run(CUT, "none", "two-walkers", "bug"),
    run(SAFE, "static-key", "x86-pmd-promotion", None, "tso"),
]


def test_a_table_for_each_memory_model() -> None:
    sc, tso = matrices(RUNS)
    assert plain_lines(sc) == [
        "scenario       static-key       none",
        "pmd-promotion  safe 8.4k 0.16s  bug   580 0.35s",
        "two-walkers    bug!  580 0.35s  cut!   50 12.3s",
    ]
    assert (tso.memory, plain_lines(tso)[1]) == ("tso", "x86-pmd-promotion  safe 8.4k 0.16s")


def test_what_is_not_as_expected_stands_out() -> None:
    (sc, _) = matrices(RUNS)
    wrong = {place for place, entry in sc.entries.items() if entry.style == UNEXPECTED_STYLE}
    assert wrong == {("two-walkers", "static-key"), ("two-walkers", "none")}
    assert wrong == {place for place, entry in sc.entries.items() if "!" in entry.text}
    assert summary(RUNS).startswith("5 runs: 2 safe, 2 bug, 1 cut; 2 NOT as expected; 17990 states")


def test_a_cell_that_was_not_run_is_a_dash() -> None:
    (sc,) = matrices(RUNS[:1] + RUNS[3:4])
    assert sc.text("pmd-promotion", "none") == "-"


@given(st.lists(st.text("ab-", min_size=1, max_size=24), min_size=1, max_size=12, unique=True), st.integers(20, 200))
def test_columns_fit_and_none_is_lost(mitigations: list[str], width: int) -> None:
    runs = [run(SAFE, name, "x86-pmd-promotion") for name in mitigations]
    (matrix,) = matrices(runs)
    groups = blocks(matrix, width)
    assert [name for group in groups for name in group] == mitigations
    for group in groups:
        own = Matrix("sc", matrix.scenarios, group, matrix.entries)
        cells = [len(own.text("x86-pmd-promotion", name)) + GAP for name in group]
        assert len(group) == 1 or len("x86-pmd-promotion") + GAP + sum(cells) <= width


@given(st.text("ab-", min_size=1, max_size=24), st.integers(1, 30))
def test_a_heading_keeps_the_name(name: str, width: int) -> None:
    lines = heading(name, width).split("\n")
    assert "".join(lines) == name
    assert all(len(line) <= max(width, *(len(part) + 1 for part in name.split("-"))) for line in lines)


@given(st.integers(0, 999_000_000_000))
def test_counts_are_short_and_close(number: int) -> None:
    text = short_count(number)
    assert len(text) <= 4
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1])
    value = float(text) if scale is None else float(text[:-1]) * scale
    assert value == pytest.approx(number, rel=0.051)


@given(st.floats(0, 9999 * 3600))
def test_times_are_short_and_close(seconds: float) -> None:
    text = short_seconds(seconds)
    assert len(text) <= 5
    value = float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]
    assert value == pytest.approx(seconds, rel=0.051, abs=0.0051)
