"""A page of memory that a process shares with its owner: whether it lives, its bounds, how it ends, where it stood.

It is a file without a name: a process that is forked has it already, one that is started anew is given the number of
the descriptor. Either side may be gone at any moment; nobody waits for the other, and nothing has a lock.
"""

from __future__ import annotations

import mmap
import os
import signal
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STARVED_SECONDS = 30.0
"""After which a process is ended that has had no processor time to stop in, where it is in no code of the user's."""
LOOK_SECONDS = 0.2
"""From one look of a guard at its process to the next."""
DUMP_SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
"""Makes a guarded process write down where it stands. Not a signal that libFuzzer takes for itself."""

_PAGE = 8192
_LOOKS = Struct("=Q")
_TIME = Struct("=d")
_SIZE = Struct("=Q")
_DONE = Struct("=ii")
_AT_LOOKS, _AT_UNTIL, _AT_MEMORY, _AT_HOOK, _AT_DONE = 0, 8, 16, 24, 32
_AT_BLAME, _AT_GUARDED = 40, 41
_AT_NAME, _AT_REPORT, _AT_FILES = 64, 512, 2048
_DUMPS = _PAGE
"""Where in the file stacks begin."""


class Channel:
    """`fd` is the descriptor of the file, for `faulthandler` to write stacks to, and for a process to be given."""

    def __init__(self, fd: int | None = None) -> None:
        """Make a channel, or take the one that was given as a descriptor."""
        if fd is None:
            fd = _new_file()
            os.ftruncate(fd, _PAGE)
            os.lseek(fd, _PAGE, os.SEEK_SET)
        self.fd = fd
        self._page = mmap.mmap(fd, _PAGE)

    def close(self) -> None:
        """Let go of it, on this side."""
        self._page.close()
        os.close(self.fd)

    # What the process says of itself

    def beat(self) -> None:
        """Say that its Python code runs. Called by the process some times a second."""
        _LOOKS.pack_into(self._page, _AT_LOOKS, self.looks + 1)

    @property
    def looks(self) -> int:
        """How often `beat` was called: 0 for a process that nobody looks at from inside."""
        looks: int = _LOOKS.unpack_from(self._page, _AT_LOOKS)[0]
        return looks

    @property
    def guarded(self) -> bool:
        """Whether the process writes down where it stands when it is asked to."""
        return bool(self._page[_AT_GUARDED])

    @guarded.setter
    def guarded(self, guarded: bool) -> None:
        self._page[_AT_GUARDED] = guarded

    @property
    def hook_seconds(self) -> float:
        """What one call of user code may take."""
        seconds: float = _TIME.unpack_from(self._page, _AT_HOOK)[0]
        return seconds

    @hook_seconds.setter
    def hook_seconds(self, seconds: float) -> None:
        _TIME.pack_into(self._page, _AT_HOOK, seconds)

    def bound(self, name: str, until: float, memory: int) -> None:
        """Say by when the process must have ended (by the monotonic clock), and what memory it may have; 0 is no bound.

        `name` is what a message says when the time is over. The owner ends the process where it does not keep them.
        """
        self._write(_AT_NAME, _AT_REPORT, name)
        _TIME.pack_into(self._page, _AT_UNTIL, until)
        _SIZE.pack_into(self._page, _AT_MEMORY, memory)

    @property
    def until(self) -> float:
        until: float = _TIME.unpack_from(self._page, _AT_UNTIL)[0]
        return until

    @property
    def memory(self) -> int:
        memory: int = _SIZE.unpack_from(self._page, _AT_MEMORY)[0]
        return memory

    @property
    def name(self) -> str:
        return self._read(_AT_NAME, _AT_REPORT)

    def report(self, sentence: str, *, blames: bool) -> None:
        """Say why the process cannot go on; `blames` says that user code is to blame, and `sentence` which."""
        self._page[_AT_BLAME] = blames
        self._write(_AT_REPORT, _AT_FILES, sentence)

    @property
    def reported(self) -> str:
        """What `report` was given; '' where it was not called."""
        return self._read(_AT_REPORT, _AT_FILES)

    @property
    def blames(self) -> bool:
        return bool(self._page[_AT_BLAME])

    def done(self, status: int) -> None:
        """Say that all is done: the process writes this last, so that one that has not written it has died."""
        _DONE.pack_into(self._page, _AT_DONE, 1, status)

    @property
    def status(self) -> int | None:
        """What `done` was given, None where it was not called."""
        done, status = _DONE.unpack_from(self._page, _AT_DONE)
        return status if done else None

    @property
    def files(self) -> Sequence[str]:
        """The files that code of the user was loaded from."""
        return [file for file in self._read(_AT_FILES, _PAGE).split("\n") if file]

    @files.setter
    def files(self, files: Sequence[str]) -> None:
        self._write(_AT_FILES, _PAGE, "\n".join(files))

    # Stacks

    def forget_dumps(self) -> None:
        """Forget the stacks that were written so far."""
        os.ftruncate(self.fd, _DUMPS)
        # the process writes on from where this descriptor stands: they are one
        os.lseek(self.fd, _DUMPS, os.SEEK_SET)

    def dumps(self) -> str:
        """Return the stacks that `faulthandler` has written."""
        return os.pread(self.fd, 1 << 16, _DUMPS).decode(errors="replace")

    def _write(self, begin: int, end: int, text: str) -> None:
        data = text.encode(errors="replace")[: end - begin - 1]
        # the first byte last: who reads meanwhile finds the text whole, or none
        self._page[begin] = 0
        self._page[begin + 1 : end] = (data[1:] + b"\0" * (end - begin))[: end - begin - 1]
        self._page[begin] = data[0] if data else 0

    def _read(self, begin: int, end: int) -> str:
        return self._page[begin:end].split(b"\0", 1)[0].decode(errors="replace")


def resident_of(process: int | str) -> int:
    """Return the bytes of memory that a process has now; 0 where the system does not say, or it has ended."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:  # noqa: PTH123 - pathlib takes longer to load than all else
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def processor_of(process: int) -> tuple[str, float]:
    """Return the state of a process, as in ps, and its seconds of processor time; "" once it has ended."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 - as above
            words = file.read().rpartition(b") ")[2].split()
        return words[0].decode(), (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return "", 0.0


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fuzzvm")
    # imported here: it takes longer to load than all else, and Linux needs it not
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
