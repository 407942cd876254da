"""The engine `hypothesis`: plans drawn by Hypothesis.

Hypothesis is asked for batches of examples, each with a seed of its own, and for generation alone: the minimiser of
this package shrinks better, since it knows what a context switch is. An example is what the plans of a few runs are
drawn from, and not of one run alone: to make an example takes Hypothesis several times as long as a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded

from fuzzvm.machine.errors import StoppedError
from fuzzvm.runs.engines import FuzzSearch, rotation
from fuzzvm.runs.plans.generate import PLANS
from fuzzvm.runs.plans.orders import FollowOrders, Orders
from fuzzvm.scenario.system import System

BATCH = 200
RUNS = 8
"""Runs whose plans are drawn from one example."""


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
        search.tasks = list(systems)
        known = {id(system): Orders() for system in systems}

        def one_run(source: Random) -> None:
            system = turns[search.runs % len(turns)]
            orders = known[id(system)]
            chooser = FollowOrders(orders.draw(source), orders)
            # for Hypothesis it would be a failing example
            with contextlib.suppress(StoppedError):
                execution = search.execute(system, chooser)
                chooser.end()
                search.account(system, execution)

        def one_batch(number: int) -> None:
            @seeded(number)
            @settings(
                max_examples=BATCH,
                phases=(Phase.generate,),
                deadline=None,
                database=None,
                verbosity=Verbosity.quiet,
                suppress_health_check=list(HealthCheck),
            )
            @given(PLANS)
            def examples(data: bytes) -> None:
                # the first example of a batch is zeros, whatever its seed
                source = Random(data + str(number).encode())
                for _ in range(RUNS):
                    if search.over:
                        raise _OverError
                    one_run(source)

            with contextlib.suppress(_OverError):
                examples()

        batch = 0
        while not search.over:
            one_batch(seed * 1_000_003 + batch)
            batch += 1
            search.on_progress(search)


ENGINE = HypothesisEngine()
