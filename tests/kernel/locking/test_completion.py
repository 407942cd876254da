"""fuzzvm.kernel.locking.completion: as many go on as were let go, and see what came before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.locking.completion import (
    UINT_MAX,
    Completion,
    CompletionState,
    complete,
    complete_all,
    completion_done,
    done,
    init_completion,
    reinit_completion,
    try_wait_for_completion,
    wait_for_completion,
)
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import NO_PROGRESS, Failure, ModelError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Load, Order, Rmw, Steps, Store
from fuzzvm.report.describe import Describer
from tests.kernel.locking import laws
from tests.support import Seeded, boot, run


@given(st.integers(0, 4), st.integers(1, 3), st.integers(0, 1 << 30))
def test_the_laws_of_locks(completions: int, waiters: int, seed: int) -> None:
    programs: list[list[laws.Call]] = [[complete] * completions, *[[wait_for_completion]] * waiters]
    machine = laws.run(init_completion, programs, seed)
    waiting = sum(machine.pending(1 + waiter) is not None for waiter in range(waiters))
    assert waiting == max(0, waiters - completions), "as many go on as were let go"


def ends(*programs: Callable[[int, Completion], Steps[None]], seed: int = 0) -> tuple[int, Failure | None]:
    """Run programs; return the count at the end, and what went wrong."""
    machine = Machine(memory_models.get("sc")(len(programs)))
    x = init_completion(laws.Words(machine), "x")
    machine.start([program(cpu, x) for cpu, program in enumerate(programs)])
    failure = execute(machine, Seeded(seed)).failure
    return done(machine.memory.peek(x.address)), failure


@pytest.mark.parametrize("seed", range(5))
def test_completing_all_is_for_all_and_for_ever(seed: int) -> None:
    def once_more(cpu: int, x: Completion) -> Steps[None]:
        yield from wait_for_completion(cpu, x)
        yield from complete(cpu, x)
        yield from wait_for_completion(cpu, x)

    assert ends(complete_all, once_more, once_more, seed=seed) == (UINT_MAX, None)


def test_who_does_not_wait() -> None:
    said: list[bool] = []

    def asks(cpu: int, x: Completion) -> Steps[None]:
        for call in (try_wait_for_completion, completion_done, complete, completion_done, try_wait_for_completion):
            result = yield from call(cpu, x)
            said.append(bool(result))
        yield from try_wait_for_completion(cpu, x)
        yield from complete(cpu, x)
        yield from complete(cpu, x)
        yield from reinit_completion(cpu, x)

    assert ends(asks) == (0, None)
    assert said == [False, False, False, True, True]


def test_a_wait_that_nobody_ends_is_no_progress() -> None:
    _, failure = ends(wait_for_completion)
    assert failure is not None and failure.error == NO_PROGRESS


def passes(memory: str, seed: int, release: bool, acquire: bool) -> Failure | None:
    """Return the error of a run in which data is written before a completion and read after it."""
    machine = Machine(memory_models.get(memory)(2))
    words = laws.Words(machine)
    x, data = init_completion(words, "x"), words.lock_word("data")

    def ordered(steps: Steps[None], as_it_is: bool) -> Steps[None]:
        op = next(steps)
        assert isinstance(op, Rmw)
        yield op if as_it_is else Rmw(op.address, op.update, Order.PLAIN, op.when)

    def writer() -> Steps[None]:
        yield Store(data, 1)
        yield from ordered(complete(0, x), release)

    def reader() -> Steps[None]:
        yield from ordered(wait_for_completion(1, x), acquire)
        value = yield Load(data)
        if value != 1:
            raise ModelError("early", "it is done, and is not seen to be")

    machine.start([writer(), reader()])
    return execute(machine, Seeded(seed)).failure


@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
@pytest.mark.parametrize(("release", "acquire"), [(True, True), (False, True), (True, False)])
def test_what_comes_before_is_seen_by_who_waited(memory: str, release: bool, acquire: bool) -> None:
    failures = [passes(memory, seed, release, acquire) for seed in range(300)]
    needed = memory == "arm64" and not (release and acquire)
    assert {failure.error for failure in failures if failure} == ({"early"} if needed else set())


def test_reports_say_what_it_holds() -> None:
    machine, _ = boot(cpus=2, tracing=True)
    x = init_completion(laws.Words(machine), "x")
    assert run(machine, wait_for_completion(0, x), complete(1, x), agents=[1, 0]) is None
    describer = Describer(machine)
    texts = [describer.step(step) for step in machine.trace or ()]
    assert texts == ["x: done for 1 (release)", "x: not done (acquire)"]
    assert CompletionState(UINT_MAX).in_words() == "done for all"
