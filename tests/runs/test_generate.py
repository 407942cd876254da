"""Scenarios and schedules drawn by Hypothesis are ones that can be run, and fail only by a race."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.mitigations import registry
from fuzzvm.runs.plans.generate import plans, scenarios
from fuzzvm.runs.plans.orders import FollowOrders, Orders
from fuzzvm.runs.plans.plan import Plan
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

MITIGATIONS = st.sampled_from(list(registry.shipped().values()))


class OneAfterTheOther:
    """The chooser that lets each CPU make all its calls before the next one begins."""

    def __init__(self, order: Sequence[int]) -> None:
        self._order = order

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return min(enabled, key=self._order.index)

    def value(self, ways: int) -> int:
        return 0


@settings(max_examples=150)
@given(scenario=scenarios(), mitigation=MITIGATIONS, data=st.data())
def test_no_scenario_fails_when_cpus_run_one_after_the_other(
    scenario: Scenario, mitigation: type, data: st.DataObject
) -> None:
    system = System(scenario, mitigation, "sc")
    # the kernel's own threads as well: they have something to do while a CPU is in its calls
    order = data.draw(st.permutations(range(system.cpus)))
    execution = execute(system.machine(), OneAfterTheOther(order))
    assert execution.failure is None


@settings(max_examples=100)
@given(scenario=scenarios())
def test_every_scenario_is_the_same_again_from_its_data(scenario: Scenario) -> None:
    assert Scenario.from_data(scenario.to_data()) == scenario


@settings(max_examples=150)
@given(scenario=scenarios(), mitigation=MITIGATIONS, plan=plans(Orders()))
def test_every_schedule_fits_every_run_and_replays(scenario: Scenario, mitigation: type, plan: Plan) -> None:
    system = System(scenario, mitigation, "sc")
    execution = execute(system.machine(), FollowOrders(plan, Orders()))
    chooser = Replay(execution.schedule)
    assert execute(system.machine(), chooser) == execution
    chooser.finish()


@settings(max_examples=100)
@given(scenario=scenarios(max_walkers=1), plan=plans(Orders()))
def test_a_safe_mitigation_is_safe_under_every_schedule(scenario: Scenario, plan: Plan) -> None:
    for mitigation in registry.shipped().values():
        if scenario.expected(mitigation) == "safe":
            assert execute(System(scenario, mitigation, "sc").machine(), FollowOrders(plan, Orders())).failure is None
