"""The engine `hypothesis`: plans drawn by Hypothesis, of bytes.

Hypothesis is asked for batches of examples, each with a seed of its own, and for generation alone: the minimiser of
this package shrinks better, since it knows what a context switch is. An example is what a plan is drawn from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from fuzzvm.machine.errors import StoppedError
from fuzzvm.runs.engines import FuzzSearch, rotation
from fuzzvm.runs.plans.generate import PLAN
from fuzzvm.runs.plans.orders import Bytes, FollowOrders, Orders
from fuzzvm.scenario.system import System

BATCH = 200


class _OverError(BaseException):
    """Ends a batch. Hypothesis takes an Exception for a failing example, and lets any other through."""


class HypothesisEngine:
    """Examples from Hypothesis."""

    name = "hypothesis"
    summary = "plans drawn by Hypothesis: for each place that is raced for, an order of the accesses to it"

    def unavailable(self) -> str:
        return ""

    def search(self, systems: Sequence[System], seed: int, search: FuzzSearch) -> None:
        turns = rotation(systems)
        known = {id(system): Orders() for system in systems}
        batch = 0
        while not search.over:

            @seeded(seed * 1_000_003 + batch)
            @settings(
                max_examples=BATCH,
                phases=(Phase.generate,),
                deadline=None,
                database=None,
                verbosity=Verbosity.quiet,
                suppress_health_check=list(HealthCheck),
            )
            @given(PLAN)
            def one_batch(data: bytes) -> None:
                if search.over:
                    raise _OverError
                system = turns[search.runs % len(turns)]
                orders = known[id(system)]
                chooser = FollowOrders(orders.draw(Bytes(data)), orders)
                # for Hypothesis it would be a failing example
                with contextlib.suppress(StoppedError):
                    execution = search.execute(system, chooser)
                    chooser.end()
                    search.account(system, execution)

            with contextlib.suppress(_OverError):
                one_batch()
            batch += 1
            search.on_progress(search)


ENGINE = HypothesisEngine()
