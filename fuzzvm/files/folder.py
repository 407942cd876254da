"""Writes a new folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.writing import write


def check_new(folder: Path) -> None:
    """Raise FileError where something of that name is there: nothing is written over."""
    if folder.exists() or folder.is_symlink():
        raise FileError(folder, "is there already: name a new folder")


def write_folder(folder: Path, files: Mapping[str, str | bytes], programs: Collection[str] = ()) -> None:
    """Write a new folder with these files, by their names in it; `programs` are those that can be executed.

    Raises FileError.
    """
    check_new(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise FileError(folder, error.strerror or str(error)) from error
    mask = _umask()
    try:
        for name, content in files.items():
            write(half / name, content, own_name=True)
        for name in programs:
            (half / name).chmod(0o777 & ~mask)
        half.chmod(0o777 & ~mask)
        half.rename(folder)
    except OSError as error:
        raise FileError(folder, error.strerror or str(error)) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _umask() -> int:
    held = os.umask(0o77)
    os.umask(held)
    return held
