"""Reads regular files of a bounded size.

A pipe has no end until its writer says so, and a device has none: reading either would hang or fill the memory. Some
files of /proc and /sys are regular by their mode and still wait for events, so nothing here waits.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.kinds import kind

_BLOCK = 1 << 20


def opened(path: Path | str, limit: int) -> io.FileIO:
    """Return a regular file of at most `limit` bytes, open for reading. Raises FileError.

    A file that grows, or whose size is not known (those of /proc and /sys have size 0), may still have more.
    """
    try:
        # asked before it is opened: to open a device may do something, and to open a pipe may wait
        _check(path, Path(path).stat(), limit)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from error
    except ValueError as error:
        # a name with a null character
        raise FileError(path, "no file can have that name") from error
    file = io.FileIO(descriptor)
    try:
        # it may have been replaced meanwhile
        _check(path, os.fstat(descriptor), limit)
    except FileError:
        file.close()
        raise
    return file


def read_bytes(path: Path | str, limit: int) -> bytes:
    """Return what is in a regular file of at most `limit` bytes. Raises FileError."""
    blocks: list[bytes] = []
    left = limit + 1
    with opened(path, limit) as file:
        try:
            while left and (block := file.read(min(left, _BLOCK))):
                blocks.append(block)
                left -= len(block)
        except OSError as error:
            raise FileError(path, error.strerror or str(error)) from error
        if left and block is None:
            raise FileError(path, "not read, as it has no end: it would have to be waited for")
    if not left:
        raise FileError(path, _too_large(limit))
    return b"".join(blocks)


def read_text(path: Path | str, limit: int) -> str:
    """Return the text of a regular file of at most `limit` bytes, in UTF-8. Raises FileError."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(path, "not UTF-8 text") from error


def _check(path: Path | str, status: os.stat_result, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FileError(path, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise FileError(path, f"not a regular file but {kind(status.st_mode)}")
    if status.st_size > limit:
        raise FileError(path, _too_large(limit))


def _too_large(limit: int) -> str:
    return f"larger than {limit} bytes"
