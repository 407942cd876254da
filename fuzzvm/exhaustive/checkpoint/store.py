"""The file of a checkpoint: named parts, each one chunk or several, and a text that says what they are of. SQLite.

A commit makes all that was written since the last one hold at once, through a crash of the process and of the machine;
a file that a process left in the middle of one is as it was before. One process has the file at a time. Each chunk has
a digest, and `seal` the sum of all of them, so that what was changed, lost or added by accident is noticed. A digest is
no signature: who writes a file on purpose can make it say anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzzvm.exhaustive.checkpoint.errors import DamagedError
from fuzzvm.files import databases
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import opened

FORMAT = 1
SCHEMA = (
    "CREATE TABLE about (text TEXT NOT NULL)",
    "CREATE TABLE part (name TEXT, number INTEGER, data BLOB, digest BLOB NOT NULL, PRIMARY KEY (name, number))",
    "CREATE TABLE seal (total TEXT NOT NULL)",
)
_MODULUS = 1 << 256
_MOST_BYTES = 1 << 46


class Store:
    """An open checkpoint. Methods raise FileError where the disk does, and leave what the last commit has made."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.about: dict[str, Any] = {}
        """What the checkpoint is of, and how far it has come; JSON data."""
        self._connection = connection
        self._digests: dict[str, list[bytes]] = {}
        self._committed: dict[str, list[bytes]] = {}

    @classmethod
    def create(cls, path: Path) -> Store:
        """Return a new checkpoint, empty. Raises FileError, also where there is something of that name."""
        try:
            # never through a link, and never in place of another file
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        except FileExistsError as error:
            raise FileError(
                path, "there already: name a new file, or give it to --resume if it is a checkpoint"
            ) from error
        except (OSError, ValueError) as error:
            raise FileError(path, getattr(error, "strerror", None) or str(error)) from error
        store = cls._opened(path)
        try:
            for statement in SCHEMA:
                store._connection.execute(statement)
            store._seal()
        except sqlite3.Error as error:
            store.discard()
            raise FileError(path, str(error)) from error
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """Return a checkpoint that is there, checked. Raises FileError, DamagedError."""
        opened(path, _MOST_BYTES).close()
        store = cls._opened(path)
        try:
            store._check()
        except DamagedError:
            store.close()
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            store.close()
            if databases.of_the_system(error):
                raise FileError(path, str(error)) from error
            raise DamagedError(" ".join(str(error).split())) from error
        return store

    @classmethod
    def _opened(cls, path: Path) -> Store:
        connection = None
        try:
            connection = databases.connection_to(path, "rw")
            connection.execute("PRAGMA busy_timeout=500")
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
        except (sqlite3.Error, ValueError) as error:
            if connection is not None:
                connection.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise FileError(path, "another process has this checkpoint open") from error
            if isinstance(error, ValueError) or databases.of_the_system(error):
                raise FileError(path, str(error)) from error
            raise DamagedError(str(error)) from error
        return cls(path, connection)

    def _check(self) -> None:
        connection = self._connection
        if databases.schema(connection) != databases.schema_of(SCHEMA):
            raise DamagedError("it has other tables")
        for name, number, data, digest in connection.execute(
            "SELECT name, number, data, digest FROM part ORDER BY name, number"
        ):
            if type(name) is not str or type(number) is not int or type(data) is not bytes:
                raise DamagedError("a part of it is none")
            chunks = self._digests.setdefault(name, [])
            if number != len(chunks) or digest != _digest(name, number, data):
                raise DamagedError(f"{name} is not what was written")
            chunks.append(digest)
        texts = [text for (text,) in connection.execute("SELECT text FROM about")]
        seals = [total for (total,) in connection.execute("SELECT total FROM seal")]
        if len(texts) != 1 or type(texts[0]) is not str or seals != [self._total(texts[0])]:
            raise DamagedError("parts of it were lost or added")
        try:
            self.about = json.loads(texts[0])
        except (ValueError, RecursionError) as error:
            raise DamagedError("what it is of is not said") from error
        if not isinstance(self.about, dict):
            raise DamagedError("what it is of is not said")
        self._committed = {name: list(chunks) for name, chunks in self._digests.items()}

    # Reading

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the chunks of a part, in the order in which they were appended."""
        for (data,) in self._connection.execute("SELECT data FROM part WHERE name = ? ORDER BY number", (name,)):
            yield data

    def read(self, name: str) -> bytes:
        """Return all of a part; nothing where there is none."""
        return b"".join(self.chunks(name))

    # Writing

    def append(self, name: str, data: bytes) -> None:
        """Add a chunk to a part."""
        chunks = self._digests.setdefault(name, [])
        digest = _digest(name, len(chunks), data)
        self._do("INSERT INTO part VALUES (?, ?, ?, ?)", name, len(chunks), data, digest)
        chunks.append(digest)

    def replace(self, name: str, *chunks: bytes) -> None:
        """Let a part be these chunks and nothing else."""
        self.drop(name)
        for data in chunks:
            self.append(name, data)

    def drop(self, name: str) -> None:
        """Let there be no such part."""
        if self._digests.pop(name, None):
            self._do("DELETE FROM part WHERE name = ?", name)

    @property
    def parts(self) -> list[str]:
        """The names of the parts that there are."""
        return list(self._digests)

    def commit(self) -> None:
        """Make all that was written hold."""
        try:
            self._seal()
        except sqlite3.Error as error:
            raise FileError(self.path, str(error)) from error

    def roll_back(self) -> None:
        """Forget what was written since the last commit."""
        self._digests = {name: list(chunks) for name, chunks in self._committed.items()}
        if self._connection.in_transaction:
            self._connection.rollback()
        self._do("BEGIN EXCLUSIVE")

    def close(self) -> None:
        """Close it; what was not committed is gone."""
        if self._connection.in_transaction:
            self._connection.rollback()
        self._connection.close()

    def discard(self) -> None:
        """Close it and remove its file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _do(self, statement: str, *values: object) -> None:
        try:
            self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise FileError(self.path, str(error)) from error

    def _seal(self) -> None:
        text = json.dumps(self.about)
        connection = self._connection
        connection.execute("DELETE FROM about")
        connection.execute("INSERT INTO about VALUES (?)", (text,))
        connection.execute("DELETE FROM seal")
        connection.execute("INSERT INTO seal VALUES (?)", (self._total(text),))
        connection.execute("COMMIT")
        self._committed = {name: list(chunks) for name, chunks in self._digests.items()}
        connection.execute("BEGIN EXCLUSIVE")

    def _total(self, text: str) -> str:
        total = int.from_bytes(_digest("about", 0, text.encode("utf-8", "surrogatepass")))
        for chunks in self._digests.values():
            total += sum(map(int.from_bytes, chunks))
        return f"{total % _MODULUS:064x}"


def _digest(name: str, number: int, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, person=b"fuzzvm", key=f"{name} {number}".encode()[:64]).digest()
