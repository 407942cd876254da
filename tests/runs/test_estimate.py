"""The estimate of the pairs that no run has shown yet, beside the number that there are."""

from __future__ import annotations

from functools import cache

import pytest

from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.coverage import InterleavingCoverage, Pair
from fuzzvm.runs.engines import Budget, FuzzSearch
from fuzzvm.runs.estimate import undiscovered
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.runs.all_pairs import all_pairs

SYSTEMS = [
    ("pmd-promotion", "rcu-free"),
    ("pmd-promotion", "static-key"),
    ("three-levels", "static-key"),
    ("pud-promotion", "static-key"),
    ("three-levels", "rcu-free"),
    ("check-wx", "static-key-enable"),
    ("check-wx", "vmap-trylock"),
    ("64k-promotion", "rcu-free"),
    ("x86-pmd-promotion", "vmap-trylock"),
    ("check-wx", "rcu-free"),
]


def test_of_what_every_run_shows_nothing_is_left() -> None:
    # and it is no negative zero, which would be printed so
    assert f"{undiscovered([5, 5, 5], 5):.0f}" == "0"


def test_nothing_is_known_before_the_first_run() -> None:
    assert undiscovered([], 0) == 0


def test_what_few_runs_show_says_what_none_has() -> None:
    """By the formula: 4 / 5 x 6 x 5 / (2 x 3) = 4."""
    assert undiscovered([1, 1, 1, 1, 1, 1, 2, 2, 3, 5], 5) == pytest.approx(4)


@cache
def there_are(scenario: str, scheme: str) -> frozenset[Pair]:
    return frozenset(all_pairs(System(shipped.get(scenario), registry.get(scheme), "sc")))


@pytest.mark.product
@pytest.mark.parametrize("engine", ["surw", "hypothesis", "pos"])
def test_seen_and_estimated_are_half_to_twice_of_what_there_is(engine: str) -> None:
    """In 9 of 10 systems, after 30 runs each, whose coverage is all taken."""
    right = 0
    for scenario, scheme in SYSTEMS:
        system = System(shipped.get(scenario), registry.get(scheme), "sc")
        coverage = InterleavingCoverage()
        search = FuzzSearch(Budget(runs=30), keep_going=True, coverage=coverage)
        engines.get(engine).search([system], 0, search)
        there = there_are(scenario, scheme)
        assert coverage.current <= there
        assert search.pairs == len(coverage) <= len(there)
        right += len(there) / 2 <= search.pairs + coverage.undiscovered() <= 2 * len(there)
    assert right >= 9
