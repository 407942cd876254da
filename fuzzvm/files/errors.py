"""What is wrong with a file that is to be read or written."""

from __future__ import annotations

from pathlib import Path


class FileError(Exception):
    """A file cannot be read or written: one line that names it. `why` is the same without the name."""

    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.why = why
