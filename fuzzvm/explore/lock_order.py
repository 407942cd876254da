"""The order of locks, over all schedules: a search that has found nothing may have seen orders that close a cycle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fuzzvm.explore.exhaustive import Verdict
from fuzzvm.kernel.contexts import in_cycles
from fuzzvm.scenario.system import System


def with_lock_order(system: System, verdict: Verdict, again: Callable[[], Verdict]) -> Verdict:
    """Return a verdict that is `safe` only if no run takes its locks in orders that close a cycle.

    The orders that programs take locks in cost the first search nothing. Where those of all runs together close a
    cycle, `again` searches once more, and remembers which of them a run has taken: the verdict is lock-order, with a
    schedule of its own, where one run takes all of them. Where no run does, the first verdict stands; where that was
    not seen to the end, it is not complete.
    """
    order = system.lock_order
    if verdict.verdict != "safe":
        return verdict
    order.watched = in_cycles(order.seen)
    if not order.watched:
        return verdict
    try:
        found = again()
    finally:
        order.watched = frozenset()
    if found.verdict == "bug":
        return found
    return verdict if found.complete else replace(verdict, complete=False, stopped=found.stopped)
