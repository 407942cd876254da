"""Many systems verified side by side: every mitigation, scenario and memory model that is asked for, over the cores."""

from __future__ import annotations

import functools
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass

from fuzzvm.explore.exhaustive import Limits, Verdict, verify
from fuzzvm.explore.exhaustive.memory_use import LeftBehind
from fuzzvm.explore.exhaustive.verdict import Elsewhere, no_collection
from fuzzvm.explore.processes import Caller, call_all
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine import memory as memory_models
from fuzzvm.mitigations import registry
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

STRENGTH = ("sc", "tso", "arm64")
"""Memory models from strong to weak: code that is correct on a weak one is correct on those before it."""


@dataclass(frozen=True)
class Cell:
    """One system to verify. `mitigation` is what the mitigation was asked for by: a name, or file.py:Class.

    `without` names the ordering points that are left out; a mitigation claims nothing without one.
    """

    mitigation: str
    scenario: Scenario
    memory: str
    without: tuple[str, ...] = ()

    def system(self, mitigation: type[Mitigation] | None = None) -> System:
        """Return the system, by default under the cell's own mitigation. Raises as `verify_cell` does."""
        scheme = mitigation if mitigation is not None else registry.get(self.mitigation)
        return System(self.scenario, scheme, self.memory, self.mitigation, self.without)


@dataclass(frozen=True)
class Bounds:
    """What every run of a matrix is bounded by."""

    limits: Limits
    preemptions: int | None = None
    reduce: bool = True


@dataclass(frozen=True)
class Run:
    """A cell and its verdict. `expected` is the verdict that the mitigation claims, None where it claims nothing."""

    cell: Cell
    verdict: Verdict
    expected: str | None
    bounded: bool
    """Whether bounds were asked for, so that a safe verdict within them is what was asked for."""

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is the documented one; a mitigation that claims nothing must be safe.

        A search that was cut short although nobody asked for it proves nothing.
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
    return [name for name in known if searchable(name)]


def searchable(memory: str) -> bool:
    """Return whether a memory model says what its state is, which exhaustive search needs."""
    return memory_models.get(memory).state is not memory_models.MemoryModel.state


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


def verify_cell(
    cell: Cell, bounds: Bounds, mitigation: type[Mitigation] | None = None, elsewhere: Elsewhere | None = None
) -> Run:
    """Verify one cell; `elsewhere` is as for `verify`. Raises MitigationError, ScenarioError, ProgramError."""
    system = cell.system(mitigation)
    left_behind = _left_behind()
    verdict = verify(system, bounds.limits, preemptions=bounds.preemptions, reduce=bounds.reduce, elsewhere=elsewhere)
    left_behind.release(LARGE)
    limits = bounds.limits
    bounded = bounds.preemptions is not None or limits.max_states is not None or limits.max_seconds is not None
    return Run(cell, verdict, None if cell.without else cell.scenario.expected(system.mitigation), bounded)


def verify_all(
    cells: Sequence[Cell], bounds: Bounds, jobs: int, call: Caller = call_all
) -> Generator[tuple[int, Run], None, None]:
    """Verify cells in up to `jobs` processes, those that look largest first; yield each one's index and run when done.

    `call` says where. Closing the iterator, or an exception in it, ends the processes. Raises as `verify_cell` does.
    """
    order = sorted(range(len(cells)), key=lambda index: _size(cells[index]), reverse=True)
    running = call(verify_cell, [(cells[index], bounds) for index in order], jobs)
    # processes that are forked have no collector either: one pass after each small search, by the collector itself,
    # takes longer than to release what all of them leave behind once it is a lot; those of a cluster live on
    with no_collection() if call is call_all else nullcontext(), closing(running):
        for place, run in running:
            yield order[place], run


@functools.cache
def _left_behind() -> LeftBehind:
    """Return what measures the memory of this process, from its first cell on."""
    return LeftBehind()


def _size(cell: Cell) -> tuple[int, int]:
    """Return a guess at how large a cell's state space is, for the order alone."""
    return len(cell.scenario.cpus), sum(map(len, cell.scenario.cpus)) + STRENGTH.index(cell.memory)
