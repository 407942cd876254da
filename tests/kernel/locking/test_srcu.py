"""fuzzvm.kernel.locking.srcu: a grace period waits for the sections that had begun, each by its index."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.errors import LOCK_NOT_RELEASED, UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import mutex_lock, mutex_unlock
from fuzzvm.kernel.locking.srcu import (
    Section,
    SrcuState,
    SrcuStruct,
    init_srcu_struct,
    srcu_read_lock,
    srcu_read_unlock,
    srcu_state,
    synchronize_srcu,
)
from fuzzvm.kernel.mmap_lock import Mm
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import DEADLOCK, USE_AFTER_FREE_READ
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Load, Steps, Store
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.kernel.locking import laws
from tests.support import Seeded, executions


def section(cpu: int, ssp: SrcuStruct) -> Steps[None]:
    idx = yield from srcu_read_lock(cpu, ssp)
    yield from srcu_read_unlock(cpu, ssp, idx)


def overlapping(cpu: int, ssp: SrcuStruct) -> Steps[None]:
    """Begin two sections and end the first one first."""
    first = yield from srcu_read_lock(cpu, ssp)
    second = yield from srcu_read_lock(cpu, ssp)
    assert first != second
    yield from srcu_read_unlock(cpu, ssp, first)
    yield from srcu_read_unlock(cpu, ssp, second)


@given(
    st.lists(st.lists(st.sampled_from([section, overlapping, synchronize_srcu]), max_size=3), min_size=2, max_size=4),
    st.integers(0, 1 << 30),
)
def test_the_laws_of_locks(programs: list[list[laws.Call]], seed: int) -> None:
    assert laws.run(init_srcu_struct, programs, seed).failure is None


class Made:
    """A machine with a srcu_struct and two words."""

    def __init__(self, cpus: int, memory: str = "sc") -> None:
        self.machine = Machine(memory_models.get(memory)(cpus))
        words = laws.Words(self.machine)
        self.ssp = init_srcu_struct(words, "ssp")
        self.x, self.y = words.lock_word("x"), words.lock_word("y")

    def reader(self, cpu: int) -> Steps[tuple[int, int]]:
        idx = yield from srcu_read_lock(cpu, self.ssp)
        before = yield Load(self.x)
        after = yield Load(self.y)
        yield from srcu_read_unlock(cpu, self.ssp, idx)
        assert (before, after) != (0, 1), "a section spans a grace period"
        return before, after

    def updater(self, cpu: int) -> Steps[None]:
        yield Store(self.x, 1)
        yield from synchronize_srcu(cpu, self.ssp)
        yield Store(self.y, 1)


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_no_section_spans_a_grace_period(memory: str) -> None:
    for seed in range(300):
        made = Made(3, memory)
        made.machine.start([made.updater(0), made.reader(1), made.reader(2)])
        assert execute(made.machine, Seeded(seed)).failure is None


def test_a_grace_period_waits_for_the_sections_that_had_begun_and_for_no_other() -> None:
    made = Made(2)

    def twice(cpu: int) -> Steps[None]:
        first = yield from srcu_read_lock(cpu, made.ssp)
        second = yield from srcu_read_lock(cpu, made.ssp)
        yield from srcu_read_unlock(cpu, made.ssp, first)
        yield from srcu_read_unlock(cpu, made.ssp, second)

    made.machine.start([twice(0), synchronize_srcu(1, made.ssp)])

    def step(*cpus: int) -> SrcuState:
        for cpu in cpus:
            made.machine.step(cpu, lambda ways: 0)
        return srcu_state(made.machine.memory.peek(made.ssp.address))

    step(0, 1, 1)
    assert list(made.machine.enabled()) == [0], "the first section had begun"
    state = step(0)
    assert state.readers == (Section(0, 0), Section(0, 1)), "the second one begins after the grace period"
    state = step(0)
    assert state == SrcuState((Section(0, 1),)), "which is over with the first, though the second goes on"
    assert list(made.machine.enabled()) == [0, 1]


def test_waiting_within_a_section_is_a_deadlock_with_oneself() -> None:
    made = Made(1)

    def waits(cpu: int) -> Steps[None]:
        idx = yield from srcu_read_lock(cpu, made.ssp)
        yield from synchronize_srcu(cpu, made.ssp)
        yield from srcu_read_unlock(cpu, made.ssp, idx)

    made.machine.start([waits(0)])
    failure = execute(made.machine, Seeded(0)).failure
    assert failure is not None and failure.error == DEADLOCK
    assert failure.message == "CPU 0 in synchronize_srcu waits for CPU 0"


def test_a_section_that_is_not_there_cannot_be_left() -> None:
    made = Made(1)

    def wrong(cpu: int) -> Steps[None]:
        idx = yield from srcu_read_lock(cpu, made.ssp)
        yield from srcu_read_unlock(cpu, made.ssp, idx + 1)

    made.machine.start([wrong(0)])
    failure = execute(made.machine, Seeded(0)).failure
    assert failure is not None
    assert (failure.error, failure.message) == (
        UNLOCK_WITHOUT_LOCK,
        "CPU 0 leaves section 1 of ssp, which it is not in",
    )


def test_sections_may_sleep_and_deadlock_over_what_the_updater_holds() -> None:
    class Sleeps(Mitigation):
        name = "sleeps"

        def attach(self, boot: Boot) -> None:
            self.ssp = init_srcu_struct(boot, "ssp")
            self.lock = boot.lock("its_mutex")

        def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
            yield from mutex_lock(k.cpu, self.lock)
            yield from synchronize_srcu(k.cpu, self.ssp)
            yield from mutex_unlock(k.cpu, self.lock)

        def before_walk(self, k: Kernel, mm: Mm) -> Steps[int]:
            idx = yield from srcu_read_lock(k.cpu, self.ssp)
            yield from mutex_lock(k.cpu, self.lock)
            yield from mutex_unlock(k.cpu, self.lock)
            return int(idx)

        def after_walk(self, k: Kernel, mm: Mm, token: int) -> Steps[None]:
            yield from srcu_read_unlock(k.cpu, self.ssp, token)

    verdict = verify(System(shipped.get("pmd-promotion"), Sleeps, "sc"))
    assert verdict.failure is not None and verdict.failure.error == DEADLOCK


class WaitsForWalks(Mitigation):
    """A walk is a section; a table is freed a grace period after the clear."""

    name = "waits-for-walks"

    def attach(self, boot: Boot) -> None:
        self.ssp = init_srcu_struct(boot, "ptdump_srcu")

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from synchronize_srcu(k.cpu, self.ssp)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[int]:
        return (yield from srcu_read_lock(k.cpu, self.ssp))

    def after_walk(self, k: Kernel, mm: Mm, token: int) -> Steps[None]:
        yield from srcu_read_unlock(k.cpu, self.ssp, token)


class WaitsTooEarly(WaitsForWalks):
    """The grace period is over before the entry is cleared."""

    name = "waits-too-early"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from synchronize_srcu(k.cpu, self.ssp)

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from ()


class NeverLeaves(WaitsForWalks):
    name = "never-leaves"

    def after_walk(self, k: Kernel, mm: Mm, token: int) -> Steps[None]:
        yield from ()


@pytest.mark.parametrize(
    ("scheme", "scenario", "memory", "error"),
    [
        (WaitsForWalks, "pmd-promotion", "sc", None),
        (WaitsForWalks, "two-walkers", "sc", None),
        (WaitsForWalks, "x86-other-mm", "sc", None),
        (WaitsForWalks, "pmd-promotion", "arm64", None),
        (WaitsTooEarly, "pmd-promotion", "sc", USE_AFTER_FREE_READ),
    ],
)
def test_as_a_scheme(scheme: type[Mitigation], scenario: str, memory: str, error: str | None) -> None:
    verdict = verify(System(shipped.get(scenario), scheme, memory))
    assert verdict.complete or verdict.failure
    assert (verdict.failure and verdict.failure.error) == error


def test_a_section_that_is_never_left_is_told() -> None:
    def start() -> Machine:
        return System(shipped.get("pmd-promotion"), NeverLeaves, "sc").machine()

    failures = {(run.failure.error, run.failure.message) for run in executions(start, 0) if run.failure}
    assert (LOCK_NOT_RELEASED, "CPU 1 never left a read-side section of ptdump_srcu") in failures
