"""Results kept as they come, a line of JSON each, so that what was measured survives whatever ends the measuring.

A line belongs to the source that it was measured with: other ones are left where they are, and measured anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fuzzvm
from fuzzvm.files.reading import read_bytes
from fuzzvm.files.writing import write

SOURCE = "source"
MAX_BYTES = 256 << 20
"""Of a file of records, which is read as a whole."""
DECIDING = (
    "machine/**/*.py",
    "kernel/**/*.py",
    "mitigations/**/*.py",
    "scenario/**/*.py",
    "exhaustive/**/*.py",
    "images/**/*.py",
    "processes/**/*.py",
    "runs/**/*.py",
    "verify/**/*.py",
    "campaigns/**/*.py",
    "bench/planted.py",
    "bench/flat_model.py",
)
"""The files that decide what a run does, and so what a record is worth."""


class RecordsError(Exception):
    """A file is none of records; the message is one line."""


class Records:
    """The records in a file, None for none that is kept. Raises OSError, FileError, RecordsError."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._source = source_digest()
        self.others = 0
        """Records in the file that were measured with another source."""
        self.known: list[dict[str, Any]] = []
        if path is not None and path.is_symlink():
            raise RecordsError(f"{path}: a symbolic link, which is not followed")
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        text = read_bytes(path, MAX_BYTES)
        if text and not text.endswith(b"\n"):
            # the line that was being written when everything ended
            text = text[: text.rfind(b"\n") + 1]
            write(path, text)
        for number, line in enumerate(text.splitlines(), 1):
            try:
                record = json.loads(line)
                source = record.pop(SOURCE)
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                raise RecordsError(f"{path}:{number}: no record of fuzzvm bench") from error
            if source == self._source:
                self.known.append(record)
            else:
                self.others += 1

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record."""
        self.known.append(record)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**record, SOURCE: self._source}) + "\n")


def source_digest() -> str:
    """Return a digest of the Python files that decide what a run does."""
    root = Path(fuzzvm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for part in DECIDING for path in root.glob(part)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
