"""Runs test cases again, to the letter, and says whether the same came of them."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.files.shell import word
from fuzzvm.kernel.counters import Counters
from fuzzvm.kernel.errors import LOCK_ORDER
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure, ScheduleError
from fuzzvm.machine.execution import Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations import registry
from fuzzvm.scenario.system import System
from fuzzvm.supervision.folder import same_folder


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What came of a replay. `problem` is one line, '' where it is what the test case expects."""

    case: TestCase
    got: Expectation | None
    problem: str
    counters: Counters | None = None
    """What the run executed, where that was asked for and the schedule fits."""

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
            f"the test case names {case.mitigation}, which runs only where --mitigation {word(case.mitigation)} says so"
        )
    return registry.get(case.mitigation)


@same_folder()
def run(
    case: TestCase, mitigation: type[Mitigation], *, tracing: bool = False, chooser: Replay | None = None
) -> tuple[Machine, Execution]:
    """Run a test case's schedule; return the machine as it stands at the end, and the execution.

    `chooser` follows the schedule and looks at the machine meanwhile; by default nobody looks. Raises ScheduleError
    where the schedule does not fit, ScenarioError where the setup fails.
    """
    system = System(case.scenario, mitigation, case.memory, without=case.without)
    if case.expect.error == LOCK_ORDER:
        system.lock_order.watched = None
    machine = system.machine(tracing=tracing)
    chooser = chooser or Replay(case.schedule)
    execution = execute(machine, chooser)
    chooser.finish()
    return machine, execution


def replay(case: TestCase, mitigation: type[Mitigation] | None = None, *, counting: bool = False) -> ReplayResult:
    """Run a test case and compare; with `counting`, count what it executes as well, which takes longer.

    Raises MitigationError, ScenarioError, ProgramError.
    """
    try:
        machine, execution = run(case, mitigation_of(case, mitigation), tracing=counting)
    except ScheduleError as error:
        return ReplayResult(case, None, f"no longer replays: {error}")
    got = Expectation.of(execution)
    problem = "" if got == case.expect else f"expected {case.expect}, got {got}"
    if not counting:
        return ReplayResult(case, got, problem)
    return ReplayResult(case, got, problem, counters_of(case, machine))


def counters_of(case: TestCase, machine: Machine) -> Counters:
    """Return what a run of a test case has executed, on a machine that traced it."""
    counters = Counters(machine.allocator, case.scenario.geometry())
    for step in machine.trace or ():
        counters.append(step)
    return counters


def trace_digest(case: TestCase, mitigation: type[Mitigation] | None = None) -> str:
    """Return the digest of a test case's trace and outcome. Raises as `replay` does, and ScheduleError."""
    machine, execution = run(case, mitigation_of(case, mitigation), tracing=True)
    return digest(machine.trace or (), ending(execution.failure))


def ending(failure: Failure | None) -> list[str]:
    """Return the outcome of a run as the lines that its digest takes in."""
    return ["safe"] if failure is None else [failure.error, failure.message, *failure.stack]
