"""RCU's callbacks, and the softirq that runs them after a grace period (kernel/rcu/tree.c, Linux 6.12).

The softirq that rcu_core() runs in is a CPU more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.interrupts import softirq_handle_begin, softirq_handle_end
from fuzzvm.kernel.locking.rcu import Rcu, synchronize_rcu
from fuzzvm.kernel.workqueue import Append, Work, WorkQueue, queue_no_more, state_of_open_queue, take_work
from fuzzvm.machine.ops import Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


def call_rcu(k: Kernel, callbacks: WorkQueue, head: Work) -> Steps[None]:
    """Have a callback run after a grace period that begins later than this; given twice, it runs twice.

    Raises RuntimeError as queue_work() does.
    """
    old = yield Rmw(callbacks.address, Append(head), Order.ACQUIRE_RELEASE, point="call-rcu")
    state_of_open_queue(callbacks, old)


@dataclass(frozen=True, slots=True)
class RcuCore:
    """The function of the softirq that runs callbacks."""

    rcu: Rcu

    def __call__(self, k: Kernel, queue: WorkQueue) -> Steps[None]:
        return rcu_core(k, self.rcu, queue)


def rcu_core(k: Kernel, rcu: Rcu, callbacks: WorkQueue) -> Steps[None]:
    """Take the callbacks that are there, wait for a grace period, run them; and again, to the end of the run."""
    while True:
        ready = yield from take_work(k, callbacks, everything=True)
        if not ready:
            break
        yield from synchronize_rcu(k.cpu, rcu)
        yield from rcu_do_batch(k, ready)
    yield from queue_no_more(k)


def rcu_do_batch(k: Kernel, ready: tuple[Work, ...]) -> Steps[None]:
    """Run callbacks whose grace period is over, in a softirq: none may sleep, and what locks they take is irq-safe.

    (rcu_cpu_kthread, which runs them with softirqs off, is there with rcutree.use_softirq=0 alone.)
    """
    yield from softirq_handle_begin()
    index = 0
    while index < len(ready):
        yield from ready[index].run(k)
        index += 1
    yield from softirq_handle_end()
