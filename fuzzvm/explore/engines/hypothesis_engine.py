"""The engine `hypothesis`: schedules drawn by Hypothesis as priorities and their changes.

Hypothesis is asked for batches of examples, each with a seed of its own, and for generation alone: the minimiser of
this package shrinks better, since it knows what a context switch is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from fuzzvm.explore.engines import FuzzSearch
from fuzzvm.explore.generate import schedules
from fuzzvm.explore.priority_plan import FollowPriorities, PriorityPlan, touches_memory
from fuzzvm.machine.errors import StoppedError
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.scenario.system import System

BATCH = 200


class _OverError(BaseException):
    """Ends a batch. Hypothesis takes an Exception for a failing example, and lets any other through."""


class _CountAccesses:
    """The chooser that runs one CPU after the other and counts the memory accesses of the run."""

    def __init__(self) -> None:
        self.accesses = 0

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        self.accesses += touches_memory(machine, enabled[0])
        return enabled[0]

    def value(self, ways: int) -> int:
        return 0


def _accesses(system: System) -> int:
    count = _CountAccesses()
    execute(system.machine(), count)
    return count.accesses


class HypothesisEngine:
    """Examples from Hypothesis."""

    name = "hypothesis"
    summary = "schedules drawn by Hypothesis as priorities and their changes"

    def unavailable(self) -> str:
        return ""

    def search(self, systems: Sequence[System], seed: int, search: FuzzSearch) -> None:
        examples = st.one_of(
            [st.tuples(st.just(system), schedules(system.cpus, _accesses(system))) for system in systems]
        )
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
            @given(examples)
            def one_batch(example: tuple[System, PriorityPlan]) -> None:
                if search.over:
                    raise _OverError
                system, plan = example
                # for Hypothesis it would be a failing example
                with contextlib.suppress(StoppedError):
                    search.account(system, execute(search.machine(system), search.watched(FollowPriorities(plan))))

            with contextlib.suppress(_OverError):
                one_batch()
            batch += 1
            search.on_progress(search)


ENGINE = HypothesisEngine()
