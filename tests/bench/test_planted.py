"""Each planted bug can be reached, as deep as it says, and nothing else goes wrong beside it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fuzzvm.bench import planted
from fuzzvm.bench.depth import depth_bounds, walk_chance
from fuzzvm.bench.planted import (
    DEEP,
    DRAWN,
    MITIGATIONS,
    PLANTED,
    PLANTED_ERROR,
    SCENARIO,
    SELDOM,
    Planted,
    draw,
    mitigation_of,
)
from fuzzvm.exhaustive import Limits, verify
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.mitigations import registry
from fuzzvm.scenario.system import System


def test_at_least_ten_of_depths_two_to_five() -> None:
    assert len(PLANTED) >= 10
    assert {bug.depth for bug in PLANTED} == {2, 3, 4, 5}
    assert len(MITIGATIONS) == len(PLANTED)


@pytest.mark.product
@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_as_deep_as_it_says(bug: Planted) -> None:
    system = System(SCENARIO, MITIGATIONS[bug.name], "sc")
    assert depth_bounds(system) == (bug.depth, bug.depth)
    failure = verify(system).failure
    assert failure is not None
    assert failure.error == PLANTED_ERROR


def test_drawn_bugs_are_what_was_drawn() -> None:
    random = Random(2018)
    for bug in DRAWN:
        assert draw(random, 20, bug.depth, walker_first=bug.walker_first) == (bug.promoter, bug.walker)


def test_deep_bugs_are_the_drawn_ones_that_the_random_walk_seldom_hits() -> None:
    random = Random(2010)
    drawn = 0
    for bug in DEEP:
        while True:
            drawn += 1
            promoter, walker = draw(random, 40, bug.depth, walker_first=bug.walker_first)
            one = mitigation_of(Planted(bug.name, promoter, walker, bug.walker_first))
            if walk_chance(System(SCENARIO, one, "sc")) < SELDOM:
                break
        assert (promoter, walker) == (bug.promoter, bug.walker)
    assert drawn == 39


@pytest.mark.parametrize("name", ["Drawn3A", "Window4B"])
def test_nothing_else_goes_wrong(name: str) -> None:
    found = search(Space(System(SCENARIO, MITIGATIONS[name], "sc")), Limits(), first_only=False)
    assert {finding.error for finding in found.findings} == {PLANTED_ERROR}


def test_found_by_file_and_class() -> None:
    assert registry.get(f"{Path(planted.__file__)}:Window3A").name == "planted-window3a"
