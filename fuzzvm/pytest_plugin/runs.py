"""Ways to say what must come of searching a system."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fuzzvm.campaigns import plain
from fuzzvm.compiled.errors import ConversionError, ImageError
from fuzzvm.corpus.command import command, image_command
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import Limits, Verdict
from fuzzvm.exhaustive.limits import bounded_by
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.pytest_plugin import asked as asking
from fuzzvm.pytest_plugin.asked import AskedSystem, apart
from fuzzvm.pytest_plugin.failures import NotAsExpectedError
from fuzzvm.report.story import tell
from fuzzvm.report.text import render
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget
from fuzzvm.scenario.target import Code
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.verify.determinism.scheme import check
from fuzzvm.verify.matrix import Bounds
from fuzzvm.verify.system import verify_system

T = TypeVar("T")
_FAILS = (ProgramError, UserCodeError, StoppedError, plain.NotReproducibleError, ImageError, ConversionError)


@dataclass(frozen=True)
class Settings:
    """What the options of pytest say of each search; `record` takes a property of the test's report."""

    root: Path
    seconds: float
    seed: int
    findings: Path
    record: Callable[[tuple[str, Any]], None]

    def must_survive(self, *given: Any, **named: Any) -> None:
        """Search each system that the arguments, those of the marker, ask for, as `MarkedRun.must_survive` does."""
        try:
            systems = asking.asked(self.root, *given, **named)
        except asking.WRONG as error:
            wrong = asking.said_by(error)
            raise NotAsExpectedError(f"must_survive: {wrong}") from None
        if not systems:
            raise NotAsExpectedError("must_survive: there is no scenario to search")
        for system in systems:
            MarkedRun(system, self).must_survive()


class MarkedRun:
    """The system of one test. Each method says what must be, and raises NotAsExpectedError where it is not."""

    def __init__(self, asked: AskedSystem, settings: Settings) -> None:
        self.mitigation = asked.name
        self.scenario = asked.scenario
        self.memory = asked.memory
        self._asked = asked
        self._seconds = settings.seconds
        self._seed = settings.seed
        self._findings = settings.findings
        self._record = settings.record

    def must_survive(self) -> None:
        """Search for a bug for `--fuzzvm-seconds`; there must be none. What is found is saved.

        It also fails where something that the scenario is for happened in none of the runs, if these were enough. Where
        no run has come to its end, the search is begun again, with INSISTS times the seconds.
        """
        found = self._search(self._findings, self._seconds, plain.INSISTS * self._seconds)
        if found.never:
            never = ", ".join(found.never)
            raise NotAsExpectedError(f"vacuous: {self} is for what happened in none of {found.runs} runs: {never}")
        if not found.error:
            return
        self._record(("fuzzvm_error", found.error))
        self._record(("fuzzvm_saved", found.saved))
        raise NotAsExpectedError(found.report)

    def must_fail(self, error: str | None = None) -> None:
        """A bug must be found, one with this id where one is given.

        It is searched for until it is found, for INSISTS times `--fuzzvm-seconds`: a busy machine must not decide.
        """
        seconds = plain.INSISTS * self._seconds
        found = self._search(None, seconds)
        if not found.error:
            raise NotAsExpectedError(f"no bug found in {self} in {seconds:g} s")
        if error is not None and found.error != error:
            raise NotAsExpectedError(f"{found.error} found in {self}, not {error}")

    def must_be_proven_safe(self, max_seconds: float | None = None, max_states: int | None = None) -> None:
        """Explore every schedule: none may fail, nothing may be cut by the bounds, and the proof may not be vacuous."""
        limits = Limits(max_states=max_states, max_seconds=max_seconds)
        verdict, report = self._apart(lambda: _verify(self._asked, limits))
        if verdict.failure is not None:
            self._record(("fuzzvm_error", verdict.failure.error))
            raise NotAsExpectedError(report or f"{verdict.failure.error}; its schedule was not found within the bound")
        if not verdict.complete:
            raise NotAsExpectedError(f"{self} is not proven safe: {verdict.stopped}, {verdict.states} states seen")
        if verdict.missing:
            never = ", ".join(verdict.missing)
            raise NotAsExpectedError(f"vacuous: {self} is for what happened in no schedule: {never}")
        self._record(("fuzzvm_states", verdict.states))

    def _search(self, corpus: Path | None, *seconds: float) -> _Found:
        """Search for so many seconds; where that was no run, for as many as come next."""
        engine = engines.get(self._asked.engine)
        if lacks := engine.unavailable():
            raise NotAsExpectedError(lacks)
        for allowed in seconds:
            found = self._apart(partial(_search, self._asked, allowed, self._seed, corpus))
            if found.runs or found.error:
                self._record(("fuzzvm_runs", found.runs))
                return found
        raise NotAsExpectedError(f"no run of {self} came to its end in {seconds[-1]:g} s, so nothing is known")

    @staticmethod
    def _apart(function: Callable[[], T]) -> T:
        try:
            return apart(function)
        except _FAILS as error:
            raise NotAsExpectedError(str(error)) from error

    def __str__(self) -> str:
        return f"{self.mitigation}, {self.scenario.name}, {self.memory}"


@dataclass(frozen=True)
class _Found:
    """What came of a search: how many runs, and of the first finding its error, its file and its story.

    `never` are the cover points that the runs were enough to meet and have not, where there is no finding.
    """

    runs: int
    error: str = ""
    saved: str = ""
    report: str = ""
    never: tuple[str, ...] = ()


def _search(asked: AskedSystem, seconds: float, seed: int, corpus: Path | None) -> _Found:
    code = asked.code()
    end = time.monotonic() + seconds
    cell = plain.FuzzCell(asked.name, engines.get(asked.engine), (asked.target(code),))
    result = plain.run_cell(cell, Budget(seconds=seconds), seed, corpus, end=end)
    if not result.findings:
        never = [point for _, one in result.happened if one.vacuous for point in one.missing]
        return _Found(result.search.runs, never=tuple(never))
    finding = result.findings[0]
    case = finding.case
    return _Found(result.search.runs, case.expect.error, str(finding.path), _report(case, code, str(finding.path)))


def _verify(asked: AskedSystem, limits: Limits) -> tuple[Verdict, str]:
    """Return the verdict, and the story of the run that fails, '' where none is known."""
    code = asked.code()
    if not isinstance(code, type):
        return _verify_image(asked, code, limits)
    with bounded_by(limits):
        verdict, driving = verify_system(asked.target(code).system(), limits)
    check(code, [driving], limits.max_seconds)
    if verdict.failure is None or verdict.schedule is None:
        return verdict, ""
    expect = Expectation("bug", verdict.failure.error, verdict.failure.function)
    case = TestCase(asked.scenario, asked.name, asked.memory, verdict.schedule, expect, without=asked.without)
    return verdict, _report(case, code, "FILE")


def _verify_image(asked: AskedSystem, code: Code, limits: Limits) -> tuple[Verdict, str]:
    # imported here: ELF, DWARF and disassembly are needed for nothing else
    from fuzzvm.images.code import ImageCode
    from fuzzvm.report import compiled_story
    from fuzzvm.verify.images import verify_image

    assert isinstance(code, ImageCode)
    run = verify_image(code.image, asked.scenario, asked.memory, Bounds(limits))
    verdict = run.verdict
    if verdict.failure is None or verdict.schedule is None:
        return verdict, ""
    title = compiled_story.title(code.image, asked.memory)
    story = compiled_story.render(compiled_story.story_of(run.task, verdict.schedule), asked.scenario, title)
    return verdict, f"{Expectation('bug', verdict.failure.error, verdict.failure.function)}\n{story}"


def _report(case: TestCase, code: Code, file: str) -> str:
    if isinstance(code, type):
        return f"{case.expect}\n{render(tell(case, code), command('replay', file, case.mitigation))}"
    from fuzzvm.images.code import ImageCode
    from fuzzvm.report import compiled_story

    assert isinstance(code, ImageCode)
    task, schedule = code.with_fewer_steps(case)
    title = compiled_story.title(code.image, case.memory)
    story = compiled_story.render(compiled_story.story_of(task, schedule), case.scenario, title)
    return f"{case.expect}\n{story}\nreplay: {image_command('replay', file, code.folder)}"
