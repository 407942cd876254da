"""Depth and the random walk's chance, computed, beside what trying finds."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from fuzzvm.bench import planted
from fuzzvm.bench.depth import depth_bounds, median_runs, walk_chance
from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.bench.planted import Planted, mitigation_of
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Schedule
from fuzzvm.mitigations import registry
from fuzzvm.runs.strategies.random_walk import RandomWalk
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

Place = tuple[int, int]
"""A step: (CPU, which of its steps, from 0)."""
Constraint = tuple[Place, Place]
"""A step, and one that it must come before."""


def every_run(system: System) -> list[tuple[Schedule, bool]]:
    """Return every run, and whether it fails, by trying every schedule."""
    runs = []
    todo: list[Schedule] = [()]
    while todo:
        schedule = todo.pop()
        machine: Machine = system.machine()
        for (agent,) in schedule:
            machine.step(agent, lambda ways: 0)
        enabled = machine.enabled()
        if not enabled:
            runs.append((schedule, machine.failure is not None))
        todo.extend((*schedule, (agent,)) for agent in enabled)
    return runs


def times(schedule: Schedule) -> dict[Place, int]:
    """Return when each step is taken."""
    done = [0, 0]
    found = {}
    for time, (cpu,) in enumerate(schedule):
        found[cpu, done[cpu]] = time
        done[cpu] += 1
    return found


def obeys(taken: dict[Place, int], constraints: tuple[Constraint, ...]) -> bool:
    """Return whether no step is taken while one that must come before it is still to come."""
    return all(last not in taken or taken.get(first, len(taken)) < taken[last] for first, last in constraints)


def test_depth_is_the_least_number_of_constraints_that_force_the_bug() -> None:
    """By the definition: every set of constraints is tried on every run."""
    system = FlatTask(1, 1, "none")
    runs = [(times(schedule), fails) for schedule, fails in every_run(system)]
    counts = [1 + max(step for taken, _ in runs for who, step in taken if who == cpu) for cpu in (0, 1)]
    every = [((cpu, a), (1 - cpu, b)) for cpu in (0, 1) for a in range(counts[cpu]) for b in range(counts[1 - cpu])]

    def forces(constraints: tuple[Constraint, ...]) -> bool:
        obeying = [fails for taken, fails in runs if obeys(taken, constraints)]
        return bool(obeying) and all(obeying)

    depth = next(size for size in range(9) if any(forces(chosen) for chosen in combinations(every, size)))
    assert depth_bounds(system) == (depth, depth)


def test_shipped_schemes() -> None:
    assert depth_bounds(System(shipped.get("pmd-promotion"), registry.get("none"), "sc")) == (2, 2)
    with pytest.raises(ValueError, match="no run fails"):
        depth_bounds(System(shipped.get("pmd-promotion"), registry.get("static-key"), "sc"))


@pytest.mark.parametrize("name", ["Drawn3D", "Drawn5B", "Window3C"])
def test_the_walk_is_as_lucky_as_computed(name: str) -> None:
    system = System(planted.SCENARIO, planted.MITIGATIONS[name], "sc")
    walk = RandomWalk(Random(1))
    runs = 1500
    hits = sum(execute(system.machine(), walk).failure is not None for _ in range(runs))
    chance = walk_chance(system)
    # four standard deviations
    assert abs(hits - runs * chance) < 4 * (runs * chance * (1 - chance)) ** 0.5


def test_one_constraint_is_depth_one() -> None:
    """Each CPU has one event: the walker's in its first step, the promoter's after those that find the entry."""
    system = System(planted.SCENARIO, mitigation_of(Planted("Coin", (0,), (0,), True)), "sc")
    assert depth_bounds(system) == (1, 1)
    assert 0.5 < walk_chance(system) < 1


def test_a_cpu_that_waits_for_work_makes_the_bound_lower() -> None:
    least, greatest = depth_bounds(System(shipped.get("pmd-promotion"), registry.get("deferred-free"), "sc"))
    assert 1 <= least <= greatest


def test_medians() -> None:
    assert [median_runs(chance) for chance in (1.0, 0.5, 0.25, 0.01)] == [1, 1, 3, 69]
