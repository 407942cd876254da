"""What concerns one CPU alone is no step: nothing is lost by that, and it is noticed where something would be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.task import CompiledTask, CpuCalls, call
from fuzzvm.exhaustive import Limits
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import SHARED_MASK, Space
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.property import Property
from fuzzvm.machine.task import settled
from tests.compiled.run.conftest import PAIRS

MOST = 20_000
Outcomes = tuple[frozenset[tuple[int, ...]], bool]


class WordsTask(CompiledTask):
    """Nothing is asked but that nobody uses what has been freed: there are no page tables."""

    def _property(self, machine: Machine) -> Property:  # type: ignore[override]
        return Property()


def task_of(image: Image, pair: int, memory: str, *, assume: bool) -> CompiledTask:
    cpus = [CpuCalls((call(image, f"random_{pair}_{cpu}"),)) for cpu in range(2)]
    return WordsTask(image, memory, CpuCalls((call(image, "random_boot"),)), cpus, assume=assume)


def outcomes(task: CompiledTask) -> Outcomes:
    """Return what the CPUs may leave behind, and whether the page may be used after it was freed."""
    return settled(task, _outcomes)[1]


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
    if space.has_agents:
        return shared.memory(state & SHARED_MASK).peek  # type: ignore[attr-defined,no-any-return]
    return lambda address: space.values[shared.read(state & SHARED_MASK, address)]  # type: ignore[attr-defined,no-any-return]


@pytest.mark.product
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_on_random_code_nothing_is_lost(random_image: Image, memory: str) -> None:
    for pair in range(PAIRS):
        every = outcomes(task_of(random_image, pair, memory, assume=False))
        assert outcomes(task_of(random_image, pair, memory, assume=True)) == every, pair
