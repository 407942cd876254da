"""Runs a command in a process of its own, and tells how it ended: whatever it runs, its end is seen.

The command leads a process group of its own. So each signal reaches it once, by way of the supervisor, and nothing
that it has started outlives it. The last thing that a command does is to write its exit status into its channel; one
that has not done so has died.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import sys
import time

from fuzzvm.supervision.channel import LOOK_SECONDS, Channel
from fuzzvm.supervision.outside import Trouble, Watched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

GRACE_SECONDS = 1.6
"""That a command has to end after Ctrl-C, of the two seconds until all is over, or after a signal."""
ENOUGH_SECONDS = 0.5
MOST_SECONDS = 20.0
"""Processor time that a command can end in, and the time that it is given for that where it must share a processor."""
FAREWELL_SECONDS = 1.0
"""That the process of a command has to end once its work is done: threads of user code may never."""
FAILED = 2
INTERRUPTED = 130
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def available() -> bool:
    """Return whether this system has what the supervisor needs."""
    return hasattr(os, "fork") and hasattr(signal, "sigtimedwait")


def run(command: Callable[[], int], name: str, mask: Iterable[int]) -> int:
    """Run a command in a process of its own; return its exit status, and print one line where it had none.

    Call it before anything is imported that takes time. The command begins with this mask of signals. Ctrl-C and other
    signals are the command's. Where it died of one that was sent to the supervisor, that ends the supervisor too.
    """
    channel = Channel()
    heeded = {one for one in _FORWARDED if signal.getsignal(one) is not signal.SIG_IGN}
    watched_for = {*heeded, signal.SIGCHLD, signal.SIGTSTP}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched_for)
    life, end_of_life = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end_of_life)
        lead_group()
        die_with_parent(life)
        _work(command, name, channel, mask)
    os.close(life)
    with contextlib.suppress(OSError):
        # whichever of the two is first
        os.setpgid(pid, pid)
    return _Supervisor(pid, channel, name, watched_for).wait()


def lead_group() -> None:
    """Let this process lead a group of its own, which may still write to the terminal."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


def die_with_parent(life: int) -> None:
    """Have the kernel kill this process' group when the other end of a pipe closes, which the parent alone has open.

    No thread waits for that: processes are forked from this one.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _work(command: Callable[[], int], name: str, channel: Channel, mask: Iterable[int]) -> None:
    """Run the command in its process, and end that."""
    # imported here: the supervisor has begun to wait by now
    from fuzzvm.supervision import inside

    inside.heed_interrupts()
    inside.begin(channel)
    sys.stdout, sys.stderr = _whole(sys.stdout), _whole(sys.stderr)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = command()
        # whatever comes now, the command has its status
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        say(name, "interrupted")
        status = INTERRUPTED
    inside.disarm()
    channel.done(status)
    sys.exit(status)


def _whole(stream: TextIO) -> TextIO:
    """Return a stream that writes all that it is given, though the guard's timer interrupts it.

    With PYTHONUNBUFFERED there is nothing between Python's text and the system, which may take a part of it; and the
    rest of that is lost.
    """
    if isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        buffer = io.BufferedWriter(stream.buffer)
        return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True, write_through=True)
    return stream


def say(name: str, sentence: str) -> None:
    """Print a sentence on stderr, in one line, whatever user code has done to `sys.stderr`."""
    line = " ".join(sentence.split())
    with contextlib.suppress(OSError):
        os.write(2, f"{name}: {line}\n".encode(errors="backslashreplace"))


def _state_of(pid: int) -> tuple[str, float]:
    """Return the state of a process, and the processor time that it has used, in seconds; proc(5), fields 3, 14, 15."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as in `channel`
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0].decode(), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Supervisor:
    def __init__(self, pid: int, channel: Channel, name: str, watched_for: set[signal.Signals]) -> None:
        self._pid = pid
        self._channel = channel
        self._watched = Watched(pid, channel)
        self._name = name
        self._watched_for = watched_for
        self._ended_by: signal.Signals | None = None
        """The first signal that asked for the end."""
        self._until: float | None = None
        """When the command is ended by force."""
        self._asked = 0.0
        self._used = 0.0
        """When it was asked to end, and the processor time that it had used by then."""

    def wait(self) -> int:
        """Return the exit status, once the command has ended and all that it has started."""
        while not self._has_ended():
            if self._channel.status is not None and self._until is None:
                self._until = time.monotonic() + FAREWELL_SECONDS
            if self._until is not None and time.monotonic() > self._until and not self._is_starved():
                break
            if self._channel.status is None and (trouble := self._watched.trouble()):
                self._end()
                return self._failed(trouble)
            self._take(signal.sigtimedwait(self._watched_for, LOOK_SECONDS))
        return self._result(self._end())

    def _has_ended(self) -> bool:
        # it is left to be waited for: as long as it is, its group's number is not given to another
        ended = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            stopped = os.waitid(os.P_PID, self._pid, os.WSTOPPED | os.WNOHANG)
            if stopped is not None and stopped.si_status == signal.SIGTTIN:
                self._lend_terminal()
        return ended is not None

    def _is_starved(self) -> bool:
        """Whether the command would have ended by now on a machine with less to do.

        It runs, and has had hardly any time to do so since it was to end.
        """
        if self._ended_by is None or time.monotonic() > self._asked + MOST_SECONDS:
            return False
        state, used = _state_of(self._pid)
        return state == "R" and used - self._used < ENOUGH_SECONDS

    def _lend_terminal(self) -> None:
        """Let a command read from the terminal that asks for it: it has it from then on, Ctrl-C included."""
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            os.tcsetpgrp(sys.stdin.fileno(), self._pid)
        os.killpg(self._pid, signal.SIGCONT)

    def _take(self, came: signal.struct_siginfo | None) -> None:
        if came is None or came.si_signo == signal.SIGCHLD:
            return
        number = signal.Signals(came.si_signo)
        if number == signal.SIGTSTP:
            os.killpg(self._pid, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.killpg(self._pid, signal.SIGCONT)
            return
        if self._ended_by is None:
            self._ended_by = number
            self._asked = time.monotonic()
            self._until = self._asked + GRACE_SECONDS
            _, self._used = _state_of(self._pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _end(self) -> int:
        """End the command's group, whatever of it is left; return what the command's process ended with."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            if os.isatty(0) and os.tcgetpgrp(0) == self._pid:
                os.tcsetpgrp(0, os.getpgrp())
        return os.waitpid(self._pid, 0)[1]

    def _result(self, status: int) -> int:
        done = self._channel.status
        if done is not None:
            if self._channel.reported:
                # of a copy of the command, or of what came after its work was done
                return self._failed(Trouble(self._channel.reported, self._channel.blames))
            return done
        if self._ended_by == signal.SIGINT:
            say(self._name, "interrupted")
            return INTERRUPTED
        if self._ended_by is not None:
            # as if there were no supervisor
            signal.signal(self._ended_by, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self._ended_by})
            os.kill(os.getpid(), self._ended_by)
        return self._failed(self._watched.died(os.waitstatus_to_exitcode(status)))

    def _failed(self, trouble: Trouble) -> int:
        say(self._name, trouble.sentence)
        return FAILED
