"""Where a schedule switches, in words that hold in another scenario too.

A number of steps means nothing in a smaller scenario. That CPU 1 stands before its load in ptdump_pte_entry does: a
landmark is the operation and function that an agent stands before when its burst ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Landmark:
    """The end of a burst: the agent, and what it stands before, or None where it cannot go on or the run ends."""

    agent: int
    before: tuple[str, str] | None
    values: tuple[int, ...] = ()


def _position(machine: Machine, agent: int) -> tuple[str, str] | None:
    if agent >= machine.memory.cpus or (op := machine.pending(agent)) is None:
        return None
    return type(op).__name__, machine.stack(agent)[0]


class _Watch(Replay):
    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self.marks: list[Landmark] = []
        self._agent: int | None = None
        self._seen: list[int] = []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        agent = super().agent(enabled, machine)
        if self._agent is not None and agent != self._agent:
            self._end(machine if self._agent in enabled else None)
        self._agent = agent
        return agent

    def value(self, ways: int) -> int:
        way = super().value(ways)
        self._seen.append(way)
        return way

    def _end(self, machine: Machine | None) -> None:
        assert self._agent is not None
        before = None if machine is None else _position(machine, self._agent)
        self.marks.append(Landmark(self._agent, before, tuple(self._seen)))
        self._seen.clear()

    def last(self) -> list[Landmark]:
        if self._agent is not None:
            self._end(None)
        return self.marks


def landmarks(machine: Machine, schedule: Schedule) -> list[Landmark]:
    """Return the landmarks of a schedule that a machine can follow."""
    watch = _Watch(schedule)
    execute(machine, watch, max_steps=len(schedule))
    return watch.last()


class FollowLandmarks:
    """The chooser that lets each agent run to its landmark, in their order; `renumbered` maps old agents to new."""

    def __init__(self, marks: Sequence[Landmark], renumbered: Mapping[int, int]) -> None:
        self._marks = [mark for mark in marks if mark.agent in renumbered]
        self._renumbered = renumbered
        self._stepped = False
        self._values: list[int] = []
        self._next = 0
        self._load_values()

    def _load_values(self) -> None:
        self._values = list(reversed(self._marks[self._next].values)) if self._next < len(self._marks) else []

    def agent(self, enabled: Sequence[int], machine: Machine) -> int:
        while self._next < len(self._marks):
            mark = self._marks[self._next]
            agent = self._renumbered[mark.agent]
            arrived = self._stepped and mark.before is not None and _position(machine, agent) == mark.before
            if agent in enabled and not arrived:
                self._stepped = True
                return agent
            self._next += 1
            self._stepped = False
            self._load_values()
        return enabled[0]

    def value(self, ways: int) -> int:
        return self._values.pop() % ways if self._values else 0
