"""Runs test cases again, to the letter, and says whether the same came of them."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure, ScheduleError
from fuzzvm.machine.execution import Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations import registry
from fuzzvm.scenario.system import System


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of a replay. `problem` is one line, '' where it is what the test case expects."""

    case: TestCase
    got: Expectation | None
    problem: str

    @property
    def as_expected(self) -> bool:
        """Whether the run went as the test case says."""
        return not self.problem


def mitigation_of(case: TestCase, given: type[Mitigation] | None = None) -> type[Mitigation]:
    """Return the mitigation that a test case runs under: the one given, else the one that it names.

    Raises MitigationError for an unknown name, and for one named by a file that was not given: a corpus file
    alone never makes code run.
    """
    if given is not None:
        return given
    if registry.is_path(case.mitigation):
        raise registry.MitigationError(
            f"the test case names {case.mitigation}, which runs only where --mitigation {case.mitigation} says so"
        )
    return registry.get(case.mitigation)


def run(
    case: TestCase, mitigation: type[Mitigation], *, tracing: bool = False, chooser: Replay | None = None
) -> tuple[Machine, Execution]:
    """Run a test case's schedule; return the machine as it stands at the end, and the execution.

    `chooser` follows the schedule and looks at the machine meanwhile; by default nobody looks. Raises ScheduleError
    where the schedule does not fit, ScenarioError where the setup fails.
    """
    machine = System(case.scenario, mitigation, case.memory, without=case.without).machine(tracing=tracing)
    chooser = chooser or Replay(case.schedule)
    execution = execute(machine, chooser)
    chooser.finish()
    return machine, execution


def replay(case: TestCase, mitigation: type[Mitigation] | None = None) -> ReplayResult:
    """Run a test case and compare. Raises MitigationError, ScenarioError, ProgramError."""
    try:
        _, execution = run(case, mitigation_of(case, mitigation))
    except ScheduleError as error:
        return ReplayResult(case, None, f"no longer replays: {error}")
    got = Expectation.of(execution)
    return ReplayResult(case, got, "" if got == case.expect else f"expected {case.expect}, got {got}")


def trace_digest(case: TestCase, mitigation: type[Mitigation] | None = None) -> str:
    """Return the digest of a test case's trace and outcome. Raises as `replay` does, and ScheduleError."""
    machine, execution = run(case, mitigation_of(case, mitigation), tracing=True)
    return digest(machine.trace or (), ending(execution.failure))


def ending(failure: Failure | None) -> list[str]:
    """Return the outcome of a run as the lines that its digest takes in."""
    return ["safe"] if failure is None else [failure.error, failure.message, *failure.stack]
