"""How the searches of one command share its time, those that a bug is claimed for and the others."""

from __future__ import annotations

import pytest

from fuzzvm.campaigns.plain import INSISTS, FuzzCell, FuzzCellResult, SharedBudget
from fuzzvm.runs.engines import Budget, FuzzSearch


class Cell:
    def __init__(self, expected: str) -> None:
        self.expected = expected


BUG, SAFE = Cell("bug"), Cell("safe")
CELLS: list[FuzzCell] = [BUG, BUG, SAFE, SAFE]  # type: ignore[list-item]


def test_half_is_for_the_claims_of_bugs() -> None:
    shared = SharedBudget(Budget(60, None), CELLS)
    assert [shared.share(cell).seconds for cell in CELLS] == [15, 15, 15, 15]
    shared.spend(CELLS[0], 3, 100)
    assert shared.share(CELLS[1]).seconds == 28.5


@pytest.mark.parametrize("used", [3.0, 200.0])
def test_a_search_that_insists_has_time_whatever_was_used_and_charges_the_others_a_fair_share(used: float) -> None:
    shared = SharedBudget(Budget(60, None), CELLS, insists=True)
    for cell in CELLS[:2]:
        assert shared.share(cell).seconds == INSISTS * 60
        shared.spend(cell, used, 100)
    left = shared.share(CELLS[2]).seconds
    # a quarter of 60, then half of the 45 that are left
    assert left is not None and left >= (60 - 15 - 22.5) / 2


def test_a_bound_on_runs_binds_a_search_that_insists() -> None:
    shared = SharedBudget(Budget(None, 400), CELLS, insists=True)
    assert shared.share(CELLS[0]) == Budget(None, 100)


def test_a_search_that_had_no_time_for_a_run_is_given_more() -> None:
    shared = SharedBudget(Budget(60, None), CELLS, insists=True)
    result = FuzzCellResult(CELLS[2], FuzzSearch(Budget(3, None)))
    given: Budget | None = Budget(3, None)
    times = []
    while given is not None:
        times.append(given.seconds)
        given = shared.more(given, result)
    assert times == [3, 12, 48, 192, 300]
    result.search.runs = 1
    assert shared.more(Budget(3, None), result) is None
    assert SharedBudget(Budget(60, None), CELLS).more(Budget(3, None), result) is None
