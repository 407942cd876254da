"""The journal of a campaign: what was done, what was found, what is under way. SQLite, written by one process.

It does not grow with the time that a campaign takes. A task has a row from before it is begun until its result is
in; then the row goes and its figures are added to the sums, in one transaction: so no run is counted twice, and none
that was begun is forgotten. `commit` makes all since the last one hold at once, through a crash of the process and of
the machine (WAL, and a sync for each).

Opening a journal checks all of it, see `rows` and `commits`; the settings are kept in it a second time. A journal may
come from anywhere, so it is opened as SQLite advises for files that nobody vouches for (sqlite.org/security.html), and
only where its tables are the right ones. What the rows may say is checked in `integrity`.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fuzzvm.campaigns import commits
from fuzzvm.campaigns.commits import CommitCount
from fuzzvm.campaigns.errors import CampaignError, DamagedError
from fuzzvm.campaigns.guilty import GuiltyPair
from fuzzvm.campaigns.rows import (
    FORMAT,
    MODULUS,
    SCHEMA,
    TABLES,
    Row,
    digest,
    rows,
    typed,
)
from fuzzvm.files import databases
from fuzzvm.files.printable import printable

COUNT = "journal.commits"
"""The file beside a journal that counts its commits."""

UNSETTLED = "unsettled"
SETTLED = "settled"
DIFFERS = "differs"
STATES = (UNSETTLED, SETTLED, DIFFERS)

MANY = 3
"""Samples that a pair was in are counted up to here: what the estimate of those in none asks for is one, and two."""

FIGURES = ("format", "next_task", "seconds", "begun", "last_new", "rebuilt")
"""The figures of a campaign as a whole; see `Journal.value`."""


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that was begun and has not been done. `target` is its number in the settings."""

    number: int
    target: int
    engine: str
    runs: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What has been done, by one engine or in all. `samples` are the tasks that have said which pairs were in them."""

    tasks: int = 0
    runs: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    pairs: int = 0
    failing: int = 0
    samples: int = 0

    def values(self) -> tuple[Any, ...]:
        """Return the figures in their order."""
        return dataclasses.astuple(self)

    def __add__(self, more: Sums) -> Sums:
        return Sums(*map(sum, zip(self.values(), more.values(), strict=True)))


class Sample(NamedTuple):
    """How far a campaign had come. `time` is in seconds since 1970, `undiscovered` an estimate of the pairs left."""

    time: float
    runs: int
    pairs: int
    findings: int
    undiscovered: float


@dataclass(frozen=True, slots=True)
class FailingRow:
    """A way to fail of one target. `file` is its test case, in the folder that goes with its state."""

    id: int
    target: int
    error: str
    pair: GuiltyPair
    found: str
    message: str
    state: str
    file: str


@dataclass(frozen=True, slots=True)
class FindingRow:
    """A finding. `proven` and `claimed_safe` are 0 or 1; `time` is when it was saved, in seconds since 1970."""

    mitigation: str
    error: str
    pair: GuiltyPair
    schedule: str
    file: str
    scenario: str
    engine: str
    message: str
    proven: int
    claimed_safe: int
    time: float


class Journal:
    """An open journal. What is written holds from the next `commit` on.

    Methods raise sqlite3.Error where the disk does; `told` says what that means.
    """

    def __init__(self, path: Path, *, only_read: bool = False, still: bool = False) -> None:
        """Open a journal and check it. Raises CampaignError, DamagedError.

        `still` says that nobody writes to it meanwhile: to be read alone, it then needs no files beside it.
        """
        self._path = path
        self._count: CommitCount | None = None
        if not path.exists():
            raise DamagedError(path.parent, f"{path.name} is missing")
        # before the journal: a commit meanwhile must not look like one that was lost
        counted = commits.read(path.with_name(COUNT))
        try:
            mode = "rw" if not only_read else "ro&immutable=1" if still and not _has_log(path) else "ro"
            self.connection = databases.connection_to(path, mode)
        except sqlite3.Error as error:
            raise told(error, path) from error
        try:
            self.connection.execute("BEGIN")
            self._commits, self._total = self._checked(counted)
            if not only_read:
                self.connection.execute("COMMIT")
                self._begin_writing()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self.connection.close()
            raise told(error, path) from error
        except BaseException:
            self.connection.close()
            raise

    @classmethod
    def create(cls, path: Path, settings: str) -> Journal:
        """Return a new journal of a campaign with these settings, open for writing. Raises sqlite3.Error, OSError."""
        journal = cls.__new__(cls)
        journal._path = path
        journal._count = None
        journal._commits = journal._total = 0
        journal.connection = databases.connection_to(path, "rwc")
        journal._begin_writing()
        for statement in SCHEMA:
            journal.connection.execute(statement)
        journal.connection.execute("INSERT INTO seal VALUES (0, 0, 0)")
        journal._insert("settings", settings)
        for name in FIGURES:
            value = {"format": FORMAT, "next_task": 1, "begun": time.time()}.get(name, 0)
            journal._insert("campaign", name, value)
        journal.commit()
        return journal

    def _begin_writing(self) -> None:
        self._one("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self._count = CommitCount(self._path.with_name(COUNT))
        self.connection.execute("BEGIN IMMEDIATE")

    def _checked(self, counted: int | None) -> tuple[int, int]:
        """Return the number of commits and the sum of all digests. Raises DamagedError, sqlite3.Error."""
        folder = self._path.parent
        if databases.schema(self.connection) != databases.schema_of(SCHEMA):
            self._check_format(needed=False)
            raise DamagedError(folder, f"{self._path.name} has not the tables of a journal")
        ((whole,), *more) = self.connection.execute("PRAGMA integrity_check").fetchall()
        if whole != "ok" or more:
            raise DamagedError(folder, f"{self._path.name}: {str(whole).splitlines()[-1]}")
        total = 0
        for table in TABLES:
            for row, right in rows(self.connection, table):
                if not right:
                    raise DamagedError(folder, f"a row of {table} in {self._path.name} is not what was written")
                total += digest(table, row)
        seals = self.connection.execute("SELECT * FROM seal").fetchall()
        done = seals[0][0] if seals else 0
        seal = (done, total % MODULUS)
        if type(done) is not int or seals != [(*seal, digest("seal", seal))]:
            raise DamagedError(folder, f"rows of {self._path.name} were lost or added")
        self._check_format(needed=True)
        if counted is None:
            raise DamagedError(folder, f"{COUNT} is missing, or holds no number")
        if done < counted:
            raise DamagedError(folder, f"{self._path.name} has lost {counted - done} of its {counted} commits")
        return done, total % MODULUS

    def _check_format(self, *, needed: bool) -> None:
        """Raise CampaignError where the journal says that it is of another format, or where it says none and must."""
        try:
            format_of = self.value("format")
        except sqlite3.Error:
            if needed:
                raise
            return
        if format_of != FORMAT and (needed or format_of):
            raise CampaignError(f"{self._path}: format {format_of:g} is not one that this fuzzvm reads")

    def settings(self) -> str:
        """Return the text of the campaign's settings."""
        texts = self.connection.execute("SELECT text FROM settings").fetchall()
        if len(texts) != 1:
            raise DamagedError(self._path.parent, f"{self._path.name} has the settings {len(texts)} times")
        return str(texts[0][0])

    def commit(self) -> None:
        """Make all that was written hold."""
        self._commits += 1
        seal = (self._commits, self._total)
        self.connection.execute("UPDATE seal SET commits = ?, total = ?, digest = ?", (*seal, digest("seal", seal)))
        self.connection.execute("COMMIT")
        if self._count is not None:
            # the first one is synced, so that its file is there whole
            self._count.write(self._commits, sync=self._commits == 1)
        self.connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close it; what was not committed is gone."""
        self.connection.rollback()
        self.connection.close()
        if self._count is not None:
            self._count.close()

    # Rows

    def _insert(self, table: str, *values: Any) -> None:
        # what is kept is printed some day; the settings are JSON, and have their line ends
        shown = [printable(value) if isinstance(value, str) and table != "settings" else value for value in values]
        row = typed(table, tuple(shown))
        number = digest(table, row)
        self.connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * (len(row) + 1))})", (*row, number))
        self._total = (self._total + number) % MODULUS

    def _take(self, table: str, where: str, *values: Any) -> list[Row]:
        """Delete rows; return what was in them."""
        taken = self.connection.execute(f"SELECT * FROM {table} WHERE {where}", values).fetchall()
        self.connection.execute(f"DELETE FROM {table} WHERE {where}", values)
        self._total = (self._total - sum(number for *_, number in taken)) % MODULUS
        return [tuple(row) for *row, _ in taken]

    def _rows(self, table: str, order: str, where: str = "1", *values: Any) -> Iterator[Row]:
        for *row, _ in self.connection.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY {order}", values):
            yield tuple(row)

    # Tasks

    def begin_task(self, target: int, engine: str, runs: int) -> OpenTask:
        """Give a new task its number, from 1 on, and keep it as begun."""
        number = int(self.value("next_task"))
        self.set_value("next_task", number + 1)
        task = OpenTask(number, target, engine, runs)
        self.add_open(task)
        return task

    def add_open(self, task: OpenTask) -> None:
        """Keep a task as begun."""
        self._insert("open_task", task.number, task.target, task.engine, task.runs)

    def open_tasks(self) -> list[OpenTask]:
        """Return the tasks that were begun and not done, in their order."""
        return [OpenTask(*row) for row in self._rows("open_task", "number")]

    def end_task(self, task: OpenTask, sums: Sums) -> None:
        """Add what came of a task. Raises ValueError for one that is not open: its runs would count twice."""
        if len(self._take("open_task", "number = ?", task.number)) != 1:
            raise ValueError(f"task {task.number} is not open")
        self.add_done(task.target, task.engine, sums)

    def add_done(self, target: int, engine: str, sums: Sums) -> None:
        """Add to what was done by an engine on a target."""
        before = self._take("done", "target = ? AND engine = ?", target, engine)
        known = Sums(*before[0][2:]) if before else Sums()
        self._insert("done", target, engine, *(known + sums).values())

    def sums(self) -> dict[tuple[int, str], Sums]:
        """Return what was done, by target and engine."""
        return {(row[0], row[1]): Sums(*row[2:]) for row in self._rows("done", "target, engine")}

    def runs(self) -> int:
        """Return how many runs were done."""
        return int(self._one("SELECT coalesce(sum(runs), 0) FROM done"))

    # Coverage

    def add_pairs(self, target: int, pairs: Mapping[int, int]) -> None:
        """Keep pairs that a target has covered, with the number of samples that each was in, up to MANY."""
        for pair, samples in pairs.items():
            self._take("pair", "target = ? AND pair = ?", target, pair)
            self._insert("pair", target, pair, samples)

    def pairs(self) -> dict[tuple[int, int], int]:
        """Return in how many samples each pair was, up to MANY, by target and pair."""
        return {(row[0], row[1]): row[2] for row in self._rows("pair", "target, pair")}

    # Findings

    def add_failing(
        self, target: int, error: str, pair: GuiltyPair, found: str, message: str, file: str, state: str = UNSETTLED
    ) -> None:
        """Keep a way to fail, by default one that is still to be settled."""
        number = int(self._one("SELECT coalesce(max(id), 0) + 1 FROM failing"))
        self._insert("failing", number, target, error, *pair, found, message, state, file)

    def failing(self, state: str | None = None) -> list[FailingRow]:
        """Return the ways to fail, those in one state or all, in the order in which they were found."""
        where, values = ("1", ()) if state is None else ("state = ?", (state,))
        return [
            FailingRow(row[0], row[1], row[2], GuiltyPair(*row[3:5]), *row[5:])
            for row in self._rows("failing", "id", where, *values)
        ]

    def settle(self, failing: int, state: str) -> None:
        """Say what came of a way to fail."""
        for row in self._take("failing", "id = ?", failing):
            self._insert("failing", *row[:7], state, row[8])

    def add_finding(self, row: FindingRow) -> bool:
        """Keep a finding; return whether there was none with its error, pair and schedule."""
        same = "mitigation = ? AND error = ? AND failed = ? AND freed = ? AND schedule = ?"
        if list(self._rows("finding", "id", same, row.mitigation, row.error, *row.pair, row.schedule)):
            return False
        self._insert(
            "finding",
            int(self._one("SELECT coalesce(max(id), 0) + 1 FROM finding")),
            row.mitigation,
            row.error,
            *row.pair,
            row.schedule,
            row.file,
            row.scenario,
            row.engine,
            row.message,
            row.proven,
            row.claimed_safe,
            row.time,
        )
        return True

    def findings(self) -> list[FindingRow]:
        """Return the findings in the order in which they were saved."""
        return [FindingRow(row[1], row[2], GuiltyPair(*row[3:5]), *row[5:]) for row in self._rows("finding", "id")]

    # What happened

    def add_cover(self, target: int, cover: Iterable[tuple[str, bool]]) -> None:
        """Add for each cover point that a target is for whether some of its runs have met it."""
        for point, met in cover:
            before = self._take("cover", "target = ? AND point = ?", target, point)
            self._insert("cover", target, point, int(met or any(row[2] for row in before)))

    def cover(self) -> dict[int, dict[str, bool]]:
        """Return for each target the cover points that it is for, and whether a run has met them."""
        found: dict[int, dict[str, bool]] = {}
        for target, point, met in self.cover_rows():
            found.setdefault(target, {})[point] = bool(met)
        return found

    def cover_rows(self) -> list[Row]:
        """Return that as rows: target, cover point, and 1 or 0."""
        return list(self._rows("cover", "target, point"))

    # The campaign as a whole

    def value(self, name: str) -> float:
        """Return a figure of the campaign as a whole, by name.

        `next_task` is the number of the next task, `seconds` the time in all sittings; `begun`, `last_new` and
        `rebuilt` are times since 1970, 0 for never.
        """
        return float(self._one("SELECT value FROM campaign WHERE name = ?", name))

    def figures(self) -> list[tuple[str, float]]:
        """Return all of these figures."""
        return self.connection.execute("SELECT name, value FROM campaign").fetchall()

    def set_value(self, name: str, value: float) -> None:
        """Set one of these figures."""
        self._take("campaign", "name = ?", name)
        self._insert("campaign", name, value)

    def sample(self, runs: int, pairs: int, findings: int, undiscovered: float) -> None:
        """Keep how far it has come by now, and how many pairs are estimated to be left."""
        now = time.time()
        self._take("sample", "time = ?", now)
        self._insert("sample", now, runs, pairs, findings, undiscovered)

    def samples(self, since: float) -> list[Sample]:
        """Return how far it had come, when, from a time on."""
        return [Sample(*row) for row in self._rows("sample", "time", "time >= ?", since)]

    def say(self, what: str, when: float | None = None) -> None:
        """Keep an event: a worker that died, a sitting that began or ended; by default one of now."""
        self._insert("event", time.time() if when is None else when, what)

    def events(self) -> list[tuple[float, str]]:
        """Return the events in their order."""
        return self.connection.execute("SELECT time, what FROM event ORDER BY time").fetchall()

    def _one(self, question: str, *values: object) -> float:
        row = self.connection.execute(question, values).fetchone()
        return row[0] if row is not None and isinstance(row[0], int | float) else 0


def told(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> CampaignError:
    """Return what an error of SQLite's means: that a journal is damaged, or that the system does not let it be used.

    A UnicodeDecodeError is a message of SQLite's that repeats what is in the file, and is no text.
    """
    if databases.of_the_system(error):
        return CampaignError(f"{path}: {error}")
    return DamagedError(path.parent, f"{path.name}: {error}")


def _has_log(path: Path) -> bool:
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0
