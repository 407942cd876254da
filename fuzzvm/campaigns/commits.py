"""The number of a journal's commits, in a file beside it.

SQLite goes back to an older state without a word where its write-ahead log is lost or damaged. The file is written
after the commit that it counts and is not synced, so it may lag behind the journal after a crash and never runs ahead
of it: a journal that has fewer commits than the file says has lost some.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes

_DIGITS = 20


def read(path: Path) -> int | None:
    """Return the number in a file, None where there is none in it."""
    try:
        text = read_bytes(path, _DIGITS + 1)
    except FileError:
        return None
    return int(text) if re.fullmatch(rb"[0-9]{20}\n", text) else None


class CommitCount:
    """The file, open for writing; it is made where it is missing. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)

    def write(self, commits: int, *, sync: bool = False) -> None:
        """Write the number in place, which needs no room on the disk."""
        os.pwrite(self._descriptor, b"%020d\n" % commits, 0)
        if sync:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
