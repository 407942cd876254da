"""Lock stealing of 7.3's rwsem, beside the hand-over that the model has: verdicts are the same.

(kernel/locking/rwsem.c, Linux 7.3: rwsem_down_read_slowpath, rwsem_try_write_lock_unqueued, rwsem_mark_wake.)

Whoever releases a semaphore wakes the head of its queue and leaves it free. A reader takes it ahead of the queue while
nobody has it, and so does a writer that spins; who waits takes it when it can. Where readers have it, a reader queues
behind a writer that waits. A trylock fails where anybody waits. Handoff takes some of these ways away, and adds none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel import mmap_lock, ptdump
from fuzzvm.kernel.locking import rwsem
from fuzzvm.kernel.locking.lock import LockAction, OfCpu
from fuzzvm.kernel.locking.rwsem import UNLOCKED, RwSemaphore, RwsemState, rwsem_state
from fuzzvm.machine.ops import Order, Rmw, Steps
from fuzzvm.scenario import shipped
from fuzzvm.scenario.pairs import scenarios
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell


def _free(sem: RwsemState, write: bool) -> bool:
    """Return whether a CPU that comes may take it, ahead of who waits."""
    if sem.writer is not None:
        return False
    return not sem.readers if write else not (sem.readers and sem.waiters)


def _taken(sem: RwsemState, cpu: int, write: bool) -> RwsemState:
    return sem._replace(writer=cpu) if write else sem._replace(readers=(*sem.readers, cpu))


@dataclass(frozen=True, slots=True)
class StealOrQueue(OfCpu):
    write: bool
    waits = True
    may_sleep = True

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        if _free(sem, self.write):
            return _taken(sem, self.cpu, self.write)
        return sem._replace(waiters=(*sem.waiters, (self.cpu, self.write)))

    def action(self, old: object) -> LockAction:
        return LockAction(self.write, queued=not _free(rwsem_state(old), self.write))

    def unhindered(self) -> RwsemState:
        return UNLOCKED


@dataclass(frozen=True, slots=True)
class Woken(OfCpu):
    """Takes the semaphore for one that waits; a reader that is woken takes all readers along."""

    write: bool

    def __call__(self, value: object) -> RwsemState:
        sem = rwsem_state(value)
        if self.cpu in sem.readers:
            # another reader has taken it along
            return sem
        left = tuple(waiter for waiter in sem.waiters if waiter[0] != self.cpu)
        if self.write:
            return _taken(sem._replace(waiters=left), self.cpu, True)
        readers = tuple(cpu for cpu, write in sem.waiters if not write)
        return RwsemState(None, (*sem.readers, *readers), tuple(waiter for waiter in sem.waiters if waiter[1]))

    def action(self, old: object) -> LockAction:
        return LockAction(self.write)


@dataclass(frozen=True, slots=True)
class MayWake(OfCpu):
    write: bool
    may_sleep = True

    def __call__(self, value: object) -> bool:
        sem = rwsem_state(value)
        if (self.cpu, self.write) not in sem.waiters:
            return True
        first = sem.waiters[0] == (self.cpu, self.write)
        if self.write:
            return first and sem.writer is None and not sem.readers
        # the first reader of a phase wakes all others: RWSEM_WAKE_READ_OWNED
        return sem.writer is None and (first or bool(sem.readers and not sem.waiters[0][1]))

    def blocked_by(self, value: object) -> tuple[int, ...]:
        sem = rwsem_state(value)
        cpus = [cpu for cpu, _ in sem.waiters]
        ahead = tuple(cpus[: cpus.index(self.cpu)])
        if sem.writer is not None:
            return (sem.writer, *ahead)
        return (*ahead, *sem.readers) if self.write else ahead


def _down(cpu: int, sem: RwSemaphore, write: bool, point: str) -> Steps[None]:
    old = yield Rmw(sem.address, StealOrQueue(cpu, write), Order.ACQUIRE, point=point)
    if not _free(rwsem_state(old), write):
        yield Rmw(sem.address, Woken(cpu, write), Order.ACQUIRE, MayWake(cpu, write), point=point)


def down_read(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    yield from _down(cpu, sem, False, point)


def down_write(cpu: int, sem: RwSemaphore, point: str = "") -> Steps[None]:
    yield from _down(cpu, sem, True, point)


@pytest.fixture
def stealing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rwsem, "_grant", lambda sem: sem)
    for module in (mmap_lock, ptdump):
        for function in (down_read, down_write):
            if hasattr(module, function.__name__):
                monkeypatch.setattr(module, function.__name__, function)
    yield


CELLS = [
    ("none", "pmd-promotion"),
    ("vmap-trylock", "pmd-promotion"),
    ("vmap-trylock", "pud-promotion"),
    ("vmap-trylock", "two-walkers"),
    ("mmap-lock-always", "two-walkers"),
    ("mmap-lock-always", "two-promoters"),
    ("static-key", "two-walkers"),
    ("vmap-trylock+static-key", "pmd-promotion"),
    ("linux-7.3", "x86-pmd-promotion"),
    ("linux-7.3", "x86-other-mm"),
    ("linux-7.3", "x86-cpa-and-vmap"),
    ("linux-7.3", "pair-x86_64-collapse-pmd-attributes"),
    ("linux-7.3", "pair-x86_64-collapse-pmd-kcore"),
    ("linux-6.18", "pair-x86_64-collapse-pmd-ptdump"),
]
ALL = shipped.shipped() | scenarios()


def _verdict(scheme: str, scenario: str) -> tuple[str, str, int]:
    verdict = verify_cell(Cell(scheme, ALL[scenario], "sc"), Bounds(Limits())).verdict
    assert verdict.complete
    return verdict.verdict, verdict.failure.error if verdict.failure else "", verdict.states


@pytest.mark.parametrize(("scheme", "scenario"), CELLS)
def test_who_comes_first_among_waiters_changes_no_verdict(
    scheme: str, scenario: str, request: pytest.FixtureRequest
) -> None:
    handed_over = _verdict(scheme, scenario)
    request.getfixturevalue("stealing")
    assert _verdict(scheme, scenario)[:2] == handed_over[:2]


def test_a_writer_that_waits_is_overtaken(stealing: None) -> None:
    """What the model leaves out is there in this test."""
    sem = RwsemState(None, (), ((1, True),))
    assert StealOrQueue(2, False)(sem) == RwsemState(None, (2,), ((1, True),))
    assert StealOrQueue(2, True)(sem) == RwsemState(2, (), ((1, True),))
    assert not MayWake(1, True)(RwsemState(2, (), ((1, True),)))
    # but a reader that has it already waits behind the writer
    assert StealOrQueue(2, False)(RwsemState(None, (2,), ((1, True),))).waiters == ((1, True), (2, False))
