"""A campaign: searches cells (a mitigation under an engine), minimises what they find and saves it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzzvm.corpus import store
from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import replay
from fuzzvm.explore.engines import Budget, Engine, Found, Search
from fuzzvm.explore.minimise import DEFAULT_BUDGET, Minimised, minimise
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System, default_memory


class NotReproducibleError(Exception):
    """A failing run did not fail again: something in fuzzvm or in the mitigation depends on more than the schedule."""


@dataclass(frozen=True)
class Cell:
    """What one search is about.

    `memory` None means that of each scenario's architecture. `without` names the ordering points that are left out;
    a mitigation claims nothing without one.
    """

    mitigation_name: str
    mitigation: type[Mitigation]
    engine: Engine
    scenarios: tuple[Scenario, ...]
    memory: str | None = None
    without: tuple[str, ...] = ()

    @property
    def expected(self) -> Verdict | None:
        """The verdict that the mitigation claims over these scenarios, or None where it claims nothing."""
        if self.without:
            return None
        claims = [scenario.expected(self.mitigation) for scenario in self.scenarios]
        if "bug" in claims:
            return "bug"
        return None if None in claims else "safe"

    def systems(self) -> list[System]:
        """Return the systems to search. Raises ScenarioError."""
        return [
            System(
                scenario, self.mitigation, self.memory or default_memory(scenario), self.mitigation_name, self.without
            )
            for scenario in self.scenarios
        ]


@dataclass(frozen=True)
class Finding:
    """A minimal failing test case, the name of the scenario that it was found in, and where it was saved."""

    minimised: Minimised
    scenario: str
    message: str
    path: Path | None
    new: bool
    claimed_safe: bool


@dataclass
class CellResult:
    """What came of a cell."""

    cell: Cell
    search: Search
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it before its budget was used up."""
        return self.search.interrupted

    @property
    def verdict(self) -> Verdict:
        """`bug` where one was found; `safe` means that none was found within the budget, no more."""
        return "bug" if self.findings else "safe"

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
    cell: Cell,
    budget: Budget,
    seed: int,
    corpus: Path | None,
    *,
    keep_going: bool = False,
    on_search: Callable[[Search], None] = lambda search: None,
    on_minimise: Callable[[str], None] = lambda name: None,
) -> CellResult:
    """Search a cell, minimise and save its findings, and return what came of it.

    Ctrl-C or SIGTERM ends the search, and what it has found until then is still minimised and saved; a second one
    raises KeyboardInterrupt at once. Raises ScenarioError,
    ProgramError for a broken mitigation, CorpusError where the corpus cannot be read or written.
    """
    systems = cell.systems()
    seeds = seed_runs(corpus)
    search = Search(budget, keep_going=keep_going, seeds=seeds, on_progress=on_search)
    result = CellResult(cell, search)
    with _signals_end(search):
        cell.engine.search(systems, seed, search)
    result.seconds = search.seconds
    for found in search.found:
        result.findings.append(settle(cell, found, seed, corpus, on_minimise))
    return result


@contextlib.contextmanager
def _signals_end(search: Search) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM end the search where it stands between two runs, and the second at once.

    An exception in the middle of whatever runs would not do: libraries swallow it in their own callbacks.
    """

    def end(number: int, frame: object) -> None:
        if search.interrupted:
            raise KeyboardInterrupt
        search.interrupted = True

    if threading.current_thread() is not threading.main_thread():
        # only the main thread may set handlers; elsewhere whoever owns it decides what a signal does
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seed_runs(corpus: Path | None) -> list[tuple[Scenario, tuple[tuple[int, ...], ...]]]:
    """Return the runs that a search may begin with: those of a corpus, and of a folder `seeds` beside it."""
    if corpus is None:
        return []
    folders = [folder for folder in (corpus, corpus.parent / "seeds") if any(folder.rglob(f"*{store.SUFFIX}"))]
    cases = [read(path) for path in store.find(folders)]
    return [(case.scenario, case.schedule) for case in cases]


def settle(
    cell: Cell,
    found: Found,
    seed: int,
    corpus: Path | None,
    on_minimise: Callable[[str], None] = lambda name: None,
    *,
    steps: int = DEFAULT_BUDGET,
    max_states: int | None = None,
) -> Finding:
    """Return what was found, minimised, and saved where there is a corpus.

    `steps` and `max_states` bound the minimiser. Raises as `run_cell` does.
    """
    system, execution = found.system, found.execution
    scenario = system.scenario
    case = TestCase(
        scenario,
        cell.mitigation_name,
        system.memory,
        execution.schedule,
        Expectation.of(execution),
        without=cell.without,
    )
    if not replay(case, cell.mitigation).as_expected:
        raise NotReproducibleError(
            f"run {found.run} of {cell.engine.name} on {scenario.name or 'a scenario'} failed once and not again: "
            f"{cell.mitigation_name} or fuzzvm keeps state from run to run"
        )
    minimised = minimise(case, cell.mitigation, budget=steps, max_states=max_states, progress=on_minimise)
    origin = (
        f"found by {cell.engine.name}, seed {seed}, run {found.run}"
        + (f", in scenario {scenario.name}" if scenario.name else "")
        + f"; {minimised.how}"
    )
    minimised = minimised.with_origin(origin)
    message = execution.failure.message if execution.failure is not None else ""
    claimed_safe = not cell.without and scenario.expected(cell.mitigation) == "safe"
    if corpus is None:
        return Finding(minimised, scenario.name, message, None, False, claimed_safe)
    path, new = store.save(minimised.case, corpus)
    return Finding(minimised, scenario.name, message, path, new, claimed_safe)


class SharedBudget:
    """A budget that a number of cells share, first come first served.

    Half of it is for the cells in which a bug is claimed, as long as there are others: such a cell ends when it has
    found one, and must not miss it for want of time. What a cell leaves unused goes to those after it, so those with
    claims of bugs should come first.
    """

    def __init__(self, budget: Budget, cells: Sequence[Cell]) -> None:
        self._seconds = budget.seconds
        self._runs = budget.runs
        self._bugs = sum(cell.expected == "bug" for cell in cells)
        self._others = len(cells) - self._bugs

    def share(self, cell: Cell) -> Budget:
        """Return what the next cell may use."""
        kind, rest = (self._bugs, self._others) if cell.expected == "bug" else (self._others, self._bugs)
        parts = kind * (2 if rest else 1)
        seconds = None if self._seconds is None else max(0.0, self._seconds) / parts
        runs = None if self._runs is None else max(1, self._runs // parts)
        return Budget(seconds, runs)

    def spend(self, cell: Cell, seconds: float, runs: int) -> None:
        """Take what a cell has used from what is left for the others."""
        if cell.expected == "bug":
            self._bugs -= 1
        else:
            self._others -= 1
        if self._seconds is not None:
            self._seconds -= seconds
        if self._runs is not None:
            self._runs -= runs
