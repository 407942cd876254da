"""Each planted bug can be reached, as deep as it says, and nothing else goes wrong beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.bench import planted
from fuzzvm.bench.planted import MITIGATIONS, PLANTED, PLANTED_ERROR, SCENARIO, Planted
from fuzzvm.explore.exhaustive import Limits, verify
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.scenario.system import System


def test_at_least_ten_of_depths_two_to_five() -> None:
    assert len(PLANTED) >= 10
    assert {bug.depth for bug in PLANTED} == {2, 3, 4, 5}
    assert len(MITIGATIONS) == len(PLANTED)


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug.name)
def test_the_shortest_schedule_switches_once_a_constraint(bug: Planted) -> None:
    found = verify(System(SCENARIO, MITIGATIONS[bug.name], "sc"))
    assert found.complete
    assert found.failure is not None
    assert found.failure.error == PLANTED_ERROR
    assert found.schedule is not None
    assert context_switches(found.schedule) == bug.depth


@pytest.mark.parametrize("name", ["Drawn3A", "Window4B"])
def test_nothing_else_goes_wrong(name: str) -> None:
    found = search(Space(System(SCENARIO, MITIGATIONS[name], "sc")), Limits(), first_only=False)
    assert {finding.error for finding in found.findings} == {PLANTED_ERROR}


def test_found_by_file_and_class() -> None:
    assert registry.get(f"{Path(planted.__file__)}:Window3A").name == "planted-window3a"
