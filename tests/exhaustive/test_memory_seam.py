"""Any memory model with a `state()` can be searched: agents of its own, choices, and schedules with both.

The model here is a toy, made to use every part of the interface: a store waits in its CPU's buffer, one an address,
until the buffer's agent writes one of them, chosen freely; fences and atomic operations drain it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.shortest import shortest_run
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.memory import Choose, MemoryModel
from fuzzvm.machine.ops import Await, Fence, Load, Rmw, Store, Value
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


class Toy(MemoryModel):
    name = "toy"

    def __init__(self, cpus: int) -> None:
        super().__init__(cpus)
        self.cells: dict[int, Value] = {}
        self.buffers: list[dict[int, Value]] = [{} for _ in range(cpus)]

    def copy(self) -> Toy:
        other = Toy(self.cpus)
        other.cells = dict(self.cells)
        other.buffers = [dict(buffer) for buffer in self.buffers]
        return other

    def state(self) -> Hashable:
        cells = tuple((address, value) for address, value in sorted(self.cells.items()) if value != 0)
        return cells, tuple(tuple(sorted(buffer.items())) for buffer in self.buffers)

    def contents(self) -> Mapping[int, Value]:
        return self.cells

    def peek(self, address: int) -> Value:
        return self.cells.get(address, 0)

    def load(self, cpu: int, op: Load | Await, choose: Choose) -> Value:
        return self.buffers[cpu].get(op.address, self.peek(op.address))

    def store(self, cpu: int, op: Store, choose: Choose) -> None:
        self.buffers[cpu][op.address] = op.value

    def rmw(self, cpu: int, op: Rmw, choose: Choose) -> Value:
        self.drain(cpu)
        old = self.peek(op.address)
        self.cells[op.address] = op.update(old)
        return old

    def fence(self, cpu: int, op: Fence, choose: Choose) -> None:
        self.drain(cpu)

    def fetch(self, cpu: int, op: Any, choose: Choose) -> Value:
        return self.peek(op.address)

    def maintain(self, cpu: int, op: Any, choose: Choose) -> None:
        self.drain(cpu)

    def drain(self, cpu: int) -> None:
        self.cells |= self.buffers[cpu]
        self.buffers[cpu].clear()

    def agents(self) -> Sequence[int]:
        return [self.cpus + cpu for cpu, buffer in enumerate(self.buffers) if buffer]

    def owner(self, agent: int) -> int:
        return agent - self.cpus

    def step(self, agent: int, choose: Choose) -> None:
        buffer = self.buffers[agent - self.cpus]
        addresses = sorted(buffer)
        address = addresses[choose(len(addresses)) if len(addresses) > 1 else 0]
        self.cells[address] = buffer.pop(address)

    def synchronise(self) -> None:
        for cpu in range(self.cpus):
            self.drain(cpu)


def _next(choices: Iterator[int], ways: int) -> int:
    return next(choices)


@pytest.fixture(autouse=True)
def _with_toy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = memory_models.get
    monkeypatch.setattr(memory_models, "get", lambda name: Toy if name == "toy" else known(name))


def system_of(mitigation: str, scenario: str) -> System:
    return System(shipped.get(scenario), registry.get(mitigation), "toy")


@pytest.mark.parametrize("scenario", ["pmd-promotion", "x86-pud-promotion"])
@pytest.mark.parametrize("mitigation", ["none", "static-key"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_steps_are_those_of_the_machine(mitigation: str, scenario: str, random: Any) -> None:
    system = system_of(mitigation, scenario)
    space = Space(system)
    machine = system.machine()
    state = space.start
    assert isinstance(state, int)
    while not machine.done and machine.enabled():
        steps = space.steps(state)
        assert sorted({who for who, _ in steps}) == list(machine.enabled())
        agent, way = random.choice(steps)
        choices = iter(way.choices)
        machine.step(agent, partial(_next, choices))
        assert next(choices, None) is None
        if way.finding is not None:
            assert machine.failure is not None
            assert Finding.of(machine.failure) == way.finding
            return
        state += way.delta
    if not machine.done:
        machine.stuck()
    assert space.ended(state) == (None if machine.failure is None else Finding.of(machine.failure))


def test_a_bug_of_the_memory_model_has_a_schedule_with_agents_and_choices() -> None:
    # x86_64 code relies on stores in order, which the toy does not give
    system = system_of("static-key", "x86-pud-promotion")
    found = shortest_run(Space(system), Limits())
    assert found.complete
    sc = search(Space(System(system.scenario, system.mitigation, "sc")), Limits())
    assert not sc.findings
    if found.schedule is None:
        return
    assert any(step[0] >= 2 for step in found.schedule)
    chooser = Replay(found.schedule)
    failure = execute(system.machine(), chooser).failure
    chooser.finish()
    assert failure is not None
    assert Finding.of(failure) == found.finding


def test_verdicts_need_no_more_than_a_state() -> None:
    assert verify(system_of("none", "pmd-promotion")).verdict == "bug"
    safe = verify(system_of("mmap-lock-always", "pmd-promotion"))
    assert (safe.verdict, safe.complete) == ("safe", True)
