"""The state of one litmus thread while it runs: registers with their views, views of memory, and its messages.

A thread runs against a timeline that already holds messages of its own that it has not come to yet (promises). When
it comes to a store, it either fulfils one of them or puts a new message at the end. Both are ways to go on.
"""

from __future__ import annotations

from typing import NamedTuple

from fuzzvm.machine.memory.arm64.timeline import CLEAN, STORE, Message, Timeline
from fuzzvm.machine.memory.arm64.views import Views

Register = tuple[int, int, int]
"""Value, the view it depends on, and the view it depends on counting pick dependencies too."""

ZERO: Register = (0, 0, 0)
FLAGS = 32
LINK = 30
EXCEPTION_LINK = 33
REGISTERS = 34

ORDERED: tuple[int, ...] = (STORE, CLEAN)
"""The kinds of message that a thread puts in program order where they are to one location (lmws, po-scl-ob)."""
UPDATED: tuple[int, ...] = (CLEAN,)
"""The same for a thread whose walks update page-table entries, in whatever order."""

Position = tuple[int, int]
"""Thread whose code it is, and index; a fault handler's thread is negative, see `program` of `semantics`."""


class Fault(NamedTuple):
    """A fault that a thread has taken: `at` is the index of the instruction. `kind` is as herd7 names it."""

    at: int
    location: str
    kind: str


class Reservation:
    """What the last load exclusive reserved: location, what it read, and its place on the timeline. Immutable."""

    __slots__ = ("address", "at", "source")

    def __init__(self, address: int, source: int, at: int) -> None:
        self.address = address
        self.source = source
        self.at = at


class ThreadRun:
    """One thread on its way. Mutable; `copy` where it can go on in more ways than one."""

    __slots__ = (
        "base",
        "candidates",
        "cpu",
        "faults",
        "open",
        "ordered",
        "position",
        "previous",
        "registers",
        "reservation",
        "steps",
        "timeline",
        "views",
    )

    def __init__(self, cpu: int, registers: list[Register], timeline: Timeline, views: Views | None = None) -> None:
        self.cpu = cpu
        self.position: Position = (cpu, 0)
        self.previous: Position = (cpu, -1)
        """Where the instruction stood that was executed last."""
        self.registers = registers
        self.views = Views() if views is None else views
        self.timeline = timeline
        self.base = len(timeline)
        self.open = tuple(i + 1 for i, message in enumerate(timeline.messages) if message.cpu == cpu)
        """Timestamps of the promises that are not fulfilled yet."""
        self.candidates: tuple[tuple[Message, int], ...] = ()
        """New messages that could come right after the timeline that the run began with, with their floors."""
        self.reservation: Reservation | None = None
        self.faults: frozenset[Fault] = frozenset()
        self.ordered = ORDERED
        self.steps = 0

    def copy(self) -> ThreadRun:
        """Return an equal run that goes its own way."""
        other = ThreadRun.__new__(ThreadRun)
        other.cpu = self.cpu
        other.position = self.position
        other.previous = self.previous
        other.registers = self.registers.copy()
        other.views = self.views.copy()
        other.timeline = self.timeline
        other.base = self.base
        other.open = self.open
        other.candidates = self.candidates
        other.reservation = self.reservation
        other.faults = self.faults
        other.ordered = self.ordered
        other.steps = self.steps
        return other

    def key(self) -> tuple[object, ...]:
        """Return a value that is equal for runs of one thread on one timeline that go on alike."""
        reservation = self.reservation
        reserved = None if reservation is None else (reservation.address, reservation.source, reservation.at)
        own = self.timeline.messages[self.base :]
        views = self.views.key()
        return (self.position, tuple(self.registers), views, own, self.open, self.candidates, reserved, self.faults)

    def put(
        self, kind: int, address: int | None, value: object, floor: int, source: int | None = None
    ) -> list[tuple[ThreadRun, int]]:
        """Return each way to put a message later than `floor`, with its timestamp.

        With `source`, the message is the store of an atomic that read from there. There may be no way.
        """
        timeline = self.timeline
        if self.open and self._hopeless():
            return []
        message = Message(kind, self.cpu, address, value)
        ways = []
        for timestamp in self.open:
            promise = timeline.messages[timestamp - 1]
            atomic = source is None or timeline.atomic(address, source, timestamp)
            fits = timestamp > floor and promise == message and atomic
            open_then = tuple(t for t in self.open if t != timestamp)
            if kind in self.ordered and promise.kind in self.ordered and promise.address == address:
                # coherence: if this message were not the promise, nothing that comes after it could be
                if fits:
                    self.open = open_then
                return [(self, timestamp)] if fits else []
            if fits:
                other = self.copy()
                other.open = open_then
                ways.append((other, timestamp))
        end = len(timeline) + 1
        if source is None or timeline.atomic(address, source, end):
            if floor <= self.base:
                self.candidates = (*self.candidates, (message, floor))
            self.timeline = timeline.extend(message)
            ways.append((self, end))
        elif kind not in self.ordered and floor <= self.base and timeline.atomic(address, source, self.base + 1):
            # an update by a walk, between which and what it read stand new messages of this run alone: it may come
            # before them, and with those the run shows no outcome
            self.candidates = (*self.candidates, (message, floor))
            ways.append((self, self.base + 1))
        return ways

    def _hopeless(self) -> bool:
        """Return whether some promise lies before all that this thread may still do, so that nothing fulfils it."""
        views = self.views
        # updates of page-table entries wait for less than other stores do
        store = max(views.write_floor if STORE in self.ordered else 0, views.control, views.address)
        clean = max(views.clean_floor, views.control)
        floors = (store, clean, views.invalidate_floor, views.invalidate_floor)
        messages = self.timeline.messages
        return any(timestamp <= floors[messages[timestamp - 1].kind] for timestamp in self.open)

    def store_ways(
        self, address: int, value: int, floor: int, source: int | None = None
    ) -> list[tuple[ThreadRun, int]]:
        """Return each way to put a store, as `put` does."""
        return self.put(STORE, address, value, floor, source)
