"""A schedule that is kept means the same everywhere: whatever was learnt before, and in whatever order."""

from __future__ import annotations

from random import Random

import pytest

from fuzzvm.compiled.errors import ConversionError
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.run.every_access import every_access, fewer_steps
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.machine.execution import Execution, InTurn, Replay, execute
from fuzzvm.machine.schedule import Schedule, context_switches
from fuzzvm.machine.task import settled
from fuzzvm.runs.strategies.pct import Pct
from fuzzvm.runs.strategies.random_walk import RandomWalk
from tests.compiled import small
from tests.compiled.run import random_code
from tests.compiled.run.test_knowledge import task_of

PAIRS = 5
RUNS = 6


def ran(task: CompiledTask, number: int) -> tuple[CompiledTask, Execution]:
    """Return a run by chance, and the task in which it is one."""

    def run(task: CompiledTask) -> Execution:
        strategy = (Pct, RandomWalk)[number % 2](Random(number))
        strategy.begin(0, task.cpus)
        return execute(task.machine(), strategy)

    return settled(task, run)


def followed(task: CompiledTask, schedule: Schedule) -> tuple[CompiledTask, Execution]:
    def run(task: CompiledTask) -> tuple[Execution, Replay]:
        chooser = Replay(schedule)
        return execute(task.machine(), chooser), chooser

    task, (execution, chooser) = settled(task, run)
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


MIXED = """
void random_0_0(void)
{
	*(volatile unsigned char *)&shared_words[0] = 1;
}

void random_0_1(void)
{
	load_acquire(&shared_words[1]);
	leave(1, *(volatile u64 *)&shared_words[0]);
}
"""


@pytest.fixture(scope="session")
def mixed_image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A byte of a word is written, and then the word is read: only that shows how wide the location is."""
    head = '#include "small.h"\n\nstruct static_key huge_vmap_disabled;\n'
    edit = {"mm/vmalloc.c": (head, head + random_code.HEAD + MIXED)}
    return load(small.build_image(tmp_path_factory.mktemp("mixed"), edits=edit))


def test_a_location_that_turns_out_to_be_wider_is_found_out_again(mixed_image: Image) -> None:
    task = task_of(mixed_image, 0, "sc", assume=True).learned()
    run = execute(task.machine(), InTurn([0, 1]))
    schedule = every_access(task, run.schedule)
    _, again = followed(task_of(mixed_image, 0, "sc", assume=False), schedule)
    assert (again.failure, again.schedule) == (None, schedule)


def test_a_run_that_does_not_replay_from_the_beginning_is_not_kept(mixed_image: Image) -> None:
    """Under tso the store of a byte has a choice, and the atomic step that it turns out to be has none."""
    task = task_of(mixed_image, 0, "tso", assume=True).learned()
    run = execute(task.machine(), InTurn([0, 1]))
    with pytest.raises(ConversionError, match="the schedule cannot be kept"):
        every_access(task, run.schedule)
