"""What can be read of a damaged journal: the rows that are still as they were written."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from fuzzvm.campaigns.rows import SCHEMA, TABLES, Row, rows
from fuzzvm.files import databases


def salvage(path: Path) -> dict[str, list[Row]]:
    """Return the rows of each table that are as they were written, without their digests. Raises nothing.

    They may be of an older state than the last one, where the journal has lost its log. Whatever else is in the file is
    left alone: a table is read only where it is defined as ours are.
    """
    found: dict[str, list[Row]] = {table: [] for table in TABLES}
    try:
        connection = databases.connection_to(path, "ro")
    except sqlite3.Error:
        return found
    with contextlib.closing(connection):
        try:
            ours = databases.schema(connection) & databases.schema_of(SCHEMA)
        except (sqlite3.Error, UnicodeDecodeError):
            return found
        for table in TABLES:
            if any((kind, name) == ("table", table) for kind, name, *_ in ours):
                found[table] += _right_rows(connection, table)
    return found


def _right_rows(connection: sqlite3.Connection, table: str) -> Iterator[Row]:
    # what comes before the damage is worth having
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        for row, right in rows(connection, table):
            if right:
                yield row
