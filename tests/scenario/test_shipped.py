"""fuzzvm.scenario.shipped: the scenarios of builtin/."""

from __future__ import annotations

from pathlib import Path

import pytest

import fuzzvm.scenario
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.shipped import get, shipped
from fuzzvm.scenario.system import System
from tests.support import Follow

FILES = sorted((Path(fuzzvm.scenario.__file__).parent / "builtin").glob("*.toml"))


def test_every_file_is_a_scenario_by_its_name() -> None:
    assert list(shipped()) == [path.stem for path in FILES]
    for name, scenario in shipped().items():
        assert scenario.name == name
        assert get(name) is scenario


@pytest.mark.parametrize("scenario", shipped().values(), ids=list(shipped()))
def test_a_shipped_scenario_is_told_of_and_small(scenario: Scenario) -> None:
    assert scenario.summary
    assert "\n" not in scenario.summary
    # somebody walks: ptdump, or hardware
    assert scenario.walkers or scenario.tlb
    assert Scenario.from_data(scenario.to_data()) == scenario
    execution = execute(System(scenario, StaticKeyMitigation, "sc").machine(), Follow())
    assert execution.failure is None
    assert execution.steps < 1000


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ScenarioError, match=r"^no scenario 'none'; there are 16k-promotion, .*pmd-promotion") as caught:
        get("none")
    assert "\n" not in str(caught.value)
