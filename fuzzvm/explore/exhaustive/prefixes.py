"""Many schedules that begin alike, in little room: what one process tells another of the states that it came to."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from fuzzvm.machine.schedule import Schedule, Step


class Prefixes(NamedTuple):
    """Schedules in order; each is written as how much it has in common with the one before it, and the rest.

    `words` is an array of 32-bit numbers in the byte order of the machine that wrote it: for each schedule the steps in
    common, the number of those that follow, and for each of these its place in `steps`.
    """

    steps: tuple[Step, ...]
    words: bytes

    @classmethod
    def of(cls, schedules: Iterable[Schedule]) -> Prefixes:
        """Return schedules written down."""
        places: dict[Step, int] = {}
        words = array("I")
        before: Schedule = ()
        for schedule in sorted(schedules):
            alike = 0
            for one, other in zip(before, schedule, strict=False):
                if one != other:
                    break
                alike += 1
            words.extend((alike, len(schedule) - alike))
            words.extend([places.setdefault(step, len(places)) for step in schedule[alike:]])
            before = schedule
        return cls(tuple(places), words.tobytes())

    def read(self) -> Iterator[tuple[int, Schedule]]:
        """Yield for each schedule how many steps it has in common with the one before it, and those that follow."""
        words = array("I")
        words.frombytes(self.words)
        at = 0
        while at < len(words):
            alike, count = words[at], words[at + 1]
            at += 2
            yield alike, tuple([self.steps[place] for place in words[at : at + count]])
            at += count
