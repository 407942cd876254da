"""What concerns one CPU alone is no step: nothing is lost by that, and it is noticed where something would be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.knowledge import Knowledge
from fuzzvm.compiled.run.task import CompiledTask, CpuCalls, call
from fuzzvm.exhaustive import Limits
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.property import Property
from fuzzvm.machine.task import settled
from fuzzvm.machine.tlb import TlbState
from fuzzvm.verify.image_learning import learned_by_search
from tests.compiled.run.conftest import PAIRS
from tests.compiled.run.random_code import ARRAY

MOST = 20_000
Outcomes = tuple[frozenset[tuple[int, ...]], bool]


class WordsTask(CompiledTask):
    """Nothing is asked but that nobody uses what has been freed: there are no page tables."""

    def _property(self, machine: Machine, held: TlbState | None) -> Property:  # type: ignore[override]
        return Property()


def task_of(image: Image, pair: int, memory: str, *, assume: bool) -> CompiledTask:
    cpus = [CpuCalls((call(image, f"random_{pair}_{cpu}"),)) for cpu in range(2)]
    return WordsTask(image, memory, CpuCalls((call(image, "random_boot"),)), cpus, assume=assume)


def outcomes(task: CompiledTask, *, by_search: bool = False) -> Outcomes:
    """Return what the CPUs may leave behind, and whether the page may be used after it was freed.

    Where it turns out that more is accessed than was known, that is learnt bit by bit or `by_search`.
    """
    return settled(task, _outcomes, _searched if by_search else CompiledTask.again)[1]


def _searched(task: CompiledTask) -> CompiledTask:
    return learned_by_search(task.again(), Deadline(None))


def _outcomes(task: CompiledTask) -> Outcomes:
    space = Space(task)
    found = space.settled(lambda: search(space, Limits(max_states=MOST), first_only=False))
    assert found.complete, found.stopped
    memory = task.environment.memory
    start = task.image.symbol("outcomes").address
    left = [memory.location(start + 8 * cpu, 8) for cpu in range(2)]
    ends = set()
    for state in found.ends:
        peek = _peek(space, state)
        ends.add(tuple(peek(unit.address) for unit in left if unit is not None))
    assert {one.error for one in found.findings} <= {"use-after-free-read", "use-after-free-write"}
    return frozenset(ends), bool(found.findings)


def _peek(space: Space, state: int) -> Callable[[int], int]:
    shared = space.shared
    if space.weak:
        return shared.memory(state & SHARED_MASK).peek  # type: ignore[attr-defined,no-any-return]
    return lambda address: space.values[shared.read(state & SHARED_MASK, address)]  # type: ignore[attr-defined,no-any-return]


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_on_random_code_nothing_is_lost(random_image: Image, memory: str) -> None:
    for pair in range(PAIRS):
        every = outcomes(task_of(random_image, pair, memory, assume=False))
        assert outcomes(task_of(random_image, pair, memory, assume=True)) == every, pair
        assert outcomes(task_of(random_image, pair, memory, assume=True), by_search=True) == every, pair


@pytest.mark.always
def test_what_is_wrong_is_passed_over_while_learning_and_at_no_other_time() -> None:
    knowledge = Knowledge(1, lambda address: 0)
    read, write = ({"reads": not writes, "writes": writes, "plain": True} for writes in (False, True))
    with knowledge.taught():
        assert knowledge.access(0, 0, **read)
        assert not knowledge.access(0, 1, **write)
        assert knowledge.access(0, 0, **read), "a program does the same when it is run again"
    knowledge.begin()
    assert not knowledge.access(0, 0, **read)
    assert knowledge.access(8, 0, **read)
    with pytest.raises(OutdatedProgramError):
        knowledge.access(8, 1, **write)


@pytest.mark.always
def test_a_search_learns_at_once_what_else_would_take_a_search_each(random_image: Image) -> None:
    """One CPU fills an array if the other reads it."""
    begun = 0

    def work(task: CompiledTask) -> Outcomes:
        nonlocal begun
        begun += 1
        return _outcomes(task)

    def task_of_array() -> CompiledTask:
        calls = [CpuCalls((call(random_image, name),)) for name in ("fill_array", "sum_array")]
        return WordsTask(random_image, "sc", CpuCalls((call(random_image, "random_boot"),)), calls)

    bit_by_bit = settled(task_of_array(), work)[1]
    assert begun > ARRAY
    begun = 0
    assert settled(task_of_array(), work, _searched)[1] == bit_by_bit
    assert begun <= 4, "it begins again for each location"
