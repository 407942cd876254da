"""The minimiser: what it guarantees, on runs that strategies find."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.replay import replay
from fuzzvm.exhaustive import shortest_failure, verify
from fuzzvm.machine.errors import DEADLOCK
from fuzzvm.machine.execution import Execution, Replay, execute
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.runs.minimise.minimiser import NotFailingError, minimise
from fuzzvm.runs.strategies.pct import Pct
from fuzzvm.runs.strategies.random_walk import RandomWalk
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Vmap
from fuzzvm.scenario.preconditions import breach
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.clock import no_hang

NONE = registry.get("none")


def failing_runs(scenario: Scenario, count: int, at_least: int = 0) -> list[Execution]:
    """Return runs of seeded priorities that fail: a plain random walk next to never meets CPA's collapse."""
    system, found, seed = System(scenario, NONE, "sc"), [], 0
    while len(found) < count:
        assert seed < 5_000, f"{scenario.name} does not fail"
        strategy = Pct(Random(seed))
        strategy.begin(0, system.cpus)
        execution = execute(system.machine(), strategy)
        if execution.failure is not None and execution.steps >= at_least:
            found.append(execution)
        seed += 1
    return found


def case_of(scenario: Scenario, execution: Execution) -> TestCase:
    return TestCase(scenario, "none", "sc", execution.schedule, Expectation.of(execution))


@pytest.mark.product
@pytest.mark.parametrize("name", [name for name, one in shipped.shipped().items() if one.expected(NONE) == "bug"])
def test_keeps_the_error_and_never_grows(name: str) -> None:
    scenario = shipped.get(name)
    for execution in failing_runs(scenario, 2):
        case = case_of(scenario, execution)
        minimal = minimise(case, NONE).case
        assert minimal.expect == case.expect
        assert replay(minimal).as_expected
        assert context_switches(minimal.schedule) <= context_switches(case.schedule)
        assert len(minimal.schedule) <= len(case.schedule)


def test_a_long_run_becomes_a_short_one() -> None:
    scenario = shipped.get("vmalloc-cycle")
    (execution,) = failing_runs(scenario, 1, at_least=60)
    with no_hang():
        result = minimise(case_of(scenario, execution), NONE)
    assert context_switches(result.case.schedule) <= 3


def test_proven_minimal_is_the_same_from_wherever_it_starts() -> None:
    scenario = shipped.get("pmd-promotion")
    results = [minimise(case_of(scenario, execution), NONE) for execution in failing_runs(scenario, 5)]
    assert all(result.proven for result in results)
    shapes = {(context_switches(r.case.schedule), len(r.case.schedule)) for r in results}
    assert len(shapes) == 1


def test_out_of_budget_it_says_reduced() -> None:
    scenario = shipped.get("pmd-promotion")
    (execution,) = failing_runs(scenario, 1)
    result = minimise(case_of(scenario, execution), NONE, budget=1)
    assert not result.proven
    assert result.how == "reduced"
    assert replay(result.case).as_expected


def test_a_run_that_does_not_fail_is_refused() -> None:
    scenario = shipped.get("pmd-promotion")
    execution = execute(System(scenario, registry.get("static-key"), "sc").machine(), RandomWalk(Random(0)))
    case = TestCase(scenario, "static-key", "sc", execution.schedule, Expectation.of(execution))
    with pytest.raises(NotFailingError):
        minimise(case, registry.get("static-key"))


def test_what_the_kernel_may_not_be_asked_for_is_no_smaller_scenario() -> None:
    """The deadlock comes before the free, so it is there as well when a live mapping is promoted over.

    A test case that does so would stay red for ever: once the scheme is mended it fails with map-over-mapping.
    """
    scenario = shipped.get("pmd-promotion")
    both = registry.get("vmap-trylock+static-key")
    system = System(scenario, both, "sc")
    schedule, _ = shortest_failure(system, error=DEADLOCK)
    assert schedule is not None
    execution = execute(system.machine(), Replay(schedule))
    case = TestCase(scenario, both.name, "sc", schedule, Expectation.of(execution))
    minimal = minimise(case, both)
    assert minimal.proven and minimal.case.expect == case.expect
    small = minimal.case.scenario
    assert small.levels < scenario.levels, "it is still made smaller"
    assert breach(small) == ""
    mended = verify(System(small, registry.get("vmap-trylock"), "sc"))
    assert mended.failure is None and mended.complete


def test_a_scenario_that_breaks_preconditions_itself_is_made_smaller_as_before() -> None:
    over_a_mapping = Scenario(
        "arm64", "4K", 3, 4, (Vmap(0, 4, "pte"), Vmap(4, 1, "pte")), ((Vmap(0, 4, "pmd"),), (Vmap(8, 1, "pte"),))
    )
    system = System(over_a_mapping, NONE, "sc")
    schedule, _ = shortest_failure(system)
    assert schedule is not None
    case = case_of(over_a_mapping, execute(system.machine(), Replay(schedule)))
    small = minimise(case, NONE).case.scenario
    assert len(small.setup) == len(small.cpus) == 1
