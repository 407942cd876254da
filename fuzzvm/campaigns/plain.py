"""A plain search: a campaign in memory. Each cell is one task, which is run in this process.

What it finds is settled as in a campaign that lasts (`settle`). A cell is not cut into smaller tasks, as engines learn
from run to run, and the same seed is to do the same runs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzzvm.campaigns.settle import NotTheSameError, SettledRun, settle
from fuzzvm.campaigns.signals import first_signal_ends
from fuzzvm.corpus import store
from fuzzvm.corpus.format import TestCase, read
from fuzzvm.kernel.hooks import Verdict
from fuzzvm.machine.errors import StoppedError
from fuzzvm.machine.execution import Execution
from fuzzvm.machine.task import Task
from fuzzvm.runs.coverage import InterleavingCoverage
from fuzzvm.runs.engines import Budget, Engine, Found, FuzzSearch
from fuzzvm.runs.engines.strategy_loop import StrategyEngine
from fuzzvm.runs.happened import SystemHappened
from fuzzvm.runs.minimise.minimiser import DEFAULT_BUDGET
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.scenario.target import Target
from fuzzvm.supervision import inside
from fuzzvm.supervision.folder import same_folder
from fuzzvm.verify.matrix import Cell

MINIMISER_SHARE = 0.5
"""Of the seconds for a cell, the part that its minimiser has on top, where it began late."""
MINIMISER_GRACE = 0.5
"""Seconds that the minimiser has at the end of all time, or after Ctrl-C: of the two until all is over."""


class NotReproducibleError(Exception):
    """A failing run did not fail again: something in fuzzvm or in the mitigation depends on more than the schedule."""


@dataclass(frozen=True)
class FuzzCell:
    """What one search is about: targets of one code, and an engine. `name` is what the code was asked for by."""

    name: str
    engine: Engine
    targets: tuple[Target, ...]

    @property
    def expected(self) -> Verdict | None:
        """The verdict that the mitigation claims over these targets, or None where it claims nothing."""
        claims = [target.claim for target in self.targets]
        if "bug" in claims:
            return "bug"
        return None if None in claims else "safe"


@dataclass(frozen=True)
class Finding:
    """A settled run, the name of the scenario that it was found in, and where it was saved."""

    settled: SettledRun
    scenario: str
    message: str
    path: Path | None
    new: bool
    claimed_safe: bool

    @property
    def case(self) -> TestCase:
        """The minimal test case."""
        return self.settled.minimised.case

    @property
    def how(self) -> str:
        """How sure it is, in the words of the reports."""
        return self.settled.how


@dataclass
class FuzzCellResult:
    """What came of a cell."""

    cell: FuzzCell
    search: FuzzSearch
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    minimising_seconds: float = 0.0
    happened: list[tuple[str, SystemHappened]] = field(default_factory=list)
    """What happened in the runs of each scenario, by its name."""

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it before its budget was used up."""
        return self.search.interrupted

    @property
    def verdict(self) -> str:
        """`bug` where one was found; `safe` means that none was found within the budget, no more.

        `vacuous` is where none was found, and something that a scenario is for has happened in no run of it.
        """
        if self.findings:
            return "bug"
        return "vacuous" if any(one.vacuous for _, one in self.happened) else "safe"

    @property
    def runs_to_first_bug(self) -> int | None:
        """Which run failed first, counted from 1."""
        return self.search.found[0].run if self.search.found else None

    @property
    def as_expected(self) -> bool | None:
        """Whether the verdict is the claimed one, and no scenario claimed safe has failed; None without a claim."""
        if any(finding.claimed_safe for finding in self.findings):
            return False
        return None if self.cell.expected is None else self.verdict == self.cell.expected


def run_cell(
    cell: FuzzCell,
    budget: Budget,
    seed: int,
    corpus: Path | None,
    *,
    keep_going: bool = False,
    end: float | None = None,
    on_search: Callable[[FuzzSearch], None] = lambda search: None,
    on_minimise: Callable[[str], None] = lambda name: None,
) -> FuzzCellResult:
    """Search a cell, minimise and save its findings, and return what came of it.

    `end` is when, by the monotonic clock, all must be over, whatever is left of the budget of this cell; findings are
    saved as the minimiser has got them until then. So they are after Ctrl-C, SIGTERM or SIGHUP, which end the search; a
    second one raises KeyboardInterrupt at once. Raises ScenarioError, ProgramError for a broken mitigation,
    ConversionError for a failing run of an image that cannot be kept, CorpusError where the corpus cannot be read or
    written.
    """
    began = time.monotonic()
    of_model = all(isinstance(target.code, type) for target in cell.targets)
    found: list[tuple[Found, TestCase]] = []

    def on_found(one: Found) -> None:
        # at once: what is learnt of an image later changes which accesses are steps
        found.append((one, case_of(cell.targets[one.number], one.task, one.execution)))

    coverage = InterleavingCoverage()
    seeds = seed_runs(corpus) if of_model else []
    search = FuzzSearch(
        budget, keep_going=keep_going, seeds=seeds, on_progress=on_search, coverage=coverage, on_found=on_found
    )
    result = FuzzCellResult(cell, search)
    with signals_end(search):
        with bounded_search(budget.seconds):
            search_targets(cell, seed, search)
        result.seconds = search.seconds
        if len(coverage):
            # else the engine has measured it itself
            search.undiscovered = coverage.undiscovered()
        result.happened = [
            (task.scenario.name, search.happened.of(task)) for task in search.tasks if isinstance(task, System)
        ]
        searched = time.monotonic()
        until = minimiser_end(budget, began, end)
        if search.interrupted:
            until = min(until or math.inf, searched + MINIMISER_GRACE)
        for one, case in found:
            result.findings.append(settle_found(cell, one, case, seed, corpus, on_minimise, until=until))
        result.minimising_seconds = time.monotonic() - searched
    return result


def search_targets(cell: FuzzCell, seed: int, search: FuzzSearch) -> None:
    """Let the engine of a cell search its targets. Raises as `run_cell` does, and StoppedError."""
    images = [target for target in cell.targets if not isinstance(target.code, type)]
    if not images:
        cell.engine.search([target.system() for target in cell.targets], seed, search)
        return
    assert isinstance(cell.engine, StrategyEngine)
    seconds = search.budget.seconds
    until = None if seconds is None else search.started + seconds
    cell.engine.search([target.task_to_search(until) for target in images], seed, search)


@contextlib.contextmanager
def bounded_search(seconds: float | None) -> Iterator[None]:
    """Let a search in the body end after so many seconds, in the middle of a run if need be."""
    with contextlib.suppress(StoppedError), same_folder(), bounded_by_seconds(seconds):
        yield


def bounded_by_seconds(seconds: float | None) -> contextlib.AbstractContextManager[None]:
    """Bound the body by the time for a search: it raises StoppedError."""
    return inside.bounded(StoppedError, name="the time for the search is over", seconds=seconds)


def minimiser_end(budget: Budget, began: float, end: float | None) -> float | None:
    """Return until when findings of a cell are minimised, that was begun then: None for as long as it takes."""
    if budget.seconds is None:
        return None
    until = max(began + budget.seconds, time.monotonic() + MINIMISER_SHARE * budget.seconds)
    return until if end is None else min(until, end + MINIMISER_GRACE)


def signals_end(search: FuzzSearch) -> contextlib.AbstractContextManager[None]:
    """Let the first signal end a search between two runs, or soon in the middle of one."""
    return first_signal_ends(search, first=lambda: inside.hurry(MINIMISER_GRACE))


def seed_runs(corpus: Path | None) -> list[tuple[Scenario, tuple[tuple[int, ...], ...]]]:
    """Return the runs that a search may begin with: those of a corpus, and of a folder `seeds` beside it."""
    if corpus is None:
        return []
    folders = [folder for folder in (corpus, corpus.parent / "seeds") if any(folder.rglob(f"*{store.SUFFIX}"))]
    cases = [read(path) for path in store.find(folders)]
    return [(case.scenario, case.schedule) for case in cases if case.image is None]


def case_of(target: Target, task: Task, execution: Execution) -> TestCase:
    """Return a run of a target's task as a test case. Raises ConversionError where a run of an image cannot be kept."""
    if isinstance(target.code, type):
        return Cell.naming(target).case(execution)
    # imported here: ELF and disassembly are needed for nothing else
    from fuzzvm.compiled.run.task import CompiledTask
    from fuzzvm.images.code import ImageCode

    assert isinstance(target.code, ImageCode)
    assert isinstance(task, CompiledTask)
    return target.code.case(task, target.scenario, execution.schedule, execution.failure, "")


def settle_found(
    cell: FuzzCell,
    found: Found,
    case: TestCase,
    seed: int,
    corpus: Path | None,
    on_minimise: Callable[[str], None] = lambda name: None,
    *,
    steps: int = DEFAULT_BUDGET,
    max_states: int | None = None,
    until: float | None = None,
) -> Finding:
    """Return what was found, minimised, and saved where there is a corpus.

    `steps`, `max_states` and `until`, by the monotonic clock, bound the minimiser. Raises as `run_cell` does.
    """
    target = cell.targets[found.number]
    scenario = case.scenario.name
    origin = f"found by {cell.engine.name}, seed {seed}, run {found.run}" + (
        f", in scenario {scenario}" if scenario else ""
    )
    try:
        settled = settle(
            case, target.code, origin, until=until, steps=steps, max_states=max_states, on_minimise=on_minimise
        )
    except NotTheSameError as error:
        raise NotReproducibleError(
            f"run {found.run} of {cell.engine.name} on {scenario or 'a scenario'} fails, and {error}: "
            f"{cell.name} depends on more than the schedule"
        ) from error
    message = found.execution.failure.message if found.execution.failure is not None else ""
    path, new = (None, False) if corpus is None else store.save(settled.minimised.case, corpus)
    return Finding(settled, scenario, message, path, new, target.claim == "safe")


INSISTS = 5
"""Times the whole budget that a search may take for a bug that is claimed, where the claim is to be confirmed."""


class SharedBudget:
    """A budget that a number of cells share, first come first served.

    Half of it is for the cells in which a bug is claimed, as long as there are others: such a cell ends when it has
    found one, and must not miss it for want of time. What a cell leaves unused goes to those after it, so those with
    claims of bugs should come first.

    With `insists`, a cell in which a bug is claimed gets `INSISTS` times the whole time, whatever the others have used:
    whether the claim is confirmed must not depend on how busy the machine is. To the others it counts as its
    fair share at most.
    """

    def __init__(self, budget: Budget, cells: Sequence[FuzzCell], *, insists: bool = False) -> None:
        self._insists = None if budget.seconds is None or not insists else INSISTS * budget.seconds
        self._seconds = budget.seconds
        self._runs = budget.runs
        self._bugs = sum(cell.expected == "bug" for cell in cells)
        self._others = len(cells) - self._bugs

    def share(self, cell: FuzzCell) -> Budget:
        """Return what the next cell may use."""
        fair = self._fair(cell)
        return fair if self._insists is None or cell.expected != "bug" else Budget(self._insists, fair.runs)

    def more(self, budget: Budget, result: FuzzCellResult) -> Budget | None:
        """Return what a cell may use once more that had too little time for a single run; None where it had enough.

        With `insists` only: on a busy machine it may take longer to start an engine than a fair share is.
        """
        if self._insists is None or budget.seconds is None or budget.seconds >= self._insists:
            return None
        if result.search.runs or result.findings or result.interrupted:
            return None
        return Budget(min(self._insists, max(1.0, 4 * budget.seconds)), budget.runs)

    def spend(self, cell: FuzzCell, seconds: float, runs: int) -> None:
        """Take what a cell has used from what is left for the others."""
        if self._insists is not None and cell.expected == "bug":
            seconds = min(seconds, self._fair(cell).seconds or 0.0)
        if cell.expected == "bug":
            self._bugs -= 1
        else:
            self._others -= 1
        if self._seconds is not None:
            self._seconds -= seconds
        if self._runs is not None:
            self._runs -= runs

    def _fair(self, cell: FuzzCell) -> Budget:
        kind, rest = (self._bugs, self._others) if cell.expected == "bug" else (self._others, self._bugs)
        parts = kind * (2 if rest else 1)
        seconds = None if self._seconds is None else max(0.0, self._seconds) / parts
        runs = None if self._runs is None else max(1, self._runs // parts)
        return Budget(seconds, runs)
