"""What a marked test is given: a system, and ways to say what must come of searching it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fuzzvm.campaigns import plain
from fuzzvm.corpus.command import command
from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import Limits, Verdict
from fuzzvm.exhaustive.limits import bounded_by
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.blame import blamed
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.mitigations import registry
from fuzzvm.pytest_plugin.failures import NotAsExpectedError
from fuzzvm.report.story import tell
from fuzzvm.report.text import render
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget
from fuzzvm.scenario import ordering_points, own, shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import default_memory
from fuzzvm.scenario.target import Target
from fuzzvm.supervision import inside
from fuzzvm.supervision.call import call
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.verify.determinism.scheme import check
from fuzzvm.verify.system import verify_system

T = TypeVar("T")


@dataclass(frozen=True)
class MarkedSystem:
    """One system that a marker asks for, and the engine to search it with.

    `mitigation` is the class, or where to load it from: that runs code of the user, so it is not done in pytest's own
    process.
    """

    name: str
    mitigation: str | type[Mitigation]
    scenario: Scenario
    memory: str
    engine: str
    without: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scenario.name}-{self.memory}"

    def scheme(self) -> type[Mitigation]:
        """Return the mitigation; called where user code may run. Raises MitigationError."""
        if isinstance(self.mitigation, str):
            return registry.get(self.mitigation)
        inside.watch(inspect.getfile(self.mitigation))
        return self.mitigation

    def target(self, scheme: type[Mitigation]) -> Target:
        """Return what is searched, given the mitigation."""
        return Target(scheme, self.scenario, self.memory, self.without, self.name)


def systems(mark: pytest.Mark | None, where: str, root: Path) -> list[MarkedSystem]:
    """Return the systems that a test's marker asks for, each scenario under each memory model.

    Paths of mitigations count from `root`. Fails the test's collection, in one line, for what is not there.
    """
    if mark is None:
        pytest.fail(f"{where}: fuzzvm_run needs the marker fuzzvm, which says what to search", pytrace=False)
    try:
        return _asked(root, *mark.args, **mark.kwargs)
    except (TypeError, KeyError, registry.MitigationError, ScenarioError, UserCodeError) as error:
        wrong = str(error.args[0] if error.args else error).replace("_asked()", "it")
    # outside, or pytest shows what it came from as well
    pytest.fail(f"{where}: marker fuzzvm: {wrong}", pytrace=False)


def _asked(
    root: Path,
    mitigation: str | type[Mitigation],
    scenarios: tuple[str | Scenario, ...] | list[str | Scenario] | None = None,
    memories: tuple[str, ...] | list[str] | None = None,
    engine: str = engines.DEFAULT,
    without: tuple[str, ...] | list[str] = (),
) -> list[MarkedSystem]:
    name, scheme = _mitigation(mitigation, root)
    chosen = list(shipped.shipped().values()) if scenarios is None else [_scenario(given, root) for given in scenarios]
    for memory in memories or ():
        if memory not in memory_models.names():
            raise KeyError(f"no memory model {memory!r}; there are {', '.join(memory_models.names())}")
    if engine not in engines.names():
        raise KeyError(f"no engine {engine!r}; there are {', '.join(engines.names())}")
    for point in without:
        if point not in ordering_points.names():
            raise KeyError(f"no ordering point {point!r}; there are {', '.join(ordering_points.names())}")
    return [
        MarkedSystem(name, scheme, scenario, memory, engine, tuple(without))
        for scenario in chosen
        for memory in memories or [default_memory(scenario)]
    ]


def _mitigation(given: str | type[Mitigation], root: Path) -> tuple[str, str | type[Mitigation]]:
    if isinstance(given, str):
        spec = place_of(given, root)
        apart(lambda: registry.get(spec).name)
        return given, spec
    if not (isinstance(given, type) and issubclass(given, Mitigation)):
        raise TypeError(f"{given!r} is neither a mitigation's name nor its class")
    path = Path(inspect.getfile(given))
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return f"{shown}:{given.__qualname__}", given


def place_of(name: str, root: Path) -> str:
    """Return what `registry.get` takes for the mitigation of that name; a path in it counts from `root`."""
    return str(root / name) if registry.is_path(name) else name


def apart(function: Callable[[], T]) -> T:
    """Return what a function returns that runs code of the user: it is called in a process of its own.

    Raises UserCodeError where that code does not come to an end, or has ended the process.
    """
    return call(function, blamed)


def _scenario(given: str | Scenario, root: Path) -> Scenario:
    return given if isinstance(given, Scenario) else own.get(given, root)


class MarkedRun:
    """The system of one test. Each method says what must be, and raises NotAsExpectedError where it is not."""

    def __init__(
        self,
        asked: MarkedSystem,
        *,
        seconds: float,
        seed: int,
        findings: Path,
        record: Callable[[tuple[str, Any]], None],
    ) -> None:
        self.mitigation = asked.name
        self.scenario = asked.scenario
        self.memory = asked.memory
        self._asked = asked
        self._seconds = seconds
        self._seed = seed
        self._findings = findings
        self._record = record

    def must_survive(self) -> None:
        """Search for a bug for `--fuzzvm-seconds`; there must be none. What is found is saved.

        It also fails where something that the scenario is for happened in none of the runs, if these were enough.
        """
        found = self._search(self._findings)
        if found.never:
            never = ", ".join(found.never)
            raise NotAsExpectedError(f"vacuous: {self} is for what happened in none of {found.runs} runs: {never}")
        if not found.error:
            return
        self._record(("fuzzvm_error", found.error))
        self._record(("fuzzvm_saved", found.saved))
        raise NotAsExpectedError(found.report)

    def must_fail(self, error: str | None = None) -> None:
        """Search for `--fuzzvm-seconds`; a bug must be found, one with this id where one is given."""
        found = self._search(None)
        if not found.error:
            raise NotAsExpectedError(f"no bug found in {self} in {self._seconds:g} s")
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

    def _search(self, corpus: Path | None) -> _Found:
        engine = engines.get(self._asked.engine)
        if lacks := engine.unavailable():
            raise NotAsExpectedError(lacks)
        found = self._apart(lambda: _search(self._asked, self._seconds, self._seed, corpus))
        self._record(("fuzzvm_runs", found.runs))
        if not (found.runs or found.error):
            raise NotAsExpectedError(f"no run of {self} came to its end in {self._seconds:g} s, so nothing is known")
        return found

    @staticmethod
    def _apart(function: Callable[[], T]) -> T:
        try:
            return apart(function)
        except (ProgramError, UserCodeError, StoppedError, plain.NotReproducibleError) as error:
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


def _search(asked: MarkedSystem, seconds: float, seed: int, corpus: Path | None) -> _Found:
    scheme = asked.scheme()
    end = time.monotonic() + seconds
    cell = plain.FuzzCell(asked.name, engines.get(asked.engine), (asked.target(scheme),))
    result = plain.run_cell(cell, Budget(seconds=seconds), seed, corpus, end=end)
    if not result.findings:
        never = [point for _, one in result.happened if one.vacuous for point in one.missing]
        return _Found(result.search.runs, never=tuple(never))
    finding = result.findings[0]
    case = finding.case
    return _Found(result.search.runs, case.expect.error, str(finding.path), _report(case, scheme, str(finding.path)))


def _verify(asked: MarkedSystem, limits: Limits) -> tuple[Verdict, str]:
    """Return the verdict, and the story of the run that fails, '' where none is known."""
    with bounded_by(limits):
        scheme = asked.scheme()
        verdict, question = verify_system(asked.target(scheme).system(), limits)
    check(scheme, [question], limits.max_seconds)
    if verdict.failure is None or verdict.schedule is None:
        return verdict, ""
    expect = Expectation("bug", verdict.failure.error, verdict.failure.function)
    case = TestCase(asked.scenario, asked.name, asked.memory, verdict.schedule, expect, without=asked.without)
    return verdict, _report(case, scheme, "FILE")


def _report(case: TestCase, scheme: type[Mitigation], file: str) -> str:
    return f"{case.expect}\n{render(tell(case, scheme), command('replay', file, case.mitigation))}"
