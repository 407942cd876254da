"""Work items and the kworker that runs them (kernel/workqueue.c, Linux 6.12).

A queue is one word that each call changes in one atomic step: what pool->lock and the PENDING bit protect. Its worker
is a CPU more, numbered after the scenario's, with `worker_thread` as its program. So that runs end, the word also
counts the CPUs that will queue nothing more: the worker returns once all have said so and nothing is left, as after a
flush_workqueue(). Workers are numbered as their queues were made at boot; work may queue more work on its own queue
and on later ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fuzzvm.machine.ops import Address, Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class Work(Protocol):
    """A work_struct with its function, or an rcu_head with its callback. Immutable, and compares by value."""

    def run(self, k: Kernel) -> Steps[None]:
        """Do the work, on the CPU of the worker."""


class QueueState(NamedTuple):
    """What the word holds: the work that waits, how many CPUs will queue no more, whether the worker has ended."""

    pending: tuple[Work, ...] = ()
    finished: int = 0
    ended: bool = False

    def in_words(self) -> str:
        """Return how much waits, and whether that is all, for reports."""
        return f"{len(self.pending) or 'nothing'} queued" + ("; the worker ends" if self.ended else "")


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A queue's word and name."""

    address: Address
    name: str


class ThreadFunction(Protocol):
    """The function of a kernel thread. Immutable."""

    def __call__(self, k: Kernel, queue: WorkQueue) -> Steps[None]:
        """Return its program: it serves the queue until nothing more will come."""


@dataclass(frozen=True, slots=True)
class KernelThread:
    """A CPU more, beside those of the scenario: what reports call it, the queue that it serves, its function."""

    name: str
    queue: WorkQueue
    function: ThreadFunction


def queue_state(value: object) -> QueueState:
    """Return what a word holds; memory starts as 0, which is an empty queue."""
    return value if isinstance(value, QueueState) else QueueState()


@dataclass(frozen=True, slots=True)
class _Insert:
    """Queue work, unless it is queued already: the PENDING bit."""

    work: Work

    def __call__(self, value: object) -> QueueState:
        queue = queue_state(value)
        return queue if self.work in queue.pending else queue._replace(pending=(*queue.pending, self.work))


@dataclass(frozen=True, slots=True)
class Append:
    """Queue work, whatever is queued already."""

    work: Work

    def __call__(self, value: object) -> QueueState:
        queue = queue_state(value)
        return queue._replace(pending=(*queue.pending, self.work))


@dataclass(frozen=True, slots=True)
class _Take:
    """Take the first work, or all; taking nothing is the worker's end."""

    all: bool

    def __call__(self, value: object) -> QueueState:
        queue = queue_state(value)
        if not queue.pending:
            return queue._replace(ended=True)
        return queue._replace(pending=() if self.all else queue.pending[1:])


@dataclass(frozen=True, slots=True)
class _Finish:
    def __call__(self, value: object) -> QueueState:
        queue = queue_state(value)
        return queue._replace(finished=queue.finished + 1)


@dataclass(frozen=True, slots=True)
class WorkOrEnd:
    """Holds once there is work, or none will come any more. Nobody is to blame for the wait: no edge of a cycle."""

    producers: int

    def __call__(self, value: object) -> bool:
        queue = queue_state(value)
        return bool(queue.pending) or queue.finished == self.producers

    def blocked_by(self, value: object) -> tuple[int, ...]:
        return ()


def queue_work(k: Kernel, queue: WorkQueue, work: Work) -> Steps[bool]:
    """Queue work; return whether that was done, False where it is queued already.

    Either way what came before is seen by the worker when it runs the work (the comment of queue_work_on). Raises
    RuntimeError where the worker has ended: work queues more work on its own queue and on later ones only.
    """
    old = yield Rmw(queue.address, _Insert(work), Order.ACQUIRE_RELEASE)
    return work not in state_of_open_queue(queue, old).pending


def state_of_open_queue(queue: WorkQueue, value: object) -> QueueState:
    """Return what the word of a queue held. Raises RuntimeError where its worker has ended."""
    state = queue_state(value)
    if state.ended:
        raise RuntimeError(f"work is queued on {queue.name}, whose worker has ended: make that queue later, in attach")
    return state


def take_work(k: Kernel, queue: WorkQueue, *, everything: bool = False) -> Steps[tuple[Work, ...]]:
    """Wait for work and take the first, or everything; nothing where none will come any more. For its worker alone."""
    # whoever has a lower number may queue: the scenario's CPUs, and the workers of earlier queues
    old = yield Rmw(queue.address, _Take(everything), Order.ACQUIRE_RELEASE, when=WorkOrEnd(k.cpu))
    pending = queue_state(old).pending
    return pending if everything else pending[:1]


@dataclass(frozen=True, slots=True)
class Kworker:
    """The function of a kworker."""

    def __call__(self, k: Kernel, queue: WorkQueue) -> Steps[None]:
        return worker_thread(k, queue)


def worker_thread(k: Kernel, queue: WorkQueue) -> Steps[None]:
    """Run what is queued, one after the other, to the end of the run."""
    while True:
        taken = yield from take_work(k, queue)
        if not taken:
            break
        yield from taken[0].run(k)
    yield from queue_no_more(k)


def queue_no_more(k: Kernel) -> Steps[None]:
    """Say to the workers with higher numbers that this CPU will queue nothing more."""
    index = max(0, k.cpu + 1 - k.nr_cpus)
    while index < len(k.threads):
        yield Rmw(k.threads[index].queue.address, _Finish(), Order.RELEASE)
        index += 1
