"""What a test case contributes to a corpus: the pairs of conflicting operations that it covers, and how it fails."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import run
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.execution import Replay
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Schedule
from fuzzvm.runs.coverage import InterleavingCoverage


class CoveringReplay(Replay):
    """Follows a schedule and records its coverage."""

    def __init__(self, schedule: Schedule, coverage: InterleavingCoverage) -> None:
        super().__init__(schedule)
        self._coverage = coverage
        coverage.begin()

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = super().agent(enabled, machine)
        if agent < machine.memory.cpus:
            self._coverage.record(agent, machine)
        return agent


def features(case: TestCase, mitigation: type[Mitigation]) -> frozenset[Hashable]:
    """Return what a test case covers and how it fails, each together with the system that it runs on.

    The same pair of operations in another scenario, under another mitigation or memory model is another feature. A run
    that covers nothing has one feature, that its system runs: else nothing would speak for keeping it. Raises as
    `fuzzvm.corpus.replay.run` does.
    """
    system = (case.mitigation, case.memory, case.without, case.scenario.anonymous())
    coverage = InterleavingCoverage()
    _, execution = run(case, mitigation, chooser=CoveringReplay(case.schedule, coverage))
    found: set[Hashable] = {(system, pair) for pair in coverage.current}
    failure = execution.failure
    found.add((system, None if failure is None else (failure.error, failure.function)))
    return frozenset(found)
