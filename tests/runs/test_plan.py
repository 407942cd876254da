"""Plans: bursts that fit every run."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.machine.execution import Execution, execute
from fuzzvm.mitigations import registry
from fuzzvm.runs.plans.plan import FollowPlan, Plan, plan_in_accesses
from fuzzvm.runs.strategies.pct import Pct
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


def runs(system: System) -> list[Execution]:
    strategy, found = Pct(Random(3)), []
    for _ in range(40):
        strategy.begin(0, len(system.scenario.cpus))
        found.append(execute(system.machine(), strategy))
        strategy.end(found[-1])
    return found


@pytest.mark.parametrize("name", shipped.shipped())
def test_the_plan_of_a_schedule_runs_it(name: str) -> None:
    system = System(shipped.get(name), registry.get("none"), "sc")
    for run in runs(system):
        assert execute(system.machine(), FollowPlan(Plan.of(run.schedule))) == run


@pytest.mark.parametrize("name", shipped.shipped())
def test_in_accesses_it_ends_the_same_way(name: str) -> None:
    system = System(shipped.get(name), registry.get("none"), "sc")
    for run in runs(system):
        plan = plan_in_accesses(system.machine(), run.schedule)
        again = execute(system.machine(), FollowPlan(plan, accesses=True))
        assert (again.failure is None) == (run.failure is None)
        if again.failure is not None and run.failure is not None:
            assert (again.failure.error, again.failure.stack) == (run.failure.error, run.failure.stack)
