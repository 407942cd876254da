"""What is wrong with a corpus file."""

from __future__ import annotations

from pathlib import Path


class CorpusError(Exception):
    """A file that is no test case, or cannot be written: one line that names the file, and the line where known."""

    def __init__(self, path: Path | str, message: str, line: int | None = None) -> None:
        super().__init__(f"{path}: {message}" if line is None else f"{path}:{line}: {message}")
