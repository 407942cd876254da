"""A corpus on disk: a folder of test cases, one file each."""

from __future__ import annotations

import contextlib
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import tomli_w

from fuzzvm.corpus.errors import CorpusError
from fuzzvm.corpus.format import HALF, TestCase, read
from fuzzvm.files.errors import FileError
from fuzzvm.files.writing import write

SUFFIX = ".toml"


def to_text(case: TestCase) -> str:
    """Return the text of a test case's file; `format.parse` reads it back."""
    data = case.to_data()
    if len(data["schedule"]) > 100:
        data["schedule"] = textwrap.fill(data["schedule"], 100, break_long_words=False) + "\n"
    return tomli_w.dumps(data, multiline_strings=True)


def save(case: TestCase, folder: Path) -> tuple[Path, bool]:
    """Save a test case in a folder; return its path, and whether it is new there.

    A case is not new where a file in the folder itself runs and expects the same, whatever its origin; `path` is that
    file then. The file appears whole or not at all. Raises CorpusError where the folder cannot be written to.
    """
    there = saved(case, folder)
    if there is not None:
        return there, False
    path = folder / case.file_name()
    try:
        write(path, to_text(case), own_name=True)
    except FileError as error:
        raise CorpusError(path, error.why) from error
    return path, True


def saved(case: TestCase, folder: Path) -> Path | None:
    """Return the file of a folder that holds a test case, whatever its origin; None where there is none."""
    identity = case.identity()
    for path in sorted(folder.glob(f"*-{identity[:HALF]}{'?' * HALF}{SUFFIX}")):
        # a file that cannot be read, or is not what its name says, holds nothing
        with contextlib.suppress(CorpusError):
            if read(path).identity() == identity:
                return path
    return None


def check_writable(folder: Path) -> None:
    """Raise CorpusError if nothing can be saved in a folder; makes it where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CorpusError(folder, error.strerror or str(error)) from error


def find(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that paths name: each file itself, and every test case below a folder, in order of name.

    Raises CorpusError for a path that does not exist, and for a folder with no test case in it.
    """
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.rglob(f"*{SUFFIX}") if file.is_file() and "litmus" not in file.parts)
            if not files:
                raise CorpusError(path, f"no test case (*{SUFFIX}) in this folder")
            yield from files
        elif path.exists():
            yield path
        else:
            raise CorpusError(path, "no such file or folder")
