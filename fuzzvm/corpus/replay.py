"""Runs test cases again, to the letter, and says whether the same came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.files.shell import word
from fuzzvm.kernel.counters import Counters
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import Failure, ScheduleError
from fuzzvm.machine.execution import MAX_STEPS, Execution, Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.task import Task, settled
from fuzzvm.machine.trace import digest
from fuzzvm.mitigations import registry
from fuzzvm.scenario.target import Code, Target
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


Given: TypeAlias = Mapping[str, Code]
"""The user's own mitigations, by the names that test cases have for them, and images by their digests."""


def given_for(case: TestCase, given: Given) -> Code | None:
    """Return what a test case is given to run; an image that is not its own where its own is not there."""
    others = () if case.image is None else (code for code in given.values() if not isinstance(code, type))
    return given.get(case.code, next(iter(others), None))


def code_of(case: TestCase, given: Code | None = None) -> Code:
    """Return the code that a test case runs: what is given, else the mitigation that it names.

    Raises MitigationError for an unknown name, for a mitigation named by a file that was not given, as a corpus file
    alone never makes code run, for an image that was not given, and for one that is not the image of the test case.
    """
    if case.image is None:
        if given is not None and not isinstance(given, type):
            raise registry.MitigationError(f"the test case is of mitigation {case.mitigation}, and of no image")
        return mitigation_of(case, given)
    if given is None or isinstance(given, type):
        raise registry.MitigationError(
            f"the test case is of {case.image}, which runs only where --image DIR gives it; it is built by: "
            f"{case.image.build}"
        )
    if given.digest != case.image.digest:
        raise registry.MitigationError(f"the test case is of image {case.image.digest}, and --image has {given.digest}")
    return given


def mitigation_of(case: TestCase, given: type[Mitigation] | None = None) -> type[Mitigation]:
    """Return the mitigation that a test case runs under: the one given, else the one that it names.

    Raises MitigationError as `code_of` does, and for every test case of an image.
    """
    if case.image is not None:
        raise registry.MitigationError(f"the test case is of {case.image}: that is not there for images")
    if given is not None:
        return given
    if registry.is_path(case.mitigation):
        raise registry.MitigationError(
            f"the test case names {case.mitigation}, which runs only where --mitigation {word(case.mitigation)} says so"
        )
    return registry.get(case.mitigation)


@same_folder()
def run(
    case: TestCase, code: Code, *, tracing: bool = False, chooser: Replay | None = None
) -> tuple[Machine, Execution]:
    """Run a test case's schedule; return the machine as it stands at the end, and the execution.

    `chooser` follows the schedule and looks at the machine meanwhile; by default nobody looks. Raises ScheduleError
    where the schedule does not fit, ScenarioError where the setup fails.
    """
    task = Target(code, case.scenario, case.memory, case.without).task_ending(case.expect.error)

    def followed(task: Task) -> tuple[Machine, Execution, Replay]:
        following = chooser or Replay(case.schedule)
        machine = task.machine(tracing=tracing)
        # a run is without end at MAX_STEPS; all accesses are steps where the code is an image's, so that has more
        most = MAX_STEPS if len(case.schedule) <= MAX_STEPS else len(case.schedule) + 1
        return machine, execute(machine, following, most), following

    machine, execution, following = settled(task, followed)[1]
    following.finish()
    return machine, execution


def replay(case: TestCase, code: Code | None = None, *, counting: bool = False) -> ReplayResult:
    """Run a test case and compare; with `counting`, count what it executes as well, which takes longer.

    What an image executes is not counted.

    Raises MitigationError, ScenarioError, ProgramError.
    """
    try:
        machine, execution = run(case, code_of(case, code), tracing=counting)
    except ScheduleError as error:
        return ReplayResult(case, None, f"no longer replays: {error}")
    got = Expectation.of(execution)
    problem = "" if got == case.expect else f"expected {case.expect}, got {got}"
    if not counting or case.image is not None:
        return ReplayResult(case, got, problem)
    return ReplayResult(case, got, problem, counters_of(case, machine))


def counters_of(case: TestCase, machine: Machine) -> Counters:
    """Return what a run of a test case has executed, on a machine that traced it."""
    counters = Counters(machine.allocator, case.scenario.geometry())
    for step in machine.trace or ():
        counters.append(step)
    return counters


def trace_digest(case: TestCase, code: Code | None = None) -> str:
    """Return the digest of a test case's trace and outcome. Raises as `replay` does, and ScheduleError."""
    machine, execution = run(case, code_of(case, code), tracing=True)
    return digest(machine.trace or (), ending(execution.failure))


def ending(failure: Failure | None) -> list[str]:
    """Return the outcome of a run as the lines that its digest takes in."""
    return ["safe"] if failure is None else [failure.error, failure.message, *failure.stack]
