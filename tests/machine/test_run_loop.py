"""The loop that fuzzing spends its time in does what stepping a machine one step at a time does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.bench.flat_model import SCHEMES, FlatTask
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import NO_PROGRESS, USE_AFTER_FREE_READ, Failure, ScheduleError
from fuzzvm.machine.execution import Chooser, Execution, _run, _run_traced, execute
from fuzzvm.machine.machine import Machine, Observer
from fuzzvm.machine.ops import (
    Alloc,
    Await,
    Barrier,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Steps,
    Store,
    address_of,
)
from fuzzvm.mitigations import registry
from fuzzvm.scenario import ordering_points, shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.support import Seeded, start_machine

MAX_STEPS = 400


class Listening(Seeded):
    """Draws, and keeps what it was asked: the agents, and the operation that each CPU among them has pending."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.asked: list[tuple[object, ...]] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        cpus = [agent for agent in enabled if agent < machine.memory.cpus]
        self.asked.append((machine.steps, *enabled, *map(machine.pending, cpus)))
        return super().agent(enabled, machine)

    def value(self, ways: int) -> int:
        self.asked.append((ways,))
        return super().value(ways)


class Overhearing:
    """Keeps what an observer is told, and tells it."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self.told: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*what: object) -> None:
            self.told.append((name, *what))
            if self._observer is not None:
                getattr(self._observer, name)(*what)

        return tell


def run(loop: object, machine: Machine, seed: int) -> tuple[object, ...]:
    """Return all that there is to see of a run under one of the two loops."""
    chooser = Listening(seed)
    observer = machine.observer = Overhearing(machine.observer)
    schedule: list[tuple[int, ...]] = []
    extra: list[int] = []

    def choose(ways: int) -> int:
        extra.append(chooser.value(ways))
        return extra[-1]

    loop(machine, chooser.agent, choose, schedule, extra, MAX_STEPS)  # type: ignore[operator]
    memory = machine.memory.state()
    outcome = machine.failure, machine.steps, machine.done
    return *outcome, schedule, chooser.asked, observer.told, memory, machine.allocator.state()


def same(system: System, seed: int) -> Failure | None:
    """Run both loops on a system; return what went wrong in both."""
    inline, stepped = run(_run, system.machine(), seed), run(_run_traced, system.machine(), seed)
    assert inline == stepped
    traced = execute(system.machine(tracing=True), Seeded(seed))
    untraced = execute(system.machine(), Seeded(seed))
    assert traced == untraced
    return untraced.failure


def calls() -> st.SearchStrategy[tuple[object, ...]]:
    page = st.sampled_from([0, 2])
    vmap = st.builds(Vmap, page, st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd"]))
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    return st.lists(st.one_of(vmap, st.builds(Vunmap, page, st.just(2)), walk), min_size=1, max_size=3).map(tuple)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from(["arm64", "x86_64"]),
    st.sampled_from(["sc", "sc", "tso", "arm64"]),
    st.lists(calls(), min_size=1, max_size=3),
    st.integers(0, 1 << 32),
)
def test_on_any_scenario(mitigation: str, arch: str, memory: str, cpus: list[tuple[object, ...]], seed: int) -> None:
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 1, "pte"))
    scenario = Scenario(arch, "4K", 4, 2, setup, tuple(cpus))  # type: ignore[arg-type]
    same(System(scenario, registry.get(mitigation), memory), seed)


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_on_what_ships_failures_included(memory: str) -> None:
    systems = [System(shipped.get(name), registry.get("none"), memory) for name in shipped.shipped()]
    failures = [same(system, seed) for system in systems for seed in range(25)]
    assert None in failures
    assert {failure.error for failure in failures if failure is not None} >= {USE_AFTER_FREE_READ}


@given(st.sampled_from(sorted(SCHEMES)), st.integers(1, 3), st.integers(0, 1 << 32))
def test_on_the_flat_model(scheme: str, walkers: int, seed: int) -> None:
    same(FlatTask(3, walkers, scheme), seed)


def test_with_operations_left_out() -> None:
    point = ordering_points.names()[0]
    system = System(shipped.get("pmd-promotion"), registry.get("static-key"), "sc", without=(point,))
    for seed in range(20):
        same(system, seed)


@dataclass(frozen=True, slots=True)
class Is:
    """Holds for one value."""

    value: int

    def __call__(self, value: int) -> bool:
        return value == self.value

    def blocked_by(self, value: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class SetTo:
    """Replaces whatever was there."""

    value: int

    def __call__(self, old: int) -> int:
        return self.value


def any_operation() -> st.SearchStrategy[Operation]:
    address, value = st.integers(0, 2).map(address_of), st.integers(0, 2)
    condition = st.builds(Is, value)
    return st.one_of(
        st.builds(Load, address),
        st.builds(Fetch, address),
        st.builds(Store, address, value),
        st.builds(Rmw, address, st.builds(SetTo, value), when=st.none() | condition),
        st.builds(Await, address, condition),
        st.builds(Fence, st.sampled_from(Barrier)),
        st.builds(Free, address),
        st.builds(Alloc, st.just(1), st.just("new")),
        st.just(InterruptAll()),
    )


def straight(ops: list[Operation]) -> Steps[None]:
    done = 0
    while done < len(ops):
        yield ops[done]
        done += 1


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["sc", "sc", "tso", "arm64"]),
    st.lists(st.lists(any_operation(), max_size=6), min_size=1, max_size=4),
    st.sets(st.integers(0, 2)),
    st.integers(0, 1 << 32),
)
def test_on_any_operations(memory: str, programs: list[list[Operation]], watched: set[int], seed: int) -> None:
    def started() -> Machine:
        machine = Machine(memory_models.get(memory)(len(programs)))
        for number in range(3):
            address = machine.allocate(1, number)
            if number in watched:
                machine.watch(address)
        machine.start([straight(ops) for ops in programs])
        return machine

    assert run(_run, started(), seed) == run(_run_traced, started(), seed)


def test_a_plain_store_lets_a_waiter_go_on_at_once() -> None:
    def started() -> Machine:
        x, y = address_of(0), address_of(1)
        waiter = straight([Await(x, Is(1)), Load(y)])
        return start_machine(waiter, straight([Load(y), Store(x, 1), Load(y), Load(y), Load(y)]))

    for seed in range(10):
        assert run(_run, started(), seed) == run(_run_traced, started(), seed)


def spin() -> Steps[None]:
    while True:
        yield Load(address_of(0))


def once() -> Steps[None]:
    yield Store(address_of(0), 1)


def test_a_run_without_end_ends_after_as_many_steps() -> None:
    inline, stepped = run(_run, start_machine(spin(), once()), 1), run(_run_traced, start_machine(spin(), once()), 1)
    assert inline == stepped
    failure = inline[0]
    assert isinstance(failure, Failure)
    assert failure.error == NO_PROGRESS
    assert inline[1] == MAX_STEPS


class Stubborn:
    """Chooses an agent that cannot step."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return 7

    def value(self, ways: int) -> int:
        return 0


@pytest.mark.parametrize("tracing", [False, True])
def test_an_agent_that_cannot_step_is_refused(tracing: bool) -> None:
    def refused(chooser: Chooser) -> Execution:
        return execute(start_machine(once(), once(), tracing=tracing), chooser)

    with pytest.raises(ScheduleError, match="step 1 is of agent 7"):
        refused(Stubborn())
