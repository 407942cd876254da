"""How locks are taken, over all schedules: a search that has found nothing may have seen orders that close a cycle.

Or a lock that an interrupt's handler waits for, and that is held where the interrupt may come.
"""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.scenario.system import System


def with_lock_order(system: System, verdict: Verdict, limits: Limits) -> Verdict:
    """Return a verdict that is `safe` only if no run takes its locks in orders that close a cycle, or unsafely.

    How programs take locks costs the search that found the verdict nothing. Where what all runs do together is an
    error, a second search within `limits` remembers what of it a run has done: the verdict is lock-order or
    irq-unsafe-lock, with a schedule of its own, where one run does all of it. Where no run does, the first verdict
    stands; where that was not seen to the end, it is not complete.
    """
    order = system.lock_order
    if verdict.verdict != "safe":
        return verdict
    order.watched = order.to_watch()
    if not order.watched:
        return verdict
    try:
        # no reduction knows what the oracles remember of orders
        found = verify(system, limits, reduce=False)
    finally:
        order.watched = frozenset()
    if found.verdict == "bug":
        return found
    if found.complete:
        return verdict
    return replace(verdict, complete=False, stopped=found.stopped, load_buffering=found.load_buffering)
