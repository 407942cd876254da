"""Many systems verified side by side: every mitigation, scenario and memory model that is asked for, over the cores."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.exhaustive import Limits, Verdict
from fuzzvm.exhaustive.checkpoint.keeper import DiskKeeper
from fuzzvm.exhaustive.limits import StoppedError, bounded_by
from fuzzvm.exhaustive.memory_use import LeftBehind
from fuzzvm.exhaustive.verdict import no_collection
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.execution import Execution
from fuzzvm.mitigations import registry
from fuzzvm.processes.parallel import Caller, call_all
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.scenario.target import Target
from fuzzvm.verify.determinism.asked import Driving
from fuzzvm.verify.determinism.scheme import check
from fuzzvm.verify.system import verify_system

STRENGTH = ("sc", "tso", "arm64")
"""Memory models from strong to weak: code that is correct on a weak one is correct on those before it."""


@dataclass(frozen=True)
class Cell:
    """One system to verify or to search.

    `mitigation` is what the mitigation was asked for by: a name, or file.py:Class. `without` names the ordering
    points that are left out; a mitigation claims nothing without one.
    """

    mitigation: str
    scenario: Scenario
    memory: str
    without: tuple[str, ...] = ()

    @classmethod
    def of(cls, case: TestCase) -> Cell:
        """Return the cell that a test case of a mitigation is a run of."""
        return cls(case.mitigation, case.scenario, case.memory, case.without)

    @classmethod
    def naming(cls, target: Target) -> Cell:
        """Return the cell that names a target of a mitigation."""
        assert isinstance(target.code, type)
        name = target.code.name if target.name is None else target.name
        return cls(name, target.scenario, target.memory, target.without)

    def case(self, execution: Execution, origin: str = "") -> TestCase:
        """Return a run of it as a test case."""
        expect = Expectation.of(execution)
        return TestCase(
            self.scenario, self.mitigation, self.memory, execution.schedule, expect, origin, without=self.without
        )

    def system(self, mitigation: type[Mitigation] | None = None) -> System:
        """Return the system, by default under the cell's own mitigation. Raises as `verify_cell` does."""
        scheme = mitigation if mitigation is not None else self.scheme()
        return Target(scheme, self.scenario, self.memory, self.without, self.mitigation).system()

    def scheme(self) -> type[Mitigation]:
        """Return the cell's own mitigation. Raises MitigationError."""
        return registry.get(self.mitigation)


@dataclass(frozen=True)
class Bounds:
    """What every run of a matrix is bounded by."""

    limits: Limits
    preemptions: int | None = None
    reduce: bool = True
    all_errors: bool = False
    """Whether each error is looked for, with the shortest run of its own."""

    @property
    def asked(self) -> bool:
        """Whether bounds on the search were asked for."""
        return self.preemptions is not None or self.limits.max_states is not None or self.limits.max_seconds is not None


@dataclass(frozen=True)
class VerifiedCell:
    """A cell and its verdict. `expected` is the verdict that the mitigation claims, None where it claims nothing.

    `gives_up` are the cover points that the mitigation says it gives up. `driving` is what a second process is to be
    asked before the verdict is believed, None for a mitigation that ships.
    """

    cell: Cell
    verdict: Verdict
    expected: str | None
    bounded: bool
    """Whether bounds were asked for, so that a safe verdict within them is what was asked for."""
    gives_up: frozenset[str] = frozenset()
    driving: Driving | None = None

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the documented one; a mitigation that claims nothing must be safe.

        A vacuous verdict is never as expected: what a mitigation gives up makes none. A search that was cut short
        although nobody asked for it proves nothing.
        """
        if self.verdict.verdict != (self.expected or "safe"):
            return False
        return self.verdict.verdict == "bug" or self.verdict.complete or self.bounded


def memories(scenario: Scenario) -> list[str]:
    """Return the memory models that `verify` takes by itself: that of the scenario's architecture, and all stronger.

    Weaker ones are left out: code of x86_64 has none of the barriers that AArch64's memory asks for, and nobody claims
    that it is right there.
    """
    own = architectures.get(scenario.arch).memory
    known = [name for name in STRENGTH[: STRENGTH.index(own) + 1] if name in memory_models.names()]
    return [name for name in known if memory_models.searchable(name)]


def cells(
    mitigations: Sequence[str], scenarios: Sequence[Scenario], memory: str | None, without: tuple[str, ...] = ()
) -> list[Cell]:
    """Return the matrix: every mitigation with every scenario, under one memory model or all that fit."""
    return [
        Cell(mitigation, scenario, model, without)
        for mitigation in mitigations
        for scenario in scenarios
        for model in ([memory] if memory is not None else memories(scenario))
    ]


LARGE = 64 << 20
"""Bytes that searches must leave behind for them to be given back: that takes as long as a small search."""


KEEPING_SECONDS = 60.0
"""That a checkpoint may take to be written when the time of a search is over."""


def verify_cell(
    cell: Cell, bounds: Bounds, mitigation: type[Mitigation] | None = None, keeper: DiskKeeper | None = None
) -> VerifiedCell:
    """Verify one cell. Raises MitigationError, ScenarioError, ProgramError, and CheckpointError where it is kept."""
    limits = bounds.limits
    left_behind = _left_behind()
    began = time.monotonic()

    try:
        # where this process is guarded, the bounds hold wherever it is at: in the boot, or in a slow hook
        with bounded_by(limits) if keeper is None else bounded_by(limits, KEEPING_SECONDS):
            system = cell.system(mitigation)
            verdict, driving = verify_system(
                system,
                limits,
                preemptions=bounds.preemptions,
                reduce=bounds.reduce,
                all_errors=bounds.all_errors,
                keeper=keeper,
            )
    except StoppedError as bound:
        return _undecided(cell, bounds, str(bound), time.monotonic() - began)
    left_behind.release(LARGE)
    expected = None if cell.without else cell.scenario.expected(system.mitigation)
    return VerifiedCell(cell, verdict, expected, bounds.asked, frozenset(system.mitigation.gives_up), driving)


def _undecided(cell: Cell, bounds: Bounds, stopped: str, seconds: float = 0.0) -> VerifiedCell:
    """Return the run of a cell of which nothing is known but the bound that has cut it."""
    verdict = Verdict(None, None, False, stopped, 0, 0, seconds)
    scheme = cell.scheme()
    expected = None if cell.without else cell.scenario.expected(scheme)
    return VerifiedCell(cell, verdict, expected, bounds.asked, frozenset(scheme.on(cell.scenario.arch).gives_up))


def _name(cell: Cell, bounds: Bounds) -> str:
    return f"{cell.mitigation}, {cell.scenario.name}, {cell.memory}"


def verify_all(
    cells: Sequence[Cell], bounds: Bounds, jobs: int, call: Caller = call_all
) -> Generator[tuple[int, VerifiedCell], None, None]:
    """Verify cells in up to `jobs` processes, those that look largest first; yield each one's index and run when done.

    `call` says where. Closing the iterator, or an exception in it, ends the processes. Raises as `verify_cell` does.
    """
    order = sorted(range(len(cells)), key=lambda index: _size(cells[index]), reverse=True)
    arguments = [(cells[index], bounds) for index in order]
    share = bounds.limits.max_memory
    large = None if share is None else share // 2
    running = (
        call_all(verify_cell, arguments, jobs, ended=_undecided, named=_name, large=large)
        if call is call_all
        else call(verify_cell, arguments, jobs)
    )
    # processes that are forked have no collector either: one pass after each small search, by the collector itself,
    # takes longer than to release what all of them leave behind once it is a lot; those of a cluster live on
    with no_collection() if call is call_all else nullcontext(), closing(running):
        for place, run in running:
            yield order[place], run


def check_runs(runs: Sequence[VerifiedCell], max_seconds: float | None = None) -> None:
    """Ask second processes whether the mitigations of the runs do the same there, each for so long at most.

    Raises NondeterministicSchemeError for one that does not, StoppedError where its time is over, and as `verify_cell`
    does.
    """
    for name in dict.fromkeys(run.cell.mitigation for run in runs if run.driving is not None):
        check(registry.get(name), [run.driving for run in runs if run.cell.mitigation == name], max_seconds)


@functools.cache
def _left_behind() -> LeftBehind:
    """Return what measures the memory of this process, from its first cell on."""
    return LeftBehind()


def _size(cell: Cell) -> tuple[int, int]:
    """Return a guess at how large a cell's state space is, for the order alone."""
    return len(cell.scenario.cpus), sum(map(len, cell.scenario.cpus)) + STRENGTH.index(cell.memory)
