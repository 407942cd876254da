"""The journal of a campaign: what was done, what was found, what is under way. SQLite, written by one process.

It does not grow with the time that a campaign takes. A task has a row from before it is begun until its result is
in; then the row goes and its figures are added to the sums, in one transaction: so no run is counted twice, and none
that was begun is forgotten. `commit` makes all since the last one hold at once, through a crash of the process and of
the machine (WAL, and a sync for each).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.explore.campaigns.errors import CampaignError
from fuzzvm.explore.campaigns.guilty import GuiltyPair

_SCHEMA = """
CREATE TABLE campaign (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
INSERT INTO campaign VALUES ('format', 1), ('next_task', 1), ('seconds', 0), ('begun', 0), ('last_new', 0);
CREATE TABLE open_task (
    number INTEGER PRIMARY KEY, target INTEGER NOT NULL, engine TEXT NOT NULL, runs INTEGER NOT NULL);
CREATE TABLE done (
    target INTEGER, engine TEXT, tasks INTEGER NOT NULL, runs INTEGER NOT NULL, steps INTEGER NOT NULL,
    cpu_seconds REAL NOT NULL, pairs INTEGER NOT NULL, failing INTEGER NOT NULL, PRIMARY KEY (target, engine)
) WITHOUT ROWID;
CREATE TABLE pair (target INTEGER, pair INTEGER, PRIMARY KEY (target, pair)) WITHOUT ROWID;
CREATE TABLE failing (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL, error TEXT NOT NULL, failed TEXT NOT NULL, freed TEXT NOT NULL,
    found TEXT NOT NULL, message TEXT NOT NULL, state TEXT NOT NULL, file TEXT NOT NULL,
    UNIQUE (target, error, failed, freed));
CREATE TABLE finding (
    id INTEGER PRIMARY KEY, mitigation TEXT NOT NULL, error TEXT NOT NULL, failed TEXT NOT NULL, freed TEXT NOT NULL,
    schedule TEXT NOT NULL, file TEXT NOT NULL, scenario TEXT NOT NULL, engine TEXT NOT NULL, message TEXT NOT NULL,
    proven INTEGER NOT NULL, claimed_safe INTEGER NOT NULL, time REAL NOT NULL,
    UNIQUE (mitigation, error, failed, freed, schedule));
CREATE TABLE sample (time REAL PRIMARY KEY, runs INTEGER, pairs INTEGER, findings INTEGER) WITHOUT ROWID;
CREATE TABLE event (time REAL NOT NULL, what TEXT NOT NULL);
"""

UNSETTLED = "unsettled"
SETTLED = "settled"
DIFFERS = "differs"


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task that was begun and has not been done. `target` is its number in the settings."""

    number: int
    target: int
    engine: str
    runs: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What has been done, by one engine or in all."""

    tasks: int = 0
    runs: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0
    pairs: int = 0
    failing: int = 0


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

    Methods raise sqlite3.Error where the disk does, and for a damaged file.
    """

    def __init__(self, path: Path, *, new: bool = False, only_read: bool = False) -> None:
        if not new and not path.exists():
            raise CampaignError(f"{path}: no such file")
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=30.0)
        if only_read:
            self.connection.execute("PRAGMA query_only=ON")
            self.connection.execute("BEGIN")
            return
        self._one("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=FULL")
        self.connection.execute("BEGIN IMMEDIATE")
        # whoever was killed between the making of the file and this has left an empty one
        if not self._one("SELECT count(*) FROM sqlite_master"):
            for statement in _SCHEMA.split(";\n"):
                self.connection.execute(statement)
            self._set("begun", time.time())
        self.commit()

    def commit(self) -> None:
        """Make all that was written hold."""
        self.connection.execute("COMMIT")
        self.connection.execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close it; what was not committed is gone."""
        self.connection.rollback()
        self.connection.close()

    # Tasks

    def begin_task(self, target: int, engine: str, runs: int) -> OpenTask:
        """Give a new task its number, from 1 on, and keep it as begun."""
        number = int(self.value("next_task"))
        self._set("next_task", number + 1)
        self.connection.execute("INSERT INTO open_task VALUES (?, ?, ?, ?)", (number, target, engine, runs))
        return OpenTask(number, target, engine, runs)

    def open_tasks(self) -> list[OpenTask]:
        """Return the tasks that were begun and not done, in their order."""
        return [OpenTask(*row) for row in self.connection.execute("SELECT * FROM open_task ORDER BY number")]

    def end_task(self, task: OpenTask, sums: Sums) -> None:
        """Add what came of a task. Raises ValueError for one that is not open: its runs would count twice."""
        if self.connection.execute("DELETE FROM open_task WHERE number = ?", (task.number,)).rowcount != 1:
            raise ValueError(f"task {task.number} is not open")
        self.connection.execute(
            "INSERT INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET tasks = tasks + excluded.tasks,"
            " runs = runs + excluded.runs, steps = steps + excluded.steps,"
            " cpu_seconds = cpu_seconds + excluded.cpu_seconds, pairs = pairs + excluded.pairs,"
            " failing = failing + excluded.failing",
            (
                task.target,
                task.engine,
                sums.tasks,
                sums.runs,
                sums.steps,
                sums.cpu_seconds,
                sums.pairs,
                sums.failing,
            ),
        )

    def sums(self) -> dict[tuple[int, str], Sums]:
        """Return what was done, by target and engine."""
        return {(row[0], row[1]): Sums(*row[2:]) for row in self.connection.execute("SELECT * FROM done")}

    def runs(self) -> int:
        """Return how many runs were done."""
        return int(self._one("SELECT coalesce(sum(runs), 0) FROM done"))

    # Coverage

    def add_pairs(self, target: int, pairs: Iterable[int]) -> None:
        """Keep pairs that a target had not covered."""
        self.connection.executemany("INSERT INTO pair VALUES (?, ?)", [(target, pair) for pair in pairs])

    def pairs(self) -> list[tuple[int, int]]:
        """Return all pairs with their targets."""
        return self.connection.execute("SELECT target, pair FROM pair").fetchall()

    def count_pairs(self) -> int:
        """Return how many pairs were covered."""
        return int(self._one("SELECT count(*) FROM pair"))

    # Findings

    def add_failing(self, target: int, error: str, pair: GuiltyPair, found: str, message: str, file: str) -> None:
        """Keep a way to fail that is still to be settled."""
        self.connection.execute(
            "INSERT INTO failing (target, error, failed, freed, found, message, state, file)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (target, error, *pair, found, message, UNSETTLED, file),
        )

    def failing(self, state: str | None = None) -> list[FailingRow]:
        """Return the ways to fail, those in one state or all, in the order in which they were found."""
        return [
            FailingRow(row[0], row[1], row[2], GuiltyPair(row[3], row[4]), *row[5:])
            for row in self.connection.execute(
                "SELECT * FROM failing WHERE ? IS NULL OR state = ? ORDER BY id", (state, state)
            )
        ]

    def settle(self, failing: int, state: str) -> None:
        """Say what came of a way to fail."""
        self.connection.execute("UPDATE failing SET state = ? WHERE id = ?", (state, failing))

    def add_finding(self, row: FindingRow) -> bool:
        """Keep a finding; return whether there was none with its error, pair and schedule."""
        return (
            self.connection.execute(
                "INSERT OR IGNORE INTO finding (mitigation, error, failed, freed, schedule, file, scenario, engine,"
                " message, proven, claimed_safe, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
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
                ),
            ).rowcount
            == 1
        )

    def findings(self) -> list[FindingRow]:
        """Return the findings in the order in which they were saved."""
        return [
            FindingRow(row[1], row[2], GuiltyPair(row[3], row[4]), *row[5:])
            for row in self.connection.execute("SELECT * FROM finding ORDER BY id")
        ]

    # The campaign as a whole

    def value(self, name: str) -> float:
        """Return one of `next_task`, `seconds` (in all sittings), `begun` and `last_new` (since 1970; 0 for never)."""
        return float(self._one("SELECT value FROM campaign WHERE name = ?", name))

    def set_value(self, name: str, value: float) -> None:
        """Set one of `seconds` and `last_new`."""
        self._set(name, value)

    def sample(self, runs: int, pairs: int, findings: int) -> None:
        """Keep how far it has come by now."""
        self.connection.execute(
            "INSERT OR REPLACE INTO sample VALUES (?, ?, ?, ?)", (time.time(), runs, pairs, findings)
        )

    def samples(self, since: float) -> list[tuple[float, int, int, int]]:
        """Return how far it had come, when, from a time on."""
        return self.connection.execute("SELECT * FROM sample WHERE time >= ? ORDER BY time", (since,)).fetchall()

    def say(self, what: str) -> None:
        """Keep an event: a worker that died, a sitting that began or ended."""
        self.connection.execute("INSERT INTO event VALUES (?, ?)", (time.time(), what))

    def events(self) -> list[tuple[float, str]]:
        """Return the events in their order."""
        return self.connection.execute("SELECT * FROM event ORDER BY time").fetchall()

    def _set(self, name: str, value: float) -> None:
        self.connection.execute("UPDATE campaign SET value = ? WHERE name = ?", (value, name))

    def _one(self, question: str, *values: object) -> float:
        (answer,) = self.connection.execute(question, values).fetchone()
        return answer if isinstance(answer, int | float) else 0
