"""What happened in the runs of a search: which cover points they met, and what no run of a system met.

To watch a run costs more than to run it. So the runs of a system are watched until they have met all that the system is
for; of a scheme under which something never happens, that is all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fuzzvm.kernel.cover_points import POINTS, CoverPoints, watch
from fuzzvm.machine.machine import Machine
from fuzzvm.scenario.purpose import wanted_of
from fuzzvm.scenario.system import System

ENOUGH_RUNS = 100
"""Runs of a system from which on it says something that a cover point was met in none; engines need up to thirty."""


@dataclass
class SystemHappened:
    """Of one system: the runs so far, and for each cover point that it is for the first run that met it, if one did."""

    runs: int
    first: dict[str, int | None]
    points: CoverPoints

    def add(self, runs: int, first: Mapping[str, int | None]) -> None:
        """Add the runs of another search of the system."""
        for point, run in first.items():
            known = self.first.get(point)
            if run is not None and (known is None or run < known):
                self.first[point] = run
        self.runs += runs

    @property
    def missing(self) -> tuple[str, ...]:
        """The cover points that no run has met."""
        return tuple(point for point, run in self.first.items() if run is None)

    @property
    def vacuous(self) -> bool:
        """Whether there were enough runs to say that something does not happen."""
        return bool(self.missing) and self.runs >= ENOUGH_RUNS


@dataclass
class Happened:
    """What happened in the runs of a search, by system. `machine` begins each run, and `ended` stands after it."""

    _of: dict[int, SystemHappened] = field(default_factory=dict)
    _systems: list[System] = field(default_factory=list)

    def machine(self, system: System) -> Machine:
        """Return a machine for the next run, watched if there is anything left to see."""
        one = self.of(system)
        if not one.missing:
            return system.machine()
        return watch(system.machine(), one.points)

    def ended(self, system: System) -> None:
        """Count a run."""
        one = self.of(system)
        one.runs += 1
        if one.missing:
            for point in one.points.met & set(one.missing):
                one.first[point] = one.runs

    def of(self, system: System) -> SystemHappened:
        """Return what happened in the runs of a system."""
        one = self._of.get(id(system))
        if one is None:
            wanted = wanted_of(system) - frozenset(system.mitigation.gives_up)
            first: dict[str, int | None] = {point: None for point in POINTS if point in wanted}
            points = CoverPoints(system.kernel.arch, system.booted().allocator)
            one = self._of[id(system)] = SystemHappened(0, first, points)
            # so that no other system gets its id
            self._systems.append(system)
        return one
