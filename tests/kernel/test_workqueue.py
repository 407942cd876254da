"""fuzzvm.kernel.workqueue: what is queued is run, once for each time that it was not queued already, and runs end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.workqueue import Kworker, QueueState, WorkOrEnd, WorkQueue, queue_state, queue_work
from fuzzvm.machine.errors import NO_PROGRESS, ProgramError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Rmw, Steps
from fuzzvm.report.describe import Describer
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.support import Follow, Seeded, executions


@dataclass(frozen=True, slots=True)
class Add:
    """Work that counts how often it ran, and may queue itself or other work after that."""

    counter: Address
    then: tuple[WorkQueue, Add] | None = None

    def run(self, k: Kernel) -> Steps[None]:
        yield Rmw(self.counter, _plus_one)
        if self.then is not None:
            yield from queue_work(k, *self.then)


def _plus_one(old: int) -> int:
    return old + 1


class Queues(Mitigation):
    """Every walk queues one piece of work, of which each CPU has its own."""

    name = "queues"
    counters: tuple[Address, ...]
    queues: tuple[WorkQueue, ...]
    number: ClassVar[int] = 1
    works: ClassVar[Callable[[Queues, int], Add]] = lambda self, cpu: Add(self.counters[cpu])
    to: ClassVar[int] = 0

    def attach(self, boot: Boot) -> None:
        self.counters = tuple(boot.list_head(f"counter {cpu}") for cpu in range(4))
        self.queues = tuple(boot.kernel_thread(f"kworker/{n}", f"wq {n}", Kworker()) for n in range(self.number))

    def after_walk(self, k: Kernel, mm: Any, token: Any) -> Steps[None]:
        yield from queue_work(k, self.queues[self.to], self.works(k.cpu))


def scenario(*walks: int) -> Scenario:
    return Scenario("arm64", "4K", 3, 2, (), tuple((CheckWxPages(),) * count for count in walks))


def counts(machine: Machine, system: System) -> list[int]:
    scheme = system.kernel.mitigation
    assert isinstance(scheme, Queues)
    return [machine.memory.peek(counter) for counter in scheme.counters]  # type: ignore[misc]


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=3), st.integers(0, 1000), st.sampled_from(["sc", "tso", "arm64"])
)
def test_all_that_is_queued_is_run_before_the_end(walks: list[int], seed: int, memory: str) -> None:
    system = System(scenario(*walks), Queues, memory)
    machine = system.machine()
    assert execute(machine, Seeded(seed)).failure is None
    for cpu, times in enumerate(walks):
        # twice on the queue at a time is once
        assert (times > 0) <= counts(machine, system)[cpu] <= times
    assert queue_state(machine.memory.peek(system.kernel.threads[0].queue.address)).pending == ()


def test_in_some_schedule_work_that_is_queued_twice_is_run_once() -> None:
    system = System(scenario(2), Queues, "sc")
    seen = set()
    for seed in range(200):
        machine = system.machine()
        execute(machine, Seeded(seed))
        seen.add(counts(machine, system)[0])
    assert seen == {1, 2}


def test_the_exhaustive_search_finds_an_end_to_every_run() -> None:
    verdict = verify(System(scenario(1, 1), Queues, "sc"))
    assert verdict.complete and verdict.verdict == "safe"


class Forgets(Queues):
    """A worker that leaves its first work where it is."""

    name = "forgets"

    def attach(self, boot: Boot) -> None:
        super().attach(boot)
        queue = boot.kernel_thread("forgetful", "wq forgotten", _never)
        self.queues = (queue,)


def _never(k: Kernel, queue: WorkQueue) -> Steps[None]:
    yield Rmw(queue.address, _nothing, when=_Never())


def _nothing(value: object) -> object:
    return value


@dataclass(frozen=True)
class _Never:
    def __call__(self, value: object) -> bool:
        return False

    def blocked_by(self, value: object) -> tuple[int, ...]:
        return ()


def test_a_worker_that_does_not_end_is_no_progress() -> None:
    failures = {run.failure.error for run in executions(System(scenario(1), Forgets, "sc").machine, 1) if run.failure}
    assert failures == {NO_PROGRESS}


class QueuesItself(Queues):
    """Work that queues other work on its own queue."""

    name = "queues-itself"
    works = lambda self, cpu: Add(self.counters[0], (self.queues[0], Add(self.counters[1])))  # noqa: E731


class QueuesOnward(Queues):
    """Work on the first queue that queues other work on the second."""

    name = "queues-onward"
    number = 2
    works = lambda self, cpu: Add(self.counters[0], (self.queues[1], Add(self.counters[1])))  # noqa: E731


class QueuesBack(QueuesOnward):
    """Work on the second queue that queues other work on the first."""

    name = "queues-back"
    to = 1
    works = lambda self, cpu: Add(self.counters[0], (self.queues[0], Add(self.counters[1])))  # noqa: E731


@pytest.mark.parametrize("scheme", [QueuesItself, QueuesOnward])
def test_work_may_queue_work_on_its_own_queue_and_on_later_ones(scheme: type[Queues]) -> None:
    system = System(scenario(1, 0), scheme, "sc")
    for run in executions(system.machine, 1):
        assert run.failure is None
    for seed in range(50):
        machine = system.machine()
        execute(machine, Seeded(seed))
        assert counts(machine, system)[:2] == [1, 1]


def test_work_that_comes_too_late_is_refused() -> None:
    with pytest.raises(ProgramError, match="whose worker has ended"):
        for run in executions(System(scenario(1), QueuesBack, "sc").machine, 2):
            assert run.failure is None


def test_threads_are_numbered_after_the_scenarios_cpus() -> None:
    system = System(scenario(1, 1), QueuesOnward, "sc")
    assert system.cpus == 4
    assert Describer(system.machine()).cpu_names == ("CPU 0", "CPU 1", "kworker/0", "kworker/1")
    assert len(system.programs()) == 4


def test_a_scheme_without_threads_has_no_step_more() -> None:
    system = System(scenario(1), Mitigation, "sc", "none")
    assert system.cpus == 1
    execution = execute(system.machine(tracing=True), Follow())
    machine = system.machine(tracing=True)
    execute(machine, Follow())
    assert not any("queue_no_more" in step.stack for step in machine.trace or ())
    assert execution.failure is None


def test_work_from_boot_waits_for_the_worker() -> None:
    """Setup runs on CPU 0, before the machine starts: it may queue, and lets go of no thread."""
    found = Scenario("arm64", "4K", 3, 2, (CatKernelPageTables(), Vmap(0, 1)), ((),))
    system = System(found, Queues, "sc")
    state = queue_state(system.booted().memory.peek(system.kernel.threads[0].queue.address))
    assert len(state.pending) == 1 and state.finished == 0
    machine = system.machine()
    assert execute(machine, Follow()).failure is None
    assert counts(machine, system)[0] == 1


def test_what_a_worker_waits_for() -> None:
    ready = WorkOrEnd(2)
    assert not ready(0) and not ready(QueueState((), 1))
    assert ready(QueueState((), 2)) and ready(QueueState((Add(1),), 0))
    assert ready.blocked_by(0) == ()
