"""Engines: each runs systems until its budget is used up or a bug is found. One file each, found by its name here.

An engine whose library is missing says so in `unavailable`.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fuzzvm.machine.execution import Chooser, Execution, execute
from fuzzvm.machine.schedule import Schedule
from fuzzvm.machine.task import Task
from fuzzvm.runs.coverage import InterleavingCoverage
from fuzzvm.runs.happened import Happened
from fuzzvm.runs.walks.runs import Runs
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

T = TypeVar("T", bound=Task)

DEFAULT = "surw"
"""The engine where none is asked for. Others need fewer runs on the planted bugs under sc; under arm64 and tso, and for
images, they have not been compared with it (docs/benchmarks.md).
"""

COVERED_FIRST = 32
COVERED_EVERY = 8
"""Runs whose coverage is taken, where a search takes any: the first ones, and then one in so many. It costs a third."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may use: seconds, runs, or both; whichever ends first ends it."""

    seconds: float | None = None
    runs: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A failing run: of which task, by its number among those searched, and which run it was, counted from 1."""

    task: Task
    number: int
    execution: Execution
    run: int


@dataclass
class FuzzSearch:
    """What a search has done so far.

    `pairs` is how many pairs of conflicting operations were in the runs whose coverage was taken, and `undiscovered` an
    estimate of how many others there are: `fuzzvm.runs.estimate`.

    `tasks` are what is searched, for the engine to fill in; it puts a new task in the place of one that is outdated.
    """

    budget: Budget
    keep_going: bool = False
    seeds: Sequence[tuple[Scenario, Schedule]] = ()
    """Runs to begin with, for engines that mutate runs."""
    on_progress: Callable[[FuzzSearch], None] = lambda search: None
    coverage: InterleavingCoverage | None = None
    """Gets the coverage of the runs of engines that do not measure it themselves."""
    on_covered: Callable[[Execution], None] = lambda execution: None
    """Called after each run that `coverage` has taken."""
    on_found: Callable[[Found], None] = lambda found: None
    """Called for each failing run that is kept."""
    tasks: list[Task] = field(default_factory=list)
    interrupted: bool = False
    """Set from outside to end the search before its budget is used up."""
    runs: int = 0
    steps: int = 0
    pairs: int = 0
    undiscovered: float = 0.0
    found: list[Found] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    happened: Happened = field(default_factory=Happened)
    _kinds: set[tuple[int, str, str]] = field(default_factory=set)
    _walks: Runs | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the search began."""
        return time.monotonic() - self.started

    @property
    def over(self) -> bool:
        """Whether the search must end: interrupted, its budget used up, or found what it was to find."""
        if self.interrupted:
            return True
        if self.found and not self.keep_going:
            return True
        if self.budget.runs is not None and self.runs >= self.budget.runs:
            return True
        return self.budget.seconds is not None and self.seconds >= self.budget.seconds

    @property
    def _covers(self) -> bool:
        return self.runs < COVERED_FIRST or self.runs % COVERED_EVERY == 0

    def execute(self, task: Task, chooser: Chooser) -> Execution:
        """Return the next run of a task; `account` is to be called after it. Raises as `execution.execute` does."""
        if not isinstance(task, System):
            return execute(task.machine(), chooser)
        if self._walks is None:
            self._walks = Runs(self.happened)
        return self._walks.execute(task, chooser, self.coverage if self._covers else None)

    def account(self, task: Task, execution: Execution) -> bool:
        """Count a run; return whether it failed in a way not seen before in that task."""
        if self.coverage is not None and self._covers:
            self.on_covered(execution)
            self.pairs = len(self.coverage)
        self.runs += 1
        self.steps += execution.steps
        if isinstance(task, System):
            self.happened.ended(task)
        return execution.failure is not None and self.note(task, execution, self.runs)

    def note(self, task: Task, execution: Execution, run: int) -> bool:
        """Keep a run that fails in a new way; return whether it does. Raises ValueError for one that does not fail."""
        if execution.failure is None:
            raise ValueError("the run does not fail")
        number = next(number for number, one in enumerate(self.tasks) if one is task)
        kind = (number, execution.failure.error, execution.failure.function)
        if kind in self._kinds:
            return False
        self._kinds.add(kind)
        self.found.append(Found(task, number, execution, run))
        self.on_found(self.found[-1])
        return True


class EngineError(Exception):
    """An engine could not do its work, for a reason outside fuzzvm's model; the message is one line."""


class Engine(Protocol):
    """A way to search: `search` runs the systems in turn until the search is over."""

    name: str
    summary: str

    def unavailable(self) -> str:
        """Return '' where the engine can run, else one line on what it lacks."""

    def search(self, systems: Sequence[System], seed: int, search: FuzzSearch) -> None:
        """Run until `search.over`, and keep account of it in `search`. The same seed does the same runs."""


def rotation(systems: Sequence[T]) -> list[T]:
    """Return the systems in the order in which an engine takes them in turn, those with more CPUs more often.

    A third CPU multiplies the interleavings; a turn for each system alike would spend most runs where least is to
    be found.
    """
    turns = [(system.cpus - 1) ** 2 or 1 for system in systems]
    return [system for turn in range(max(turns)) for system, count in zip(systems, turns, strict=True) if turn < count]


def names() -> list[str]:
    """Return the names of the engines that there are."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name.removesuffix("_engine") for name in found if name.endswith("_engine"))


def get(name: str) -> Engine:
    """Return the engine of that name. Raises KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    engine: Engine = importlib.import_module(f"{__name__}.{name}_engine").ENGINE
    return engine
