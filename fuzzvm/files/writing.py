"""Writes files whole or not at all, and never in place of something that is no file.

nothing there, or a regular file    written under another name in the same folder, synced, and renamed
a pipe or a character device        written to: /dev/null, /dev/stdout, /dev/full, a FIFO that somebody reads
a symbolic link                     refused where a user names the file: it may lead anywhere, and a folder from
                                    elsewhere can bring one along; replaced where fuzzvm makes up the name
a block device, a socket, a folder  refused
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.kinds import kind

TEMPORARY = f".{'?' * 16}.tmp"
"""What files that are being written are called: a pattern for `glob`."""
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/self)/fd/([0-9]{1,9})")


def write(path: Path, content: str | bytes, *, own_name: bool = False) -> None:
    """Write a file; its folder is made where it is missing. Raises FileError, and leaves nothing behind then.

    `own_name` says that the name is fuzzvm's and not the user's: a symbolic link of that name is replaced.
    """
    # a file's name in a text may have bytes that are no UTF-8
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        descriptor = _descriptor(path)
        mode = None if descriptor is not None else _mode(path)
        if descriptor is not None:
            _write_all(os.dup(descriptor), data)
        elif mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)) and not own_name:
            _write_to(path, data)
        elif mode is None or stat.S_ISREG(mode) or (own_name and stat.S_ISLNK(mode)):
            _replace(path, data, None if mode is None or stat.S_ISLNK(mode) else stat.S_IMODE(mode))
        else:
            link = f" to {path.readlink()}" if stat.S_ISLNK(mode) else ""
            raise FileError(path, f"not written, as it is {kind(mode)}{link}")
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from error
    except ValueError as error:
        # a name with a null character
        raise FileError(path, "no file can have that name") from error


def check_file(path: Path) -> None:
    """Raise FileError unless `write` makes or replaces a regular file of that name, beside which others can stand."""
    try:
        mode = _mode(path)
    except (OSError, ValueError) as error:
        raise FileError(path, getattr(error, "strerror", None) or str(error)) from error
    if _descriptor(path) is not None or (mode is not None and not stat.S_ISREG(mode)):
        what = "an open file of this process" if mode is None else kind(mode)
        raise FileError(path, f"not written, as it is {what}, and more files go beside it")


def own_folder(path: Path) -> None:
    """Make a folder whose name is fuzzvm's, unless it is there; a symbolic link in its place is an error.

    Raises FileError.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from error
    if path.is_symlink():
        raise FileError(path, f"not written to, as it is a symbolic link to {path.readlink()}")


def create(path: Path, content: str) -> None:
    """Write a new file; whatever is there already is an error, a link to nothing included. Raises FileError."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from error


def _replace(path: Path, data: bytes, mode: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_to(path: Path, data: bytes) -> None:
    # not waited for: a FIFO that nobody reads is an error (ENXIO)
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
    os.set_blocking(descriptor, True)
    _write_all(descriptor, data)


def _write_all(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _descriptor(path: Path) -> int | None:
    """Return the open file of this process that a path stands for, None for none: those paths are links as well."""
    name = str(path)
    if name in _STREAMS:
        return _STREAMS[name]
    match = _DESCRIPTOR.fullmatch(name)
    return None if match is None else int(match[1])


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
