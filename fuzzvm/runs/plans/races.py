"""Which places are raced for, learned from the runs of one target: what strategies take for events.

A place is an address, or a whole object where it was freed in some run, as a free touches all of it. It is raced for
where two CPUs accessed it and one of them wrote it or freed it.
"""

from __future__ import annotations

from collections import defaultdict

from fuzzvm.machine.ops import OFFSET_BITS, Await, Fetch, Free, Load, Operation, Rmw, Store

_WRITES = (Store, Rmw)
_ACCESSES = (Load, Await, Fetch, Store, Rmw)
_OBJECT = 1
WATCH_UNTIL = 32
"""Runs of a target that are watched for what races; after them, every 32nd one is."""

Place = tuple[int, int]
"""(0, address), or (1, number of an object)."""


class Races:
    """Who touched what in the runs of one target: `begin` and `end` stand around each run, `note` before each step."""

    def __init__(self) -> None:
        self._runs = 0
        self._counted: dict[Place, dict[int, int]] = {}
        self._most: dict[Place, dict[int, int]] = defaultdict(dict)
        self._written: set[Place] = set()
        self._freed: frozenset[int] = frozenset()
        self._quiet: frozenset[int] = frozenset()
        self.version = 0
        """Counts how often what is known has changed."""
        self.watching = False
        """Whether the steps of the run at hand must be noted."""
        self.places: dict[Place, dict[int, int]] = {}
        """The places that were raced for, each with how often a CPU accessed it where it did so most often."""

    def begin(self) -> None:
        """Begin a run."""
        self._runs += 1
        self.watching = self._runs <= WATCH_UNTIL or self._runs % WATCH_UNTIL == 0
        self._counted = defaultdict(lambda: defaultdict(int))

    def note(self, cpu: int, op: Operation) -> None:
        """Remember what a CPU is about to do."""
        place = self._raw(op)
        if place is not None:
            self._counted[place][cpu] += 1
            if place[0] == _OBJECT or isinstance(op, _WRITES):
                self._written.add(place)

    def end(self) -> None:
        """End a run, and work out from it and those before it what is raced for."""
        if not self.watching:
            return
        for place, by_cpu in self._counted.items():
            most = self._most[place]
            for cpu, count in by_cpu.items():
                most[cpu] = max(most.get(cpu, 0), count)
        freed = {number for kind, number in self._most if kind == _OBJECT}
        quiet = set()
        whole: dict[Place, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for place, most in self._most.items():
            kind, address = place
            if kind == _OBJECT or address >> OFFSET_BITS in freed:
                for cpu, count in most.items():
                    whole[_OBJECT, address if kind == _OBJECT else address >> OFFSET_BITS][cpu] += count
            elif len(most) > 1 and place in self._written:
                whole[place] = most
            else:
                quiet.add(address)
        known = self._quiet, self._freed, self.places
        self._quiet, self._freed = frozenset(quiet), frozenset(freed)
        self.places = {place: dict(whole[place]) for place in sorted(whole) if len(whole[place]) > 1}
        self.version += known != (self._quiet, self._freed, self.places)

    @property
    def freed(self) -> bool:
        """Whether one of the places is an object that was freed."""
        return any(kind == _OBJECT for kind, _ in self.places)

    def may_race(self, op: Operation | None) -> bool:
        """Return whether an operation accesses a place that is raced for, for all that is known."""
        if isinstance(op, _ACCESSES):
            return op.address not in self._quiet
        return isinstance(op, Free)

    def place(self, op: Operation | None) -> Place | None:
        """Return the place that an operation accesses, None for one that accesses none."""
        place = self._raw(op)
        if place is not None and place[0] != _OBJECT and (number := place[1] >> OFFSET_BITS) in self._freed:
            return _OBJECT, number
        return place

    def _raw(self, op: Operation | None) -> Place | None:
        if isinstance(op, Free):
            return _OBJECT, op.address >> OFFSET_BITS
        return (0, op.address) if isinstance(op, _ACCESSES) else None
