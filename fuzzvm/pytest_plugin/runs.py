"""What a marked test is given: a system, and ways to say what must come of searching it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.explore import campaign, engines
from fuzzvm.explore.engines import Budget
from fuzzvm.explore.exhaustive import Limits, Verdict, verify
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.errors import ProgramError
from fuzzvm.mitigations import registry
from fuzzvm.pytest_plugin.failures import NotAsExpectedError
from fuzzvm.report.story import tell
from fuzzvm.report.text import render
from fuzzvm.scenario import ordering_points, own, shipped
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System, default_memory


@dataclass(frozen=True)
class Asked:
    """One system that a marker asks for, and the engine to search it with."""

    name: str
    mitigation: type[Mitigation]
    scenario: Scenario
    memory: str
    engine: str
    without: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.scenario.name}-{self.memory}"


def systems(mark: pytest.Mark | None, where: str, root: Path) -> list[Asked]:
    """Return the systems that a test's marker asks for, each scenario under each memory model.

    Paths of mitigations count from `root`. Fails the test's collection, in one line, for what is not there.
    """
    if mark is None:
        pytest.fail(f"{where}: fuzzvm_run needs the marker fuzzvm, which says what to search", pytrace=False)
    try:
        return _asked(root, *mark.args, **mark.kwargs)
    except (TypeError, KeyError, registry.MitigationError, ScenarioError) as error:
        wrong = str(error.args[0] if error.args else error).replace("_asked()", "it")
    # outside, or pytest shows what it came from as well
    pytest.fail(f"{where}: marker fuzzvm: {wrong}", pytrace=False)


def _asked(
    root: Path,
    mitigation: str | type[Mitigation],
    scenarios: tuple[str | Scenario, ...] | list[str | Scenario] | None = None,
    memories: tuple[str, ...] | list[str] | None = None,
    engine: str = "pct",
    without: tuple[str, ...] | list[str] = (),
) -> list[Asked]:
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
        Asked(name, scheme, scenario, memory, engine, tuple(without))
        for scenario in chosen
        for memory in memories or [default_memory(scenario)]
    ]


def _mitigation(given: str | type[Mitigation], root: Path) -> tuple[str, type[Mitigation]]:
    if isinstance(given, str):
        return given, own_or_shipped(given, root)
    if not (isinstance(given, type) and issubclass(given, Mitigation)):
        raise TypeError(f"{given!r} is neither a mitigation's name nor its class")
    path = Path(inspect.getfile(given))
    shown = path.relative_to(root) if path.is_relative_to(root) else path
    return f"{shown}:{given.__qualname__}", given


def own_or_shipped(name: str, root: Path) -> type[Mitigation]:
    """Return the mitigation of that name; a path in it counts from `root`. Raises MitigationError."""
    return registry.get(str(root / name) if registry.is_path(name) else name)


def _scenario(given: str | Scenario, root: Path) -> Scenario:
    return given if isinstance(given, Scenario) else own.get(given, root)


class Run:
    """The system of one test. Each method says what must be, and raises NotAsExpectedError where it is not."""

    def __init__(
        self, asked: Asked, *, seconds: float, seed: int, findings: Path, record: Callable[[tuple[str, Any]], None]
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
        """Search for a bug for `--fuzzvm-seconds`; there must be none. What is found is saved."""
        finding = self._search(self._findings)
        if finding is None:
            return
        case = finding.minimised.case
        self._record(("fuzzvm_error", case.expect.error))
        self._record(("fuzzvm_saved", str(finding.path)))
        raise NotAsExpectedError(self._report(case, str(finding.path)))

    def must_fail(self, error: str | None = None) -> None:
        """Search for `--fuzzvm-seconds`; a bug must be found, one with this id where one is given."""
        finding = self._search(None)
        if finding is None:
            raise NotAsExpectedError(f"no bug found in {self} in {self._seconds:g} s")
        found = finding.minimised.case.expect.error
        if error is not None and found != error:
            raise NotAsExpectedError(f"{found} found in {self}, not {error}")

    def must_be_proven_safe(self, max_seconds: float | None = None, max_states: int | None = None) -> None:
        """Explore every schedule: none may fail, and nothing may be cut by the bounds."""
        verdict = self._verify(max_seconds, max_states)
        if verdict.failure is not None:
            self._record(("fuzzvm_error", verdict.failure.error))
            assert verdict.schedule is not None
            expect = Expectation("bug", verdict.failure.error, verdict.failure.function)
            asked = self._asked
            case = TestCase(asked.scenario, asked.name, asked.memory, verdict.schedule, expect, without=asked.without)
            raise NotAsExpectedError(self._report(case, "FILE"))
        if not verdict.complete:
            raise NotAsExpectedError(f"{self} is not proven safe: {verdict.stopped}, {verdict.states} states seen")
        self._record(("fuzzvm_states", verdict.states))

    def _search(self, corpus: Path | None) -> campaign.Finding | None:
        asked = self._asked
        engine = engines.get(asked.engine)
        if lacks := engine.unavailable():
            raise NotAsExpectedError(lacks)
        cell = campaign.Cell(
            asked.name, asked.mitigation, engine, (asked.scenario,), asked.memory, without=asked.without
        )
        try:
            result = campaign.run_cell(cell, Budget(seconds=self._seconds), self._seed, corpus)
        except ProgramError as error:
            raise NotAsExpectedError(str(error)) from error
        if result.interrupted:
            raise KeyboardInterrupt
        self._record(("fuzzvm_runs", result.search.runs))
        return result.findings[0] if result.findings else None

    def _verify(self, max_seconds: float | None, max_states: int | None) -> Verdict:
        asked = self._asked
        try:
            system = System(asked.scenario, asked.mitigation, asked.memory, asked.name, asked.without)
            return verify(system, Limits(max_states=max_states, max_seconds=max_seconds))
        except ProgramError as error:
            raise NotAsExpectedError(str(error)) from error

    def _report(self, case: TestCase, file: str) -> str:
        own = f" --mitigation {case.mitigation}" if registry.is_path(case.mitigation) else ""
        return f"{case.expect}\n{render(tell(case, self._asked.mitigation), f'fuzzvm replay {file}{own}')}"

    def __str__(self) -> str:
        return f"{self.mitigation}, {self.scenario.name}, {self.memory}"
