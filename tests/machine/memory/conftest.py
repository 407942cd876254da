"""Every run of a small machine: all agents, all choices, by running it again for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fuzzvm.machine import memory as models
from fuzzvm.machine.machine import Machine

Setup = Callable[[Machine], Sequence[Any]]
Outcomes = Callable[[str, Setup], set[Any]]


def run_all(name: str, setup: Setup, cpus: int = 2) -> set[Any]:
    """Return what all runs return: the results of the programs, or the id of the error that a run failed with."""
    found = set()
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        script = scripts.pop()
        taken: list[int] = []

        def choose(ways: int, script: tuple[int, ...] = script, taken: list[int] = taken) -> int:
            way = script[len(taken)] if len(taken) < len(script) else 0
            if len(taken) >= len(script):
                scripts.extend((*taken, other) for other in range(1, ways))
            taken.append(way)
            return way

        machine = Machine(models.get(name)(cpus))
        results: list[Any] = [None] * cpus

        def program(cpu: int, steps: Any, results: list[Any] = results) -> Any:
            results[cpu] = yield from steps

        machine.start([program(cpu, steps) for cpu, steps in enumerate(setup(machine))])
        while not machine.done:
            enabled = machine.enabled()
            if not enabled:
                machine.stuck()
                break
            machine.step(enabled[choose(len(enabled)) if len(enabled) > 1 else 0], choose)
        found.add(machine.failure.error if machine.failure is not None else tuple(results))
    return found


@pytest.fixture
def outcomes() -> Outcomes:
    """The function `run_all`."""
    return run_all
