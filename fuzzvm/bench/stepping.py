"""Direct stepping, what fuzzing does: operations a second beside a bare loop that hands values to a generator and back.

The bare loop is the least that stepping a generator can cost in this interpreter on this machine; the rest is the
model's own code, memory, oracles, and the choice of who steps.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from random import Random

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.bench.result import Note, Result, WantedRatio
from fuzzvm.bench.timing import median_ratio
from fuzzvm.machine.execution import Chooser, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.task import Task
from fuzzvm.mitigations import registry
from fuzzvm.runs.strategies import Strategy
from fuzzvm.runs.strategies.random_walk import RandomWalk
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

NAME = "stepping"
SUMMARY = "direct stepping beside a bare generator hand-over: operations a second"
WANTED = 0.04
"""400,000 operations a second where the bare loop does 10 million."""
SCENARIOS = ("pmd-promotion", "two-walkers", "vmalloc-cycle")


class _First:
    """The chooser that costs next to nothing: the first CPU that can step."""

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        return enabled[0]

    def value(self, ways: int) -> int:
        return 0


def _hand_over() -> Generator[int, int, None]:
    value = 0
    while True:
        value = yield value


def bare(count: int) -> float:
    """Return how many times a second a value goes into a generator and back."""
    send = _hand_over().send
    send(None)  # type: ignore[arg-type]
    value = 0
    began = time.perf_counter()
    for _ in range(count):
        value = send(value)
    return count / (time.perf_counter() - began)


def operations(task: Task, chooser: Chooser, seconds: float) -> float:
    """Return how many operations a second whole runs take, with the start of each and its end."""
    steps = 0
    began = time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        if isinstance(chooser, Strategy):
            chooser.begin(0, task.cpus)
        execution = execute(task.machine(), chooser)
        if isinstance(chooser, Strategy):
            chooser.end(execution)
        steps += execution.steps
    return steps / took


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    static_key = registry.get("static-key")
    tasks: dict[str, Task] = {"flat model, 16 slots": FlatTask(16)} | {
        name: System(shipped.get(name), static_key, "sc") for name in SCENARIOS
    }
    for name, task in tasks.items():
        for chooser_name, chooser in (("first", _First()), ("random walk", RandomWalk(Random(0)))):
            note(f"stepping: {name}, {chooser_name}")
            seconds, count, repeats = (0.02, 50_000, 1) if quick else (0.3, 1_000_000, 9)
            ours, loop, ratio = median_ratio(
                lambda task=task, chooser=chooser, seconds=seconds: operations(task, chooser, seconds),  # type: ignore[misc]
                lambda count=count: bare(count),  # type: ignore[misc]
                repeats,
            )
            row = {"system": name, "chooser": chooser_name, "operations_a_second": ours, "bare_a_second": loop}
            result.rows.append({**row, "ratio": ratio})
            result.targets.append(WantedRatio(f"{name}, {chooser_name}: operations by bare hand-overs", ratio, WANTED))
    return result
