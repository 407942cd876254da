"""A plain Hypothesis RuleBasedStateMachine over the flat model: schedules a second beside the stepping executor.

One rule a CPU, each lets it take its next step: what one writes who has the model and Hypothesis, and no fuzzvm
engine. The machine under the rules is the same one, so the ratio is what drawing a schedule costs.
"""

from __future__ import annotations

import time
from random import Random

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.bench.result import Note, Result
from fuzzvm.bench.timing import median_ratio
from fuzzvm.machine.execution import execute
from fuzzvm.runs.strategies.random_walk import RandomWalk

NAME = "hypothesis"
SUMMARY = "the flat model under a plain RuleBasedStateMachine: schedules a second"
SLOTS = (4, 16)
STEPS_A_SLOT = 10
"""At least as many steps as any run takes for each slot, with what a run takes at its begin and end."""


def _machine(task: FlatTask) -> type[RuleBasedStateMachine]:
    class Interleavings(RuleBasedStateMachine):
        finished = 0

        def __init__(self) -> None:
            super().__init__()
            self.machine = task.machine()

        def can_step(self, cpu: int) -> bool:
            return cpu in self.machine.enabled()

        @precondition(lambda self: self.can_step(0))
        @rule()
        def promoter(self) -> None:
            self.machine.step(0, lambda ways: 0)

        @precondition(lambda self: self.can_step(1))
        @rule()
        def walker(self) -> None:
            self.machine.step(1, lambda ways: 0)

        @precondition(lambda self: self.machine.done)
        @rule()
        def over(self) -> None:
            """Stand for the rest of a run that has ended: a state machine cannot end its own."""

        def teardown(self) -> None:
            assert self.machine.failure is None
            type(self).finished += self.machine.done

    return Interleavings


def _theirs(task: FlatTask, slots: int, examples: int) -> float:
    machine = _machine(task)
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS_A_SLOT * slots + 10,
        phases=(Phase.generate,),
        deadline=None,
        database=None,
        derandomize=True,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    began = time.perf_counter()
    run_state_machine_as_test(machine, settings=chosen)
    return examples / (time.perf_counter() - began)


def _ours(task: FlatTask, runs: int) -> float:
    strategy = RandomWalk(Random(0))
    began = time.perf_counter()
    for _ in range(runs):
        execute(task.machine(), strategy)
    return runs / (time.perf_counter() - began)


def run(*, quick: bool, note: Note) -> Result:
    """Measure; see the module."""
    result = Result(NAME)
    for slots in SLOTS:
        note(f"hypothesis: {slots} slots")
        task = FlatTask(slots)
        examples, runs = (10, 50) if quick else (100, 2000)
        ours, theirs, ratio = median_ratio(
            lambda task=task, runs=runs: _ours(task, runs),  # type: ignore[misc]
            lambda task=task, slots=slots, examples=examples: _theirs(task, slots, examples),  # type: ignore[misc]
            1 if quick else 5,
        )
        result.rows.append(
            {"slots": slots, "fuzzvm_schedules_a_second": ours, "hypothesis_schedules_a_second": theirs, "ratio": ratio}
        )
    return result
