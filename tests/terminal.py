"""A terminal for tests: a command writes to it as to a user's, and a test reads what has come."""

from __future__ import annotations

import os
import pty
import select
import time
from types import TracebackType

from tests.clock import PATIENCE


class Terminal:
    """`stream` is what a command is given for stdout or stderr, or both."""

    def __init__(self) -> None:
        self._ours, self.stream = pty.openpty()
        self._said = b""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.started()
        os.close(self._ours)

    def started(self) -> None:
        """Close our copy of the command's end, so that the end of the command is the end of what it says."""
        if self.stream >= 0:
            os.close(self.stream)
            self.stream = -1

    def read_until(self, text: str) -> None:
        """Read until that text has come. Raises AssertionError when it never will."""
        until = time.monotonic() + PATIENCE
        while text.encode() not in self._said:
            assert self._read(max(0.0, until - time.monotonic())), f"no {text!r} in {self._said!r}"

    def read_all(self) -> str:
        """Return all that has come, once everybody who could write has ended."""
        while self._read(PATIENCE):
            pass
        return self._said.decode("utf-8")

    def _read(self, seconds: float) -> bool:
        """Read some more; return whether there was more."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            more = os.read(self._ours, 4096)
        except OSError:  # Linux says so when nobody has the other end open any more
            return False
        self._said += more
        return bool(more)
