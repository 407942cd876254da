"""The tables of a journal, and the digests by which damage to them shows.

Each row ends with a digest of what it holds, and the one row of `seal` has the sum of all of them. SQLite notices
damage to the structure of its file and no other. With the digests, a row that was changed shows by itself, and one that
was lost or added by the sum. A digest is no signature: who writes rows on purpose can write their digests, too.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any, TypeAlias

Row: TypeAlias = tuple[Any, ...]

FORMAT = 3
MODULUS = 1 << 62
"""Of digests and their sum, which SQLite keeps as integers of 64 bits."""

TABLES: dict[str, tuple[type[Any], ...]] = {
    "settings": (str,),
    "campaign": (str, float),
    "open_task": (int, int, str, int),
    "done": (int, str, int, int, int, float, int, int, int),
    "pair": (int, int, int),
    "failing": (int, int, str, str, str, str, str, str, str),
    "finding": (int, str, str, str, str, str, str, str, str, str, int, int, float),
    "sample": (float, int, int, int, float),
    "event": (float, str),
    "cover": (int, str, int),
}
"""The types of each table's columns, without the digest. `seal` is not among them: its digest is not in the sum."""

_SCHEMA = """
CREATE TABLE seal (commits INTEGER NOT NULL, total INTEGER NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE settings (text TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE campaign (name TEXT PRIMARY KEY, value REAL NOT NULL, digest INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE open_task (
    number INTEGER PRIMARY KEY, target INTEGER NOT NULL, engine TEXT NOT NULL, runs INTEGER NOT NULL,
    digest INTEGER NOT NULL);
CREATE TABLE done (
    target INTEGER, engine TEXT, tasks INTEGER NOT NULL, runs INTEGER NOT NULL, steps INTEGER NOT NULL,
    cpu_seconds REAL NOT NULL, pairs INTEGER NOT NULL, failing INTEGER NOT NULL, samples INTEGER NOT NULL,
    digest INTEGER NOT NULL, PRIMARY KEY (target, engine)) WITHOUT ROWID;
CREATE TABLE pair (
    target INTEGER, pair INTEGER, samples INTEGER NOT NULL, digest INTEGER NOT NULL,
    PRIMARY KEY (target, pair)) WITHOUT ROWID;
CREATE TABLE failing (
    id INTEGER PRIMARY KEY, target INTEGER NOT NULL, error TEXT NOT NULL, failed TEXT NOT NULL, freed TEXT NOT NULL,
    found TEXT NOT NULL, message TEXT NOT NULL, state TEXT NOT NULL, file TEXT NOT NULL, digest INTEGER NOT NULL,
    UNIQUE (target, error, failed, freed));
CREATE TABLE finding (
    id INTEGER PRIMARY KEY, mitigation TEXT NOT NULL, error TEXT NOT NULL, failed TEXT NOT NULL, freed TEXT NOT NULL,
    schedule TEXT NOT NULL, file TEXT NOT NULL, scenario TEXT NOT NULL, engine TEXT NOT NULL, message TEXT NOT NULL,
    proven INTEGER NOT NULL, claimed_safe INTEGER NOT NULL, time REAL NOT NULL, digest INTEGER NOT NULL,
    UNIQUE (mitigation, error, failed, freed, schedule));
CREATE TABLE sample (
    time REAL PRIMARY KEY, runs INTEGER NOT NULL, pairs INTEGER NOT NULL, findings INTEGER NOT NULL,
    undiscovered REAL NOT NULL, digest INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE event (time REAL NOT NULL, what TEXT NOT NULL, digest INTEGER NOT NULL);
CREATE TABLE cover (
    target INTEGER, point TEXT, met INTEGER NOT NULL, digest INTEGER NOT NULL,
    PRIMARY KEY (target, point)) WITHOUT ROWID;
"""
SCHEMA = tuple(filter(None, map(str.strip, _SCHEMA.split(";"))))
"""The statements that make the tables of a journal."""


def typed(table: str, values: Row) -> Row:
    """Return a row's values as SQLite gives them back: a count in a column of floating point numbers is one."""
    return tuple(kind(value) for kind, value in zip(TABLES[table], values, strict=True))


def digest(table: str, values: Row) -> int:
    """Return the digest of a row; its values are `typed`."""
    text = repr((table, *values)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) % MODULUS


def rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Row, bool]]:
    """Yield each row of a table, without its digest, and whether it is as it was written. Raises sqlite3.Error."""
    kinds = TABLES[table]
    for *values, found in connection.execute(f"SELECT * FROM {table}"):
        row = tuple(values)
        right = tuple(map(type, row)) == kinds and found == digest(table, row)
        yield row, right
