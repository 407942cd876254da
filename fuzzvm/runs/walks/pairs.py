"""The pairs of a compiled walk: what `fuzzvm.runs.coverage` records of a run, from the steps of a path."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final

import numpy as np

from fuzzvm.exhaustive.loop import compiled
from fuzzvm.exhaustive.space import Lane
from fuzzvm.machine.ops import Await, Fetch, Free, Load, Operation, Rmw, Store, object_of
from fuzzvm.runs.coverage import InterleavingCoverage, Site

SITE, ADDRESS, OBJECT, WRITES, FACTS = range(5)
"""Places in `facts`: numbers of the site, and of the address and the object as places, -1 for none; and whether the
operation writes: a free, the whole object."""
SITE_BITS: Final = 20


@compiled
def find_pairs(path: Any, facts: Any, last: Any, stamps: Any, run: int, found: Any) -> int:
    """Put the pairs of a path into `found`, each once: the numbers of two sites, the first above SITE_BITS.

    `last` has for each place and CPU the site of its last access and whether that wrote, as one number, 0 for none.
    `stamps` has for each pair the last run that had it.
    """
    count = 0
    last[:] = 0
    for at in range(path.shape[0]):
        cpu = path[at, 0]
        fact = facts[cpu, path[at, 1]]
        for which in (ADDRESS, OBJECT):
            place = fact[which]
            if place < 0:
                continue
            # an access conflicts with the free of its whole object, and with nothing else of it
            writes = fact[WRITES] and (which == ADDRESS or fact[ADDRESS] < 0)
            for other in range(last.shape[1]):
                before = last[place, other]
                if before and other != cpu and (writes or before & 1):
                    first = (before >> 1) - 1
                    if stamps[first, fact[SITE]] != run:
                        stamps[first, fact[SITE]] = run
                        found[count] = first << SITE_BITS | fact[SITE]
                        count += 1
            last[place, cpu] = (fact[SITE] + 1) << 1 | (1 if writes else 0)
    return count


def with_room(facts: Any, rows: int) -> Any:
    """Return a table of facts that has so many rows for each CPU: itself, or a larger one with its rows."""
    if rows <= facts.shape[1]:
        return facts
    larger = np.zeros((facts.shape[0], 2 * rows, facts.shape[2]), facts.dtype)
    larger[:, : facts.shape[1]] = facts
    return larger


class CompiledPairs:
    """Finds the pairs of the paths of one system."""

    def __init__(self, cpus: int) -> None:
        self._facts = np.zeros((cpus, 64, FACTS), np.int64)
        self._known = [0] * cpus
        self._sites: dict[Site, int] = {}
        self._sites_by_number: list[Site] = []
        self._places: dict[Hashable, int] = {}
        self._run = 0
        self._numbers: dict[int, int] = {}
        self._of: InterleavingCoverage | None = None
        """Whose the numbers are."""
        self._make_room()

    def cover(self, coverage: InterleavingCoverage, lanes: Sequence[Lane], path: Any) -> None:
        """Give the pairs of a path, with the CPU and the local state of each step, as those of a run."""
        coverage.begin()
        for lane in lanes:
            if self._known[lane.cpu] < len(lane.nodes):
                self._describe(lane)
        if self._of is not coverage:
            self._of = coverage
            self._numbers.clear()
        self._run += 1
        count = find_pairs(path, self._facts, self._last, self._stamps, self._run, self._found)
        numbers = self._numbers
        for pair in self._found[:count].tolist():
            number = numbers.get(pair)
            if number is None:
                first, second = pair >> SITE_BITS, pair & (1 << SITE_BITS) - 1
                number = numbers[pair] = coverage.number((self._sites_by_number[first], self._sites_by_number[second]))
            coverage.now.add(number)

    def _describe(self, lane: Lane) -> None:
        """Note the facts of those local states of a CPU that have none."""
        nodes, cpu = lane.nodes, lane.cpu
        self._facts = with_room(self._facts, len(nodes))
        for node in nodes[self._known[cpu] :]:
            if node.op is not None:
                site = (cpu, *node.site)
                number = self._sites.setdefault(site, len(self._sites))
                if number == len(self._sites_by_number):
                    self._sites_by_number.append(site)
                writes = isinstance(node.op, Store | Rmw | Free)
                self._facts[cpu, node.number] = number, *self._places_of(node.op), writes
        self._known[cpu] = len(nodes)
        self._make_room()

    def _places_of(self, op: Operation) -> tuple[int, int]:
        """Return the numbers of the address and the object that an operation accesses."""
        if isinstance(op, Free):
            return -1, self._place(("object", object_of(op.address)))
        if isinstance(op, Load | Store | Rmw | Await | Fetch):
            return self._place(op.address), self._place(("object", object_of(op.address)))
        return -1, -1

    def _place(self, place: Hashable) -> int:
        return self._places.setdefault(place, len(self._places))

    def _make_room(self) -> None:
        sites = 64 * (1 + len(self._sites) // 64)
        self._last = np.zeros((len(self._places) + 1, self._facts.shape[0]), np.int64)
        self._stamps = np.zeros((sites, sites), np.int64)
        self._found = np.zeros(sites * sites, np.int64)
