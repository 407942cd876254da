"""Interleaving coverage: which ordered pairs of conflicting operations have been seen.

Two operations conflict where different CPUs touch the same location and one of them writes; freeing an object writes
all of it. A pair is (who, where, then who, where). A pair seen for the first time is an interleaving unlike those
before, whether or not it runs new code.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

from fuzzvm.machine.execution import Chooser
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Await, Fetch, Free, Load, Rmw, Store, object_of
from fuzzvm.runs.estimate import undiscovered

Site: TypeAlias = tuple[int, Hashable, int]
"""A CPU, and the function and instruction that it executes, as `Program.site` gives them."""

Pair: TypeAlias = tuple[Site, Site]


class InterleavingCoverage:
    """The pairs seen so far, over all runs, by their numbers: `now` are those of the run under way, `seen` the others.

    A pair has a number from when it is first seen, as it takes long to hash.
    """

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.now: set[int] = set()
        self._pairs: list[Pair] = []
        self._times: list[int] = []
        self._runs = 0
        self._numbers: dict[Pair, int] = {}
        self._last: dict[tuple[bool, int], dict[int, tuple[Site, bool]]] = {}

    def begin(self) -> None:
        """Start a run."""
        for number in self.now:
            self._times[number] += 1
        self._runs += 1
        self.seen |= self.now
        self.now.clear()
        self._last.clear()

    @property
    def current(self) -> set[Pair]:
        """The pairs of the run under way."""
        return {self._pairs[number] for number in self.now}

    def __len__(self) -> int:
        """Return how many pairs have been seen."""
        return len(self._pairs)

    def pair(self, number: int) -> Pair:
        """Return the pair that has this number."""
        return self._pairs[number]

    def number(self, pair: Pair) -> int:
        """Return the number of a pair that is seen."""
        number = self._numbers.setdefault(pair, len(self._pairs))
        if number == len(self._pairs):
            self._pairs.append(pair)
            self._times.append(0)
        return number

    def undiscovered(self) -> float:
        """Estimate how many pairs there are that no run has had, from how many runs each of the others was in."""
        times = self._times.copy()
        for number in self.now:
            times[number] += 1
        return undiscovered(times, self._runs)

    def record(self, cpu: int, machine: Machine) -> None:
        """Note the operation that a CPU is about to execute."""
        op = machine.pending(cpu)
        if isinstance(op, Free):
            site = (cpu, *machine.site(cpu))
            self._access((True, object_of(op.address)), site, writes=True)
        elif isinstance(op, Load | Store | Rmw | Await | Fetch):
            site = (cpu, *machine.site(cpu))
            writes = isinstance(op, Store | Rmw)
            self._access((False, op.address), site, writes=writes)
            # a load or store of one location conflicts with the free of the whole object, and with nothing else of it
            self._access((True, object_of(op.address)), site, writes=False)

    def _access(self, place: tuple[bool, int], site: Site, *, writes: bool) -> None:
        seen = self._last.setdefault(place, {})
        for cpu, (other, other_writes) in seen.items():
            if cpu != site[0] and (writes or other_writes):
                self.now.add(self.number((other, site)))
        seen[site[0]] = (site, writes)


class Covering:
    """A chooser that records the coverage of what another one chooses."""

    def __init__(self, chooser: Chooser, coverage: InterleavingCoverage) -> None:
        self._chooser = chooser
        self._coverage = coverage
        coverage.begin()

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = self._chooser.agent(enabled, machine)
        if agent < machine.memory.cpus:
            self._coverage.record(agent, machine)
        return agent

    def value(self, ways: int) -> int:
        return self._chooser.value(ways)
