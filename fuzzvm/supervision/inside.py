"""The guard in a process that runs user code: some times a second it looks at what the process executes.

A timer interrupts the main thread, whatever that does in Python. The guard then sees from the stack whether code of the
user is under way, and whether it is the same call as at the looks before. It keeps three promises:

- a call of user code that neither yields nor returns ends the process, and the owner is told file, line and function;
- a bound on time or memory (`bounded`) stops what runs: at once where only fuzzvm's own code is on the stack, else
  before the next step of user code;
- where that does not stop it in time, the process ends, and the owner is told what it was at.

Where no Python runs, a regular expression that backtracks or a power of large numbers, there are no looks: that is
for the owner to see (`outside`).
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, GeneratorType

from fuzzvm.supervision import stopping, user_code
from fuzzvm.supervision.channel import DUMP_SIGNAL, LOOK_SECONDS, STARVED_SECONDS, Channel, resident_of
from fuzzvm.supervision.user_code import frames_within, is_generator, is_own, is_users

HOOK_SECONDS = 10.0
"""That one call of user code may take where nobody has said how long."""
LAG_SECONDS = 0.5
"""After the end of a time that what runs sees by itself, between two runs or states, before it is stopped."""
GRACE_SECONDS = 1.0
GRACE = 0.08
"""After it was asked to stop, before the process is ended: so many seconds, or that part of the time."""
MEMORY_GRACE = 1.08
"""What a bound on memory may be exceeded by, as a factor, before the process is ended."""
GAVE_UP = 70
"""Exit status of a process that its guard has ended. It has told its channel why."""


@dataclass
class Bound:
    """What bounds the body of a `with bounded(…)`.

    Times are of the monotonic clock: `until` is the end, `asked` when the body was first asked to stop, and `raised`
    when an exception was last raised in it.
    """

    error: Callable[[str], Exception]
    name: str
    until: float | None
    grace: float
    passed: Callable[[], str]
    memory: int
    stopped: str = ""
    """What was passed, once something was."""
    asked: float = 0.0
    raised: float = 0.0
    looks: int = 0
    late_looks: int = 0
    used: float = 0.0
    """Processor time of this process when the body was first asked to stop."""
    in_users: int = 0
    place: str = ""
    """Where in the user's code the body stood when it was last seen there."""

    @property
    def slow(self) -> bool:
        """Whether it is user code that takes the time."""
        return self.looks > 2 and self.in_users * 2 > self.looks


class Guard:
    """Looks at this process. `base` is the frame below which nothing is of interest."""

    def __init__(self, channel: Channel, base: FrameType) -> None:
        self.channel = channel
        self.bounds: list[Bound] = []
        self.interrupted = False
        """Whether Ctrl-C was heard."""
        self._base = base
        self._pid = os.getpid()
        self._mark: tuple[FrameType | None, object] = (None, None)
        self._since = 0.0
        self._looks = 0
        self._armed = False

    def arm(self) -> None:
        """Look from now on."""
        if not self._armed:
            self._armed = True
            # the first one: the owner waits for more from now on
            self.channel.beat()
            signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)

    def tell_bounds(self) -> None:
        """Tell the owner what this process is bounded by at present."""
        timed = [(bound.until + bound.grace, bound.name) for bound in self.bounds if bound.until is not None]
        until, name = min(timed, default=(0.0, ""))
        memory = min((bound.memory for bound in self.bounds if bound.memory), default=0)
        self.channel.bound(name, until, int(memory * MEMORY_GRACE))

    def _look(self, number: int, frame: FrameType | None) -> None:
        self.channel.beat()
        now = time.monotonic()
        frames = [*frames_within(frame, self._base)]
        users = [one for one in frames if is_users(one.f_code.co_filename)]
        self._see_progress(users, now)
        alone = all(is_own(one.f_code.co_filename) for one in frames)
        for bound in self.bounds:
            self._see_bound(bound, now, users, alone=alone)

    def _see_progress(self, users: list[FrameType], now: float) -> None:
        """End the process where a call of user code makes no progress."""
        if not users:
            self._mark = None, None
            return
        # what let the user's code go on: a run, which counts its steps, or one call for each step
        runner = users[-1].f_back
        while runner is not None and is_generator(runner.f_code):
            runner = runner.f_back
        mark = runner, None if runner is None else runner.f_locals.get("steps")
        if mark[0] is not self._mark[0] or mark[1] != self._mark[1]:
            # frames are kept, so that no later one can be taken for them
            self._mark, self._since, self._looks = mark, now, 0
            return
        self._looks += 1
        seconds = self.channel.hook_seconds
        # both: a process that was stopped, or starved, has been looked at too rarely to know
        if now - self._since >= seconds and self._looks * LOOK_SECONDS >= seconds / 2:
            self._give_up(f"{_place(users)} has neither yielded nor returned for {seconds:g} seconds", blames=True)

    def _see_bound(self, bound: Bound, now: float, users: list[FrameType], *, alone: bool) -> None:
        bound.looks += 1
        if users:
            bound.in_users += 1
            bound.place = _place(users)
        over = bound.until is not None and now >= bound.until
        passed = bound.name if over else bound.passed()
        if not passed:
            return
        bound.stopped = bound.stopped or passed + slow_code()
        said = bound.stopped
        first = not bound.asked
        if first:
            bound.asked, bound.used = now, time.process_time()
        # counted from when it was asked to stop, and in looks as well: a process that was stopped or is starved has its
        # time to do so
        bound.late_looks += over
        late = over and now - bound.asked >= bound.grace and bound.late_looks * LOOK_SECONDS >= bound.grace / 2
        if not users:
            # fuzzvm has yet to stop, or a library that it calls: on a busy machine that takes longer by the clock
            used = time.process_time() - bound.used
            late = late and (used >= bound.grace or now - bound.asked >= STARVED_SECONDS)
        large = not first and not over and bound.memory and resident_of("self") > bound.memory * MEMORY_GRACE
        if late or large:
            if users:
                self._give_up(f"{_place(users)} has neither yielded nor returned; {passed}", blames=True)
            self._give_up(passed, blames=False)
        stopping.ask(lambda: bound.error(said))
        # not at each look: who has caught it has something to finish
        if alone and now - bound.raised >= GRACE_SECONDS / 2:
            bound.raised = now
            raise bound.error(said)

    def _give_up(self, sentence: str, *, blames: bool) -> None:
        self.channel.report(sentence, blames=blames)
        os._exit(GAVE_UP)

    def forked(self) -> None:
        """End a process that user code has forked: it would go on with the work of this one, a second time."""
        users = [one for one in frames_within(sys._getframe(), self._base) if is_users(one.f_code.co_filename)]
        if users:
            self._give_up(f"{_place(users)}: user code must not fork", blames=True)


_guard: Guard | None = None


def begin(channel: Channel) -> None:
    """Guard this process from now on; called in its main thread, by the function below which its work is done."""
    global _guard
    first = _guard is None
    _guard = Guard(channel, sys._getframe(1))
    channel.hook_seconds = channel.hook_seconds or HOOK_SECONDS
    channel.files = user_code.registered()
    faulthandler.enable(file=channel.fd)
    # all threads: the signal may hit any of them, and it is the main thread that counts
    faulthandler.register(DUMP_SIGNAL, file=channel.fd, all_threads=True)
    channel.guarded = True
    sys.unraisablehook = _unraisable
    if first:
        os.register_at_fork(after_in_child=_forked)
    if user_code.registered():
        arm()


def arm() -> None:
    """Look at this process from now on, where it is guarded: user code is about to run."""
    if _guard is not None:
        _guard.arm()


def disarm() -> None:
    """Look no more: the process is about to end, and its signals have no handlers then."""
    if _guard is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def report(sentence: str) -> None:
    """Tell the owner why user code has failed, for what cannot be printed here any more."""
    if _guard is not None:
        _guard.channel.report(sentence, blames=True)


def watch(filename: str) -> None:
    """Look at this process from now on, where it is guarded: code of that file, the user's, is about to run."""
    user_code.register(filename)
    if _guard is not None:
        _guard.channel.files = user_code.registered()
        _guard.arm()


def heed_interrupts() -> None:
    """Raise KeyboardInterrupt at Ctrl-C as ever, and remember it: `was_interrupted` knows that no user code did it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if _guard is not None:
            _guard.interrupted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def was_interrupted() -> bool:
    """Return whether there was a Ctrl-C since `heed_interrupts`."""
    return _guard is not None and _guard.interrupted


def hook_seconds() -> float:
    """Return what one call of user code may take in this process; 0 where it is not guarded."""
    return 0.0 if _guard is None else _guard.channel.hook_seconds


def resident_supervisor() -> int:
    """Return the bytes of memory that the process has which supervises this one; 0 where none does."""
    return 0 if _guard is None else resident_of(os.getppid())


def let_hooks_take(seconds: float | None) -> None:
    """Let one call of user code take so many seconds from now on, here and in the processes that are started."""
    if _guard is not None and seconds is not None:
        _guard.channel.hook_seconds = seconds


def slow_code() -> str:
    """Return where in the user's code most of the time of the innermost bound goes, as the end of a message; or ''."""
    bound = None if _guard is None or not _guard.bounds else _guard.bounds[-1]
    return "" if bound is None or not bound.slow else f"; most of the time was spent in {bound.place}"


def hurry(seconds: float) -> None:
    """Let all bodies that are bounded now end within so many seconds: Ctrl-C was heard."""
    if _guard is not None:
        until = time.monotonic() + seconds
        for bound in _guard.bounds:
            bound.until = until if bound.until is None else min(until, bound.until)
        _guard.tell_bounds()


@contextmanager
def bounded(
    error: Callable[[str], Exception],
    *,
    name: str,
    seconds: float | None = None,
    lag: float = LAG_SECONDS,
    passed: Callable[[], str] = lambda: "",
    memory: int = 0,
) -> Iterator[None]:
    """Bound the body, where this process is guarded: it raises `error(what was reached)`, wherever it stands.

    `seconds` is the time for it, None for none, and `lag` what is added to that because the body looks at the clock as
    well; `name` is what messages say when it is over. `passed` is asked at each look whether another bound is passed,
    and returns what messages say then, else ''; `memory` is the bytes of this process that belong to that, for whoever
    ends it where it does not stop. Elsewhere than in the main thread, and where nobody guards, nothing is bounded.
    """
    now = time.monotonic()
    until = None if seconds is None else now + seconds + lag
    grace = max(GRACE_SECONDS, GRACE * (seconds or 0.0))
    bound = Bound(error, name, until, grace, passed, memory)
    guard = _guard
    if guard is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # nothing is raised in here, nor in what leaves it: that is called by contextlib, which is not fuzzvm's own
    guard.bounds.append(bound)
    guard.tell_bounds()
    guard.arm()
    try:
        yield
    finally:
        guard.bounds.remove(bound)
        stopping.withdraw()
        guard.tell_bounds()


def _place(users: list[FrameType]) -> str:
    """Return file, line and function of the innermost frame, and the function of the outermost: that is the hook."""
    frame, hook = users[0], users[-1].f_code.co_name
    function = frame.f_code.co_name
    named = function if function == hook else f"{function}, called by {hook},"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}: {named}"


def _forked() -> None:
    global _guard
    if _guard is not None:
        _guard.forked()
        # whoever has forked it says whether it is guarded
        _guard = None


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Print what cannot be raised, but for what user code does as its generators are thrown away.

    They are closed where they stand, in the middle of a run: what `finally` does there is no part of any schedule.
    """
    error = unraisable.exc_value
    if isinstance(unraisable.object, GeneratorType) or (error is not None and user_code.place_in(error) is not None):
        return
    sys.__unraisablehook__(unraisable)
