"""Reads a certificate: a file that nobody vouches for, of which no part is believed before it is checked."""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.ops import Barrier
from fuzzvm.machine.schedule import MAX_STEPS, Schedule, Step, parse_schedule
from fuzzvm.scenario import ordering_points
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario

MAGIC = b"fuzzvm certificate 1\n"
MAX_BYTES = 1 << 26
"""Of a file."""
MAX_HEADER = 1 << 24
"""Of the header, once it is unpacked."""
MAX_STATES = 1 << 24
COLUMNS = 3
_WORD = 4
"""Bytes of a number of a column."""
_MAX_WAYS = 1 << 16
_FACTS = ("load", "read", "fetch", "ordering", "free")
_FLAGS = ("looks", "overtakes", "stores", "exact")

Fact = tuple[str, Any]
"""Something that a CPU may do: its kind, and the location, object or barrier; None where the kind says it all."""
Claim = frozenset[Fact]


class UnreadableError(Exception):
    """A file is no certificate that can be read: one line that says why."""


@dataclass(frozen=True)
class TaskNamed:
    """The task that a certificate is about, as its header names it."""

    scenario: Scenario
    mitigation: str
    memory: str
    without: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Bug:
    """A run that goes wrong: its schedule, the error, and the function that it happens in."""

    task: TaskNamed
    schedule: Schedule
    error: str
    function: str


@dataclass(frozen=True)
class Safe:
    """All states of a task, breadth first.

    State `i` above 0 is come to from `parents[i]` by `steps[i]`. `ranks` says how many steps lead from each to an end.
    `claims` says for each local state, in the order in which they are met, what its CPU may still do; it is empty where
    memory forgets nothing. `entries` are the locations that oracles may look at, `orders` the orders of two locks that
    they remember: which is held, which is taken.
    """

    task: TaskNamed
    parents: Sequence[int]
    steps: Sequence[Step]
    ranks: Sequence[int]
    claims: Sequence[Claim]
    entries: frozenset[int]
    orders: frozenset[tuple[int, int]]


def read(path: Path) -> Safe | Bug:
    """Return the certificate in a file. Raises UnreadableError, and nothing else."""
    try:
        raw = read_bytes(path, MAX_BYTES)
    except FileError as error:
        raise UnreadableError(error.why) from error
    if not raw.startswith(MAGIC):
        raise UnreadableError("no certificate of this format")
    unpacked = _unpacked(raw[len(MAGIC) :])
    end = unpacked.find(b"\n", 0, MAX_HEADER)
    if end < 0:
        raise UnreadableError("its header does not end")
    return _Header(_json(unpacked[:end])).certificate(memoryview(unpacked)[end + 1 :])


def _unpacked(packed: bytes) -> bytes:
    """Return what was packed, which is no more than a certificate may have."""
    most = MAX_HEADER + MAX_STATES * COLUMNS * _WORD
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, most)
    except zlib.error as error:
        raise UnreadableError(f"damaged: {error}") from error
    if stream.unconsumed_tail:
        raise UnreadableError(f"unpacks to more than {most} bytes")
    if not stream.eof:
        raise UnreadableError("cut off")
    if stream.unused_data:
        raise UnreadableError("goes on after its end")
    return unpacked


def _json(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw.decode("utf-8"))
    except RecursionError as error:
        raise UnreadableError("its header is nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"its header is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise UnreadableError("its header is no JSON object")
    return found


class _Header:
    """Takes the parts of a header, each of its type. Raises UnreadableError."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def certificate(self, columns: memoryview) -> Safe | Bug:
        verdict = self._text("verdict")
        if verdict == "bug":
            if columns:
                raise UnreadableError("states in the certificate of a bug")
            bug = Bug(self._task(), self._schedule(), self._text("error"), self._text("function"))
            self._end()
            return bug
        if verdict != "safe":
            raise UnreadableError("its verdict is neither safe nor bug")
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self._text("python") != python:
            raise UnreadableError(f"not made under Python {python}: what a local state is depends on that")
        count = self._number(self._take("states"), MAX_STATES + 1)
        if not count or len(columns) != count * COLUMNS * _WORD:
            raise UnreadableError(f"not the columns of {count} states")
        parents, numbers, ranks = (_column(columns, count, index) for index in range(COLUMNS))
        table = [self._step(step) for step in self._list("steps")]
        _use_all(numbers[1:], len(table), "steps")
        came_from = 0
        for state in range(count):
            came_from += parents[state]
            if came_from >= max(state, 1):
                raise UnreadableError(f"state {state} comes before the state that it is come to from")
            parents[state] = came_from
        steps = [(), *(table[number] for number in numbers[1:])]
        orders = frozenset(self._order(order) for order in self._list("orders"))
        entries = frozenset(self._number(entry) for entry in self._list("entries"))
        safe = Safe(self._task(), parents, steps, ranks, self._claims(), entries, orders)
        self._end()
        return safe

    def _task(self) -> TaskNamed:
        data = self._take("scenario")
        if not isinstance(data, dict):
            raise UnreadableError("scenario is no object")
        try:
            scenario = Scenario.from_data(data)
        except ScenarioError as error:
            raise UnreadableError(f"its scenario: {error}") from error
        memory, without = self._text("memory"), self._list("without")
        if memory not in memory_models.names():
            raise UnreadableError("a memory model that there is not")
        if not all(isinstance(point, str) and point in ordering_points.names() for point in without):
            raise UnreadableError("without names what is no ordering point")
        return TaskNamed(scenario, self._text("mitigation"), memory, tuple(without), self._text("task"))

    def _schedule(self) -> Schedule:
        try:
            return parse_schedule(self._text("schedule"))
        except ValueError as error:
            raise UnreadableError(f"its schedule: {error}") from error

    def _claims(self) -> list[Claim]:
        facts = [self._fact(fact) for fact in self._list("facts")]
        claims = self._list("claims")
        if not all(isinstance(claim, list) for claim in claims):
            raise UnreadableError("a claim is no list")
        numbers = [[self._number(number) for number in claim] for claim in claims]
        _use_all([number for claim in numbers for number in claim], len(facts), "facts")
        kinds = [frozenset(facts[number] for number in claim) for claim in numbers]
        local = [self._number(number) for number in self._list("locals")]
        _use_all(local, len(kinds), "claims")
        return [kinds[number] for number in local]

    def _fact(self, fact: Any) -> Fact:
        match fact:
            case ["barrier", str(name)] if name in {kind.value for kind in Barrier}:
                return "barrier", Barrier(name)
            case [str(kind), which] if kind in _FACTS:
                return kind, self._number(which)
            case [str(kind), None] if kind in _FLAGS:
                return kind, None
        raise UnreadableError("a fact that there is not")

    def _order(self, order: Any) -> tuple[int, int]:
        if not isinstance(order, list) or len(order) != 2:
            raise UnreadableError("an order of locks that is no pair")
        return self._number(order[0]), self._number(order[1])

    def _step(self, step: Any) -> Step:
        if not isinstance(step, list) or not step:
            raise UnreadableError("a step that is none")
        return tuple(self._number(part, _MAX_WAYS) for part in step)

    def _number(self, number: Any, bound: int = 1 << 63) -> int:
        if type(number) is not int or not 0 <= number < bound:
            raise UnreadableError("a number that is none, or is out of its bounds")
        return number

    def _text(self, key: str) -> str:
        text = self._take(key)
        if not isinstance(text, str) or len(text) > 16 * MAX_STEPS:
            raise UnreadableError(f"{key} is no text")
        return text

    def _list(self, key: str) -> list[Any]:
        found = self._take(key)
        if not isinstance(found, list):
            raise UnreadableError(f"{key} is no list")
        return found

    def _take(self, key: str) -> Any:
        if key not in self._data:
            raise UnreadableError(f"its header lacks {key}")
        return self._data.pop(key)

    def _end(self) -> None:
        """Refuse what would be said and not looked at."""
        if self._data:
            raise UnreadableError(f"its header has {next(iter(self._data))!r}, which nobody knows")


def _use_all(numbers: Iterable[int], count: int, table: str) -> None:
    """Raise UnreadableError unless these numbers are those of all entries of a table."""
    used = set(numbers)
    if used != set(range(count)):
        raise UnreadableError(f"its {table} are not those that it uses")


def _column(columns: memoryview, count: int, index: int) -> array[int]:
    numbers = array("I", bytes(columns[index * count * _WORD : (index + 1) * count * _WORD]))
    assert numbers.itemsize == _WORD
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
