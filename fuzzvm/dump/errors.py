"""What is wrong with a dump: an error ends the reading, a warning does not."""

from __future__ import annotations

from dataclasses import dataclass


class DumpError(Exception):
    """A file that cannot be read as a dump. `line` counts from 1; 0 where no line is to blame."""

    def __init__(self, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}:{line}: {message}" if line else f"{source}: {message}")
        self.source = source
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True)
class Caution:
    """Something that makes figures less sure, at a line that counts from 1, or at none (0)."""

    line: int
    message: str
