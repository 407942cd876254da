"""Replaying a test case in a second process."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import ending, run
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ModelError, ProgramError, ScheduleError
from fuzzvm.machine.trace import digest
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.target import Code
from fuzzvm.verify.determinism.asked import Nondeterminism


@dataclass(frozen=True)
class Replaying:
    """Does a test case go the same way, to the same end by the same steps? `expected` is what `outcome` gave."""

    case: TestCase
    expected: tuple[str, str]

    def answered(self, mitigation: type[Mitigation], passes: int) -> Nondeterminism | None:
        """Return what is not the same, without a place."""
        for _ in range(passes):
            got = outcome(self.case, mitigation)
            if got[0] != self.expected[0]:
                return Nondeterminism(f"a replay in a second process gave {got[0]}, and not {self.expected[0]}")
            if got != self.expected:
                return Nondeterminism("a replay in a second process came to the same end by other steps")
        return None


def outcome(case: TestCase, code: Code) -> tuple[str, str]:
    """Return what a replay comes to in words, and the digest of its steps."""
    try:
        machine, execution = run(case, code, tracing=True)
    except (ProgramError, ScenarioError, ScheduleError, ModelError) as error:
        return str(error), ""
    failure = execution.failure
    said = "no failure" if failure is None else f"{failure.error} in {failure.function or 'the run as a whole'}"
    return said, digest(machine.trace or (), ending(failure))
