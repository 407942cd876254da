"""A schedule that is kept means the same everywhere: whatever was learnt before, and in whatever order."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.every_access import every_access, fewer_steps
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.explore.strategies.pct import Pct
from fuzzvm.explore.strategies.random_walk import RandomWalk
from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.execution import Execution, Replay, execute
from fuzzvm.machine.schedule import Schedule, context_switches
from tests.compiled.run.test_knowledge import task_of

PAIRS = 5
RUNS = 6


def ran(task: CompiledTask, number: int) -> tuple[CompiledTask, Execution]:
    """Return a run by chance, and the task in which it is one."""
    while True:
        strategy = (Pct, RandomWalk)[number % 2](Random(number))
        strategy.begin(0, task.cpus)
        try:
            return task, execute(task.machine(), strategy)
        except OutdatedProgramError:
            task = task.again()


def followed(task: CompiledTask, schedule: Schedule) -> tuple[CompiledTask, Execution]:
    while True:
        chooser = Replay(schedule)
        try:
            execution = execute(task.machine(), chooser)
        except OutdatedProgramError:
            task = task.again()
        else:
            chooser.finish()
            return task, execution


def end(execution: Execution) -> tuple[str, str] | None:
    failure = execution.failure
    return None if failure is None else (failure.error, failure.function)


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_there_and_back_on_random_code(random_image: Image, memory: str) -> None:
    """Error, function and context switches stay, from one learning order over a new task to another order."""
    failed = shorter = 0
    for pair in range(PAIRS):
        searched = task_of(random_image, pair, memory, assume=True).learned()
        kept = task_of(random_image, pair, memory, assume=False)
        elsewhere = task_of(random_image, pair, memory, assume=True).learned(runs=1, seed=pair + 1)
        for number in range(RUNS):
            searched, run = ran(searched, number)
            schedule = every_access(searched, run.schedule)
            kept, replayed = followed(kept, schedule)
            elsewhere, back = fewer_steps(kept, schedule, elsewhere)
            elsewhere, again = followed(elsewhere, back)
            assert end(run) == end(replayed) == end(again), (pair, number)
            switches = context_switches(run.schedule)
            assert (context_switches(schedule), context_switches(back)) == (switches, switches), (pair, number)
            assert every_access(elsewhere, back) == schedule, (pair, number)
            failed += end(run) is not None
            shorter += len(run.schedule) < len(schedule)
    assert failed and shorter
