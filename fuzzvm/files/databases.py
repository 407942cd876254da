"""Opens SQLite databases that nobody vouches for, as SQLite advises (sqlite.org/security.html).

A database is used only where its tables are the right ones: a view or a trigger would run what somebody else wrote.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from pathlib import Path
from typing import Any

_OF_THE_SYSTEM = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
"""Errors of SQLite that say nothing of what is in a file."""


def of_the_system(error: Exception) -> bool:
    """Return whether an error of SQLite's says nothing of what is in a file: the system does not let it be used."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _OF_THE_SYSTEM


def connection_to(path: Path, mode: str) -> sqlite3.Connection:
    """Open a database that nobody vouches for. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", isolation_level=None, timeout=30.0, uri=True
    )
    with contextlib.ExitStack() as on_error:
        on_error.callback(connection.close)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
            connection.execute(f"PRAGMA {pragma}")
        on_error.pop_all()
    return connection


def schema(connection: sqlite3.Connection) -> frozenset[tuple[Any, ...]]:
    """Return what a database says of its tables, indexes, views and triggers. Raises sqlite3.Error."""
    return frozenset(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


@functools.cache
def schema_of(statements: tuple[str, ...]) -> frozenset[tuple[Any, ...]]:
    """Return what `schema` returns of a database whose tables these statements have made."""
    connection = sqlite3.connect(":memory:")
    for statement in statements:
        connection.execute(statement)
    found = schema(connection)
    connection.close()
    return found
