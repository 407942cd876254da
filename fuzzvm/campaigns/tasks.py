"""The tasks of a campaign, what comes of them, and the function that runs them: all picklable.

A task is complete in itself: it gives the same result in any process, the first time or the third. Only its CPU seconds
differ.
"""

from __future__ import annotations

import functools
import hashlib
import resource
import time
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import CodeType
from typing import TypeAlias, TypeVar

from fuzzvm.campaigns.guilty import GuiltyPair, guilty_pair
from fuzzvm.campaigns.plain import bounded_search
from fuzzvm.campaigns.settle import NotTheSameError, settle
from fuzzvm.corpus.format import TestCase
from fuzzvm.machine.blame import blamed
from fuzzvm.machine.errors import ProgramError, ScheduleError
from fuzzvm.machine.execution import Execution
from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.coverage import InterleavingCoverage, Pair
from fuzzvm.runs.engines import Budget, EngineError, FuzzSearch
from fuzzvm.runs.happened import Happened
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.system import System
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.supervision.folder import same_folder
from fuzzvm.verify.determinism.elsewhere import NondeterministicSchemeError
from fuzzvm.verify.matrix import Cell

R = TypeVar("R")

SYSTEMS_KEPT = 512
"""Systems that a process keeps booted; a boot takes as long as ten runs."""


@dataclass(frozen=True, slots=True)
class SearchTask:
    """So many runs of a target under an engine, from a seed of its own; fewer where `seconds` are over before."""

    number: int
    target: Cell
    engine: str
    seed: int
    runs: int
    seconds: float | None = None

    def __str__(self) -> str:
        return (
            f"task {self.number} ({self.engine}, seed {self.seed}, {self.runs} runs of {self.target.mitigation} in "
            f"{self.target.scenario.name or 'a scenario'}, {self.target.memory})"
        )


@dataclass(frozen=True, slots=True)
class SettleTask:
    """To check a failing run and to minimise it, for `seconds`. `found` says in words where it comes from."""

    number: int
    case: TestCase
    found: str
    seconds: float | None = None

    def __str__(self) -> str:
        return f"minimising what was {self.found} ({self.case.mitigation}, {self.case.memory})"


CampaignTask: TypeAlias = SearchTask | SettleTask


@dataclass(frozen=True, slots=True)
class Failing:
    """A failing run of a search: the how many-th of its task, counted from 1."""

    run: int
    case: TestCase
    pair: GuiltyPair
    message: str


@dataclass(frozen=True, slots=True)
class FirstToCover:
    """A run, and the pairs that no run of the same task had covered before."""

    case: TestCase
    pairs: frozenset[int]


@dataclass(frozen=True, slots=True)
class Searched:
    """What came of a search. `failing` has the first run of each way to fail.

    `cover` has the cover points that the target is for, and whether a run has met each.
    """

    runs: int
    steps: int
    cpu_seconds: float
    covered: tuple[FirstToCover, ...]
    failing: tuple[Failing, ...]
    cover: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """A finding: it failed the same way twice in another process, before it was minimised and after."""

    case: TestCase
    proven: bool
    pair: GuiltyPair
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class NotTheSame:
    """A failing run that went another way when it was run again: `what` happened instead, in one line."""

    case: TestCase
    what: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A task that cannot be run, because of what the user can do something about: one line."""

    message: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """A task that raised what it must not: a bug of fuzzvm. `text` is the traceback."""

    text: str


CampaignResult: TypeAlias = Searched | Settled | NotTheSame | Broken | Crashed


def perform(task: CampaignTask) -> CampaignResult:
    """Run a task. Raises nothing, as `guarded`."""
    return guarded(task, lambda: _search(task) if isinstance(task, SearchTask) else _settle(task))


def guarded(task: object, work: Callable[[], R]) -> R | Broken | Crashed:
    """Do work that runs a mitigation, and return what comes of it; `task` is what a message calls it.

    Raises nothing: whatever goes wrong is a result, as most exceptions do not come through a pickle.
    """
    try:
        with same_folder():
            return work()
    except BaseException as raised:  # noqa: BLE001 - the campaign raises it again, in the parent
        error = blamed(raised)
        if isinstance(error, ProgramError | ScenarioError | EngineError | registry.MitigationError):
            return Broken(str(error))
        return Crashed(f"in {task}:\n{traceback.format_exc()}")


@functools.lru_cache(SYSTEMS_KEPT)
def system_of(target: Cell) -> System:
    """Return a target, booted. Raises ScenarioError, ProgramError, MitigationError."""
    return target.system()


class _Gathering(InterleavingCoverage):
    """Coverage by pairs that mean the same in every process, and the runs that covered something first."""

    def __init__(self, target: Cell) -> None:
        super().__init__()
        self._target = target
        self.first: list[FirstToCover] = []

    def ended(self, execution: Execution) -> None:
        """Note what the run that has just ended covered."""
        fresh = [self.pair(number) for number in self.now - self.seen]
        if fresh:
            self.first.append(FirstToCover(self._target.case(execution), frozenset(map(pair_key, fresh))))


def pair_key(pair: Pair) -> int:
    """Return a number of 64 bits for a pair, the same in every process with the same code and the same Python."""
    text = " ".join(f"{cpu} {_name(function)} {place}" for cpu, function, place in pair)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _name(function: Hashable) -> str:
    """Return what is the same in every process of what `Program.site` gives for a function."""
    if isinstance(function, CodeType):
        return f"{function.co_qualname} {function.co_firstlineno}"
    return str(function)


def _search(task: SearchTask) -> Searched:
    began = _cpu_seconds()
    coverage = _Gathering(task.target)
    budget = Budget(task.seconds, task.runs)
    search = FuzzSearch(budget, keep_going=True, coverage=coverage, on_covered=coverage.ended)
    systems: list[System] = []
    with bounded_search(task.seconds):
        systems = [system_of(task.target)]
        engines.get(task.engine).search(systems, task.seed, search)
    failing = tuple(_failing(task, found.execution, found.run) for found in search.found)
    cover = tuple(pair for one in systems for pair in happened_in(search.happened, one))
    return Searched(search.runs, search.steps, _cpu_seconds() - began, tuple(coverage.first), failing, cover)


def happened_in(happened: Happened, system: System) -> tuple[tuple[str, bool], ...]:
    """Return the cover points that a system is for, and whether a run has met each."""
    return tuple((point, run is not None) for point, run in happened.of(system).first.items())


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of the children that it has waited for: atheris is one."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _failing(task: SearchTask, execution: Execution, run: int) -> Failing:
    case = task.target.case(execution)
    message = execution.failure.message if execution.failure is not None else ""
    try:
        pair = guilty_pair(case, registry.get(case.mitigation))
    except ScheduleError:
        # it does not go the same way again; whoever settles it says so
        pair = GuiltyPair("", "")
    return Failing(run, case, pair, message)


def _settle(task: SettleTask) -> Settled | NotTheSame:
    began = _cpu_seconds()
    mitigation = registry.get(task.case.mitigation)
    until = None if task.seconds is None else time.monotonic() + task.seconds
    try:
        minimised = settle(task.case, mitigation, task.found, strictly=True, until=until).minimised
    except (NotTheSameError, NondeterministicSchemeError, UserCodeError) as error:
        return NotTheSame(task.case, str(error))
    pair = guilty_pair(minimised.case, mitigation)
    return Settled(minimised.case, minimised.proven, pair, _cpu_seconds() - began)
