"""A watch over mitigations that never yield: an endless loop in a hook would hold up a worker for ever.

A timer looks once in a while at what the process executes. Where the same call of the mitigation's code was under way
at every look for as long as the limit, it raises out of that call, naming file and line. A call into C that does not
return lets no Python run, this module's neither: then, after twice the limit, the C thread of `faulthandler` writes
down where the process stands and ends it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import re
import signal
import time
from collections.abc import Collection, Iterator
from io import TextIOWrapper
from types import FrameType

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry

LOOKS = 10
"""Looks within the limit: a call that is under way at all of them has made no progress."""

_LINE = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$', re.MULTILINE)


class NeverYieldsError(BaseException):
    """A call of a mitigation does not come to an end. No Exception: the code that it ends could catch that."""

    def __init__(self, filename: str, line: int, function: str, seconds: float) -> None:
        super().__init__(f"{filename}:{line}: {function} has neither yielded nor returned for {seconds:g} seconds")


def files_of(spec: str) -> frozenset[str]:
    """Return the files in which the code of a mitigation lies, as its frames name them. Raises MitigationError."""
    classes = [base for part in registry.split(spec) for base in registry.get(part).__mro__]
    return frozenset(
        inspect.getfile(base) for base in classes if issubclass(base, Mitigation) and base is not Mitigation
    )


class Watchdog:
    """Watches the main thread of a process. `seconds` is what one call of a mitigation may take.

    `where` is a file that gets the stack of a process that had to be ended.
    """

    def __init__(self, seconds: float, where: TextIOWrapper) -> None:
        self._seconds = seconds
        self._where = where
        self._files: Collection[str] = ()
        self._call: FrameType | None = None
        self._since = 0.0
        self._looks = 0

    @contextlib.contextmanager
    def watching(self, files: Collection[str]) -> Iterator[None]:
        """Watch what runs meanwhile: calls of code in these files."""
        self._files = files
        self._call = None
        before = signal.signal(signal.SIGALRM, self._look)
        self._rearm()
        signal.setitimer(signal.ITIMER_REAL, self._seconds / LOOKS, self._seconds / LOOKS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
            signal.signal(signal.SIGALRM, before)
            self._call = None

    def _rearm(self) -> None:
        faulthandler.dump_traceback_later(2 * self._seconds, exit=True, file=self._where)

    def _look(self, number: int, frame: FrameType | None) -> None:
        self._rearm()
        innermost = outermost = None
        while frame is not None:
            if frame.f_code.co_filename in self._files:
                innermost = innermost or frame
                outermost = frame
            frame = frame.f_back
        now = time.monotonic()
        if innermost is None or outermost is not self._call:
            # the frame is kept, so that no later one can be taken for it
            self._call, self._since, self._looks = outermost, now, 0
            return
        self._looks += 1
        # both: a process that was stopped, or starved, has been looked at too rarely to know
        if self._looks >= LOOKS and now - self._since >= self._seconds:
            code = innermost.f_code
            self._call = None
            raise NeverYieldsError(code.co_filename, innermost.f_lineno, code.co_name, self._seconds)


def place(stack: str) -> str:
    """Return from a stack of `faulthandler`'s where the process stood: the innermost line outside fuzzvm, or ''."""
    package = registry.__file__.removesuffix("mitigations/registry.py")
    # the threads stand in the order of their age, the youngest first
    main = stack.rpartition("hread 0x")[2]
    places = [match for match in _LINE.finditer(main) if not match["file"].startswith(package)]
    return f"{places[0]['file']}:{places[0]['line']}: {places[0]['function']}" if places else ""
