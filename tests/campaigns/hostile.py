"""Makes folders of campaigns that mean harm: rows with the right digests, and what a kill or SQLite leaves.

What is written here is what somebody who knows the format would write.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzzvm.campaigns.journal import Journal
from fuzzvm.campaigns.rows import MODULUS, TABLES, digest
from fuzzvm.campaigns.settings import digest_of_data
from fuzzvm.corpus.format import read


def edit(folder: Path, *statements: str | tuple[str, tuple[Any, ...]], reseal: bool = True) -> None:
    """Run SQL on a journal; with `reseal`, every row gets its right digest afterwards, and the seal their sum."""
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(*(statement if isinstance(statement, tuple) else (statement,)))
        if not reseal:
            return
        total = 0
        for table, kinds in TABLES.items():
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")][: len(kinds)]
            rows = connection.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
            for row in rows:
                where = " AND ".join(f"{column} IS ?" for column in columns)
                number = digest(table, row)
                connection.execute(f"UPDATE {table} SET digest = ? WHERE {where}", (number, *row))
                total += number
        for (commits,) in connection.execute("SELECT commits FROM seal").fetchall():
            seal = (commits, total % MODULUS)
            connection.execute("UPDATE seal SET total = ?, digest = ?", (seal[1], digest("seal", seal)))


def edit_settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the settings, and give them their right digest; the journal's copy as well."""
    data = json.loads((folder / "settings.json").read_text())
    del data["digest"]
    change(data)
    text = json.dumps(data | {"digest": digest_of_data(data)}, indent=1) + "\n"
    (folder / "settings.json").write_text(text)
    edit(folder, ("UPDATE settings SET text = ?", (text,)))


def leave_unsettled(folder: Path) -> None:
    """Let a failing run of a campaign in pmd-promotion and two-walkers be one that is still to be settled."""
    failing = next(folder.glob("corpus/none-use-after-free-read-*.toml"))
    shutil.copy(failing, folder / "unsettled")
    case = read(failing)
    target = {"pmd-promotion": 0, "two-walkers": 1}[case.scenario.name]
    row = (target, case.expect.error, case.expect.function, "x", "found by pct", "message", "unsettled", failing.name)
    edit(folder, (f"INSERT INTO failing VALUES (1000, {', '.join('?' * len(row))}, 0)", row))


def killed(folder: Path, copy: Path) -> None:
    """Copy a campaign as a `kill -9` leaves it in the middle of a sitting: its last commits are in the log alone."""
    journal = Journal(folder / "journal.sqlite")
    try:
        journal.say("a sitting begins")
        target, engine = next(iter(journal.sums()))
        journal.begin_task(target, engine, 20)
        journal.commit()
        journal.set_value("seconds", journal.value("seconds") + 1)
        journal.commit()
        shutil.copytree(folder, copy)
    finally:
        journal.end_task(journal.open_tasks()[-1], type(next(iter(journal.sums().values())))())
        journal.commit()
        journal.close()
    (copy / "journal.sqlite-shm").unlink()
    assert (copy / "journal.sqlite-wal").stat().st_size > 0


def rollback_journal(database: Path, names: Path) -> None:
    """Write a rollback journal that SQLite plays back for a database: it names a file as the main one of several.

    SQLite deletes that file afterwards, whatever it is. See sqlite.org/fileformat2.html#the_rollback_journal.
    """
    page = 4096
    pages = database.stat().st_size // page
    magic = bytes.fromhex("d9d505f920a163d7")
    name = str(names).encode()
    header = magic + struct.pack(">IIIII", 0, 7, pages, 512, page)
    super_page = 0x40000000 // page + 1
    trailer = struct.pack(">I", super_page) + name + struct.pack(">II", len(name), sum(name)) + magic
    database.with_name(f"{database.name}-journal").write_bytes(header.ljust(512, b"\0") + trailer)
