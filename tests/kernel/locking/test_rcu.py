"""fuzzvm.kernel.locking.rcu: a grace period waits for the sections that had begun, and orders what it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.errors import LOCK_NOT_RELEASED, UNLOCK_WITHOUT_LOCK
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel, boot_kernel
from fuzzvm.kernel.locking.rcu import (
    GracePeriod,
    Rcu,
    RcuState,
    rcu_read_lock,
    rcu_read_unlock,
    rcu_state,
    synchronize_rcu,
)
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import mk_table, pxd_pgtable, table_pointed_to
from fuzzvm.kernel.rcu_callbacks import call_rcu
from fuzzvm.kernel.workqueue import queue_no_more
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import DEADLOCK, ModelError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Alloc, Await, Free, Load, Order, Rmw, Steps, Store
from fuzzvm.machine.rewrite import Rewrite, Skipped, Yielded
from tests.kernel.locking import laws
from tests.support import Seeded, executions, geometry_of

MEMORIES = ("sc", "tso", "arm64")


class UsesRcu(Mitigation):
    name = "uses-rcu"
    rcu: Rcu
    words: tuple[Address, ...]
    callbacks: bool = False

    def attach(self, boot: Boot) -> None:
        self.rcu = boot.rcu()
        self.words = tuple(boot.list_head(name) for name in "xyz")
        if self.callbacks:
            self.queue = boot.rcu_callbacks()


Program = Callable[[Kernel, UsesRcu], Steps[Any]]


def start(memory: str, programs: Sequence[Program], rewrite: Rewrite | None = None) -> Callable[[], Machine]:
    """Return what makes a machine with these programs, and a kernel that has nothing but RCU to it."""

    def make() -> Machine:
        threads = 1 if UsesRcu.callbacks else 0
        model = memory_models.get(memory)(len(programs) + threads)
        model.points_to = table_pointed_to
        machine = Machine(model)
        scheme = UsesRcu()
        kernel = boot_kernel(
            machine, architectures.get("arm64"), geometry_of("arm64", 3, 2), scheme, nr_cpus=len(programs)
        )
        machine.observer = Oracles(machine, kernel)
        views = [kernel.on(cpu) for cpu in range(len(programs))]
        code: list[Callable[[], Steps[Any]]] = [
            *[partial(program, k, scheme) for program, k in zip(programs, views, strict=True)],
            *[
                partial(thread.function, kernel.on(len(programs) + n), thread.queue)
                for n, thread in enumerate(kernel.threads)
            ],
        ]
        machine.start([GeneratorProgram(make_one, rewrite) for make_one in code])
        return machine

    return make


# What a grace period waits for


def reader_of_two(k: Kernel, s: UsesRcu) -> Steps[None]:
    """Read x, then y, in one section; fail where the section spans the whole of a grace period."""
    yield from rcu_read_lock(k.cpu, s.rcu)
    before = yield Load(s.words[0])
    after = yield Load(s.words[1])
    yield from rcu_read_unlock(k.cpu, s.rcu)
    if before == 0 and after == 1:
        raise ModelError("use-after-free-read", "a section spans a grace period")


def updater(k: Kernel, s: UsesRcu) -> Steps[None]:
    """Write x before a grace period and y after it."""
    yield Store(s.words[0], 1)
    yield from synchronize_rcu(k.cpu, s.rcu)
    yield Store(s.words[1], 1)


def reader_the_other_way(k: Kernel, s: UsesRcu) -> Steps[None]:
    """Read y, then x: the release and acquire of the grace period's two ends."""
    yield from rcu_read_lock(k.cpu, s.rcu)
    after = yield Load(s.words[1])
    before = yield Load(s.words[0])
    yield from rcu_read_unlock(k.cpu, s.rcu)
    if before == 0 and after == 1:
        raise ModelError("use-after-free-read", "a section spans a grace period")


def reads_through(k: Kernel, s: UsesRcu) -> Steps[None]:
    """Read a pointer and through it, in one section."""
    yield from rcu_read_lock(k.cpu, s.rcu)
    entry = yield Load(s.words[0])
    if entry:
        yield Load(pxd_pgtable(entry))
    yield from rcu_read_unlock(k.cpu, s.rcu)


def frees(k: Kernel, s: UsesRcu) -> Steps[None]:
    """Publish an object, take it back, and free it after a grace period."""
    thing = yield Alloc(1, "thing")
    yield Store(s.words[0], mk_table(thing), Order.RELEASE)
    yield Store(s.words[0], 0)
    yield from synchronize_rcu(k.cpu, s.rcu)
    yield Free(thing)


GRACE_PERIOD = ("grace-period-begin-fence", "grace-period-begin", "grace-period-wait", "grace-period-end-fence")


def dropping(*points: str) -> Rewrite:
    """Leave out the operations of these points."""

    def rewrite(op: Yielded, /) -> Yielded | Skipped:
        return Skipped(RcuState(readers=(0, 1, 2, 3))) if op.point in points else op

    return rewrite


def relaxing(*points: str) -> Rewrite:
    """Take all ordering from the operations of these points: fences, acquires, releases."""

    def rewrite(op: Yielded, /) -> Yielded | Skipped:
        if op.point not in points:
            return op
        return replace(op, order=Order.PLAIN) if isinstance(op, Rmw | Await) else Skipped()

    return rewrite


def error(begin: Callable[[], Machine], runs: int) -> str:
    """Return the first error of that many seeded random runs, '' if there is none."""
    found = (execute(begin(), Seeded(seed)).failure for seed in range(runs))
    return next((failure.error for failure in found if failure is not None), "")


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    ("update", "reader"), [(updater, reader_of_two), (updater, reader_the_other_way), (frees, reads_through)]
)
def test_no_section_spans_a_grace_period(memory: str, update: Program, reader: Program) -> None:
    assert error(start(memory, [update, reader, reader]), 500) == ""


def test_no_section_spans_a_grace_period_in_any_schedule_of_three_pre_emptions() -> None:
    begin = start("sc", [updater, reader_of_two])
    assert {run.failure for run in executions(begin, 3)} == {None}


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(dropping("grace-period-wait"), id="a grace period that does not wait"),
        pytest.param(dropping("grace-period-begin"), id="a grace period that does not begin"),
        pytest.param(dropping("rcu-read-lock", "rcu-read-unlock"), id="a section that nobody knows of"),
    ],
)
def test_a_grace_period_that_does_not_wait_is_caught(memory: str, mutant: Rewrite) -> None:
    assert error(start(memory, [updater, reader_of_two], mutant), 500) == "use-after-free-read"


@pytest.mark.parametrize(
    ("update", "reader", "points"),
    [
        (frees, reads_through, ["rcu-read-unlock"]),
        (frees, reads_through, ["rcu-read-lock"]),
        (frees, reads_through, GRACE_PERIOD),
        (updater, reader_the_other_way, GRACE_PERIOD),
    ],
)
def test_without_its_ordering_it_fails_under_weak_memory_alone(
    update: Program, reader: Program, points: Sequence[str]
) -> None:
    rewrite = relaxing(*points)
    assert error(start("sc", [update, reader], rewrite), 300) == ""
    assert error(start("arm64", [update, reader], rewrite), 5000) == "use-after-free-read"


def nested(k: Kernel, s: UsesRcu) -> Steps[None]:
    yield from rcu_read_lock(k.cpu, s.rcu)
    before = yield Load(s.words[0])
    yield from rcu_read_lock(k.cpu, s.rcu)
    yield from rcu_read_unlock(k.cpu, s.rcu)
    after = yield Load(s.words[1])
    yield from rcu_read_unlock(k.cpu, s.rcu)
    if before == 0 and after == 1:
        raise ModelError("use-after-free-read", "a section spans a grace period")


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_outermost_section_counts(memory: str) -> None:
    assert error(start(memory, [updater, nested]), 400) == ""


def test_a_grace_period_does_not_wait_for_sections_that_begin_later() -> None:
    """The word alone: what _Begin and _ReadUnlock make of it."""

    def waits(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from synchronize_rcu(k.cpu, s.rcu)
        yield Store(s.words[2], 1)

    def section(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, s.rcu)
        done = yield Load(s.words[2])
        yield Store(s.words[k.cpu - 1], 1 + done)
        yield from rcu_read_unlock(k.cpu, s.rcu)

    seen = set()
    for seed in range(600):
        machine = start("sc", [waits, section, section])()
        assert execute(machine, Seeded(seed)).failure is None
        words = machine.observer._kernel.mitigation.words  # type: ignore[union-attr]
        seen.add(tuple(machine.memory.peek(word) for word in words[:2]))
    assert seen == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_waiting_within_a_section_is_a_deadlock_with_oneself() -> None:
    def waits(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, s.rcu)
        yield from synchronize_rcu(k.cpu, s.rcu)
        yield from rcu_read_unlock(k.cpu, s.rcu)

    failure = execute(start("sc", [waits])(), Seeded(0)).failure
    assert failure is not None and failure.error == DEADLOCK
    assert failure.message == "CPU 0 in synchronize_rcu waits for CPU 0"


def test_two_that_wait_in_each_others_sections_deadlock() -> None:
    def waits(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, s.rcu)
        yield Store(s.words[k.cpu], 1)
        yield from rcu_read_unlock(k.cpu, s.rcu)
        yield from synchronize_rcu(k.cpu, s.rcu)

    assert error(start("sc", [waits, waits]), 500) == ""


def test_a_section_that_is_left_twice_or_never_is_caught() -> None:
    def twice(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from rcu_read_unlock(k.cpu, s.rcu)

    def never(k: Kernel, s: UsesRcu) -> Steps[None]:
        yield from rcu_read_lock(k.cpu, s.rcu)

    assert error(start("sc", [twice]), 1) == UNLOCK_WITHOUT_LOCK
    assert error(start("sc", [never]), 1) == LOCK_NOT_RELEASED


# Callbacks


@dataclass(frozen=True, slots=True)
class Set:
    """A callback that writes y."""

    address: Address

    def run(self, k: Kernel) -> Steps[None]:
        yield Store(self.address, 1)


def calls_back(k: Kernel, s: UsesRcu) -> Steps[None]:
    yield Store(s.words[0], 1)
    yield from call_rcu(k, s.queue, Set(s.words[1]))
    yield from queue_no_more(k)


def reads(k: Kernel, s: UsesRcu) -> Steps[None]:
    yield from reader_of_two(k, s)
    yield from queue_no_more(k)


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UsesRcu, "callbacks", True)


@pytest.mark.usefixtures("callbacks")
@pytest.mark.parametrize("memory", MEMORIES)
def test_a_callback_runs_after_a_grace_period(memory: str) -> None:
    begin = start(memory, [calls_back, reads])
    assert error(begin, 500) == ""
    machine = begin()
    execute(machine, Seeded(1))
    assert machine.memory.peek(machine.observer._kernel.mitigation.words[1]) == 1  # type: ignore[union-attr]
    rewrite = dropping("grace-period-wait")
    assert error(start(memory, [calls_back, reads], rewrite), 10000) == "use-after-free-read"


# The word


STATES = st.builds(
    lambda readers, waiters: RcuState(
        tuple(sorted(readers)),
        tuple(sorted(GracePeriod(waiter, tuple(sorted(set(readers)))) for waiter in waiters)) if readers else (),
    ),
    st.lists(st.integers(0, 3), max_size=4),
    st.sets(st.integers(0, 3)),
)


@given(STATES, st.permutations(range(4)), st.permutations(range(4)))
def test_renaming_is_a_group_action(state: RcuState, one: list[int], other: list[int]) -> None:
    both = tuple(other[cpu] for cpu in one)
    assert state.renamed(tuple(one)).renamed(tuple(other)) == state.renamed(both)
    assert state.renamed((0, 1, 2, 3)) == state


def test_memory_starts_with_nobody_reading() -> None:
    assert rcu_state(0) == RcuState() == rcu_state(RcuState())


SECTIONS = st.lists(st.sampled_from([[rcu_read_lock, rcu_read_unlock], [synchronize_rcu]]), max_size=4)


@given(st.lists(SECTIONS, min_size=2, max_size=4), st.integers(0, 1 << 30))
def test_the_laws_of_locks(programs: list[list[list[laws.Call]]], seed: int) -> None:
    calls = [[call for section in sections for call in section] for sections in programs]
    machine = laws.run(lambda words, name: Rcu(words.lock_word(name), name), calls, seed)
    assert machine.failure is None
