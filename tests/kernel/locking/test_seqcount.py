"""fuzzvm.kernel.locking.seqcount: what was read without a retry belongs together, under every memory model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.locking.lock import left
from fuzzvm.kernel.locking.seqcount import (
    Seqcount,
    SeqcountState,
    read_seqcount_begin,
    read_seqcount_retry,
    seqcount_init,
    seqcount_state,
    write_seqcount_begin,
    write_seqcount_end,
)
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import DEADLOCK, NO_PROGRESS, Failure, ModelError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Load, Steps, Store
from tests.kernel.locking import laws
from tests.support import Follow, Seeded

MEMORIES = ("sc", "tso", "arm64")


def write_section(cpu: int, s: Seqcount) -> Steps[None]:
    yield from write_seqcount_begin(cpu, s)
    yield from write_seqcount_end(cpu, s)


def read_section(cpu: int, s: Seqcount) -> Steps[None]:
    start = yield from read_seqcount_begin(cpu, s)
    yield from read_seqcount_retry(cpu, s, start)


@given(st.integers(0, 4), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(0, 1 << 30))
def test_the_laws_of_locks(writes: int, reads: list[int], seed: int) -> None:
    """One writer, as callers must see to."""
    programs: list[list[laws.Call]] = [[write_section] * writes, *[[read_section] * n for n in reads]]
    assert laws.run(seqcount_init, programs, seed).failure is None


class Pair:
    """Two words that belong together, written by one CPU and read by others."""

    def __init__(self, memory: str, readers: int) -> None:
        self.machine = Machine(memory_models.get(memory)(1 + readers))
        words = laws.Words(self.machine)
        self.s, self.x, self.y = seqcount_init(words, "s"), words.lock_word("x"), words.lock_word("y")
        self.retries = 0

    def writer(self, cpu: int) -> Steps[None]:
        value = 1
        while value <= 2:
            yield from write_seqcount_begin(cpu, self.s)
            yield Store(self.x, value)
            yield Store(self.y, value)
            yield from write_seqcount_end(cpu, self.s)
            value += 1

    def without_the_first_fence(self, cpu: int) -> Steps[None]:
        """Begin with no smp_wmb(): what is written may be seen before the count is odd."""
        yield Store(self.s.address, SeqcountState(1, cpu))
        yield Store(self.x, 1)
        yield Store(self.y, 1)
        yield from write_seqcount_end(cpu, self.s)

    def without_the_last_fence(self, cpu: int) -> Steps[None]:
        """End with no smp_wmb(): the count may be seen to be even before what was written is."""
        yield from write_seqcount_begin(cpu, self.s)
        yield Store(self.x, 1)
        yield Store(self.y, 1)
        yield Store(self.s.address, SeqcountState(2))

    def reader(self, cpu: int) -> Steps[None]:
        while True:
            start = yield from read_seqcount_begin(cpu, self.s)
            x = yield Load(self.x)
            y = yield Load(self.y)
            again = yield from read_seqcount_retry(cpu, self.s, start)
            if not again:
                break
            self.retries += 1
        if x != y:
            raise ModelError("torn", f"{x} and {y}")

    def hasty(self, cpu: int) -> Steps[None]:
        """Read without looking at the count afterwards."""
        yield from read_seqcount_begin(cpu, self.s)
        x = yield Load(self.x)
        y = yield Load(self.y)
        if x != y:
            raise ModelError("torn", f"{x} and {y}")

    def hasty_end(self, cpu: int) -> Steps[None]:
        """Look at the count again with no smp_rmb() before it: what was read may be newer than the count."""
        start = yield from read_seqcount_begin(cpu, self.s)
        x = yield Load(self.x)
        y = yield Load(self.y)
        value = yield Load(self.s.address)
        if seqcount_state(value).sequence == start and x != y:
            raise ModelError("torn", f"{x} and {y}")


Program = Callable[[Pair, int], Steps[None]]


def failures(memory: str, writer: Program, reader: Program, runs: int) -> tuple[set[str], int]:
    """Return the errors of random runs, and how often readers had to try again."""
    found, retries = set(), 0
    for seed in range(runs):
        pair = Pair(memory, 2)
        pair.machine.start([writer(pair, 0), reader(pair, 1), reader(pair, 2)])
        failure = execute(pair.machine, Seeded(seed)).failure
        found |= {failure.error} if failure else set()
        retries += pair.retries
    return found, retries


@pytest.mark.parametrize("memory", MEMORIES)
def test_what_is_read_without_a_retry_belongs_together(memory: str) -> None:
    found, retries = failures(memory, Pair.writer, Pair.reader, 400)
    assert found == set() and retries > 0


@pytest.mark.parametrize("memory", MEMORIES)
def test_who_does_not_look_again_reads_what_does_not(memory: str) -> None:
    assert failures(memory, Pair.writer, Pair.hasty, 400)[0] == {"torn"}


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (Pair.without_the_first_fence, Pair.reader),
        (Pair.without_the_last_fence, Pair.reader),
        (Pair.writer, Pair.hasty_end),
    ],
)
def test_each_fence_is_needed_under_arm64_alone(writer: Program, reader: Program) -> None:
    assert failures("sc", writer, reader, 300)[0] == set()
    assert failures("tso", writer, reader, 300)[0] == set()
    assert failures("arm64", writer, reader, 3000)[0] == {"torn"}


def end_of(*programs: Callable[[Pair, int], Steps[None]]) -> tuple[Pair, Failure | None]:
    pair = Pair("sc", len(programs) - 1)
    pair.machine.start([program(pair, cpu) for cpu, program in enumerate(programs)])
    return pair, execute(pair.machine, Follow([0] * 3)).failure


def test_two_writers_at_a_time_lose_count() -> None:
    """The count is read and written in two steps, so nobody but the caller keeps writers apart."""
    counts = set()
    for seed in range(200):
        pair = Pair("sc", 1)
        pair.machine.start([write_section(cpu, pair.s) for cpu in range(2)])
        assert execute(pair.machine, Seeded(seed)).failure is None
        counts.add(seqcount_state(pair.machine.memory.peek(pair.s.address)).sequence)
    assert 4 in counts and counts - {4}


def test_a_section_that_never_ends() -> None:
    def begins(pair: Pair, cpu: int) -> Steps[None]:
        yield from write_seqcount_begin(cpu, pair.s)

    pair, failure = end_of(begins)
    assert failure is None
    assert left(pair.machine.memory.peek(pair.s.address), "s") == "a write section of s never ended"
    _, failure = end_of(begins, Pair.reader)
    assert failure is not None and failure.error == NO_PROGRESS


def test_a_writer_that_waits_for_its_reader_is_a_deadlock() -> None:
    @dataclass(frozen=True)
    class UntilOne:
        def __call__(self, value: object) -> bool:
            return value == 1

        def blocked_by(self, value: object) -> tuple[int, ...]:
            return (1,)

    def writer(pair: Pair, cpu: int) -> Steps[None]:
        yield from write_seqcount_begin(cpu, pair.s)
        yield Await(pair.x, UntilOne())

    def reader(pair: Pair, cpu: int) -> Steps[None]:
        yield from read_seqcount_begin(cpu, pair.s)
        yield Store(pair.x, 1)

    _, failure = end_of(writer, reader)
    assert failure is not None
    assert (failure.error, failure.message) == (
        DEADLOCK,
        "CPU 0 in writer waits for CPU 1, CPU 1 in read_seqcount_begin waits for CPU 0",
    )
