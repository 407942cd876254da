"""The search that proves minimality, against every schedule of a small program."""

from __future__ import annotations

from collections.abc import Iterator

from fuzzvm.explore.context_bounded import Budget, shortest_failure
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Step, context_switches
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

SMALL = Scenario(
    "x86_64",
    "4K",
    4,
    2,
    (parse_call("vmap(page=0, nr_pages=1)"), parse_call("vunmap(page=0, nr_pages=1)")),
    ((parse_call("vmap(page=0, nr_pages=2)"),), (parse_call("check_wx_pages()"),)),
)


def every_failure(system: System) -> Iterator[Execution]:
    """Yield every failing run, by trying every schedule: no clever order, no bound."""
    todo: list[tuple[Step, ...]] = [()]
    while todo:
        schedule = todo.pop()
        machine: Machine = system.machine()
        for (agent,) in schedule:
            machine.step(agent, lambda ways: 0)
        if machine.failure is not None:
            yield Execution(schedule, machine.failure)
            continue
        todo.extend((*schedule, (agent,)) for agent in machine.enabled())


def test_finds_what_brute_force_finds() -> None:
    system = System(SMALL, registry.get("none"), "sc")
    failures = list(every_failure(system))
    assert failures
    kinds = {(f.failure.error, f.failure.function): f.failure for f in failures if f.failure is not None}
    for kind, failure in kinds.items():
        of_kind = [f.schedule for f in failures if f.failure and (f.failure.error, f.failure.function) == kind]
        best = min((context_switches(schedule), len(schedule)) for schedule in of_kind)
        found = shortest_failure(system, failure, Budget(10_000_000), switches=9, steps=1000)
        assert found.proven
        assert found.execution is not None
        assert (context_switches(found.execution.schedule), len(found.execution.schedule)) == best


def test_a_spent_budget_proves_nothing() -> None:
    system = System(SMALL, registry.get("none"), "sc")
    failure = next(every_failure(system)).failure
    assert failure is not None
    assert not shortest_failure(system, failure, Budget(5), switches=9, steps=1000).proven
