"""The owner's part: what is wrong with a process that runs user code, and what it died of.

The guard inside sees everything that happens in Python. What is left for the owner is a process whose Python does not
run, and one that has died, whatever of. An owner asks `trouble` some times a second, and ends the process where there
is any.
"""

from __future__ import annotations

import os
import signal
import time

from fuzzvm.supervision.channel import DUMP_SIGNAL, LOOK_SECONDS, STARVED_SECONDS, Channel, processor_of, resident_of
from fuzzvm.supervision.user_code import place_in_dump

PATIENCE = 0.3
"""Seconds past the end that the guard inside has set itself, before the owner ends the process."""
SILENCE = 1.0
"""Seconds without a look inside, after which no Python runs there."""
DUMP_SECONDS = 0.3
"""That a process is given to write down where it stands."""
_FATAL = "Fatal Python error"
"""What a stack begins with that is written because of a signal that ends the process."""
DUMPS = 3
"""Stacks that must agree for it to be said that a call does not return."""


class Trouble:
    """Why a process must be ended, or what it died of, in a sentence; `blames` says that user code is to blame.

    `by_others` says that it was killed from outside, for all that is known, and `nowhere` that the sentence names no
    place where it should.
    """

    def __init__(self, sentence: str, blames: bool, *, by_others: bool = False, nowhere: bool = False) -> None:
        self.sentence = sentence
        self.blames = blames
        self.by_others = by_others
        self.nowhere = nowhere


class Watched:
    """A process and its channel."""

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel
        self._looks = 0
        self._since = self._asked = time.monotonic()
        self._used = 0.0
        """Processor time that the other had used when it was last looked at inside."""
        self._paused = 0.0
        """Seconds that this process, and so perhaps the other, did not run."""

    def trouble(self) -> Trouble | None:
        """Return why the process must be ended; call it some times a second."""
        now, before = time.monotonic(), self._asked
        self._asked = now
        channel = self.channel
        if channel.reported:
            return Trouble(channel.reported, channel.blames)
        if now - before > 10 * LOOK_SECONDS:
            self._paused += now - before
            self._since = now
        if channel.looks != self._looks:
            self._looks, self._since, self._used = channel.looks, now, processor_of(self.pid)[1]
        if not channel.looks:
            return None
        if (most := channel.memory) and (has := resident_of(self.pid)) > most:
            return self._blamed(f"{has >> 20} MiB of memory, which is more than it may have")
        silent = now - self._since
        # as long as it is looked at inside, that is for its guard to say, which knows better how it gets on
        if (until := channel.until) and now > until + self._paused + PATIENCE and silent > SILENCE:
            if silent > STARVED_SECONDS or not self._starved():
                return self._blamed(channel.name)
            return None
        # once in a while: to ask where it stands takes a moment
        if silent > channel.hook_seconds and (stood := self._stands()):
            return Trouble(f"{stood} has neither yielded nor returned for {silent:.0f} seconds", blames=True)
        return None

    def died(self, code: int) -> Trouble:
        """Return what a process died of, by its exit status; a signal counts negative."""
        channel = self.channel
        if channel.reported:
            return Trouble(channel.reported, channel.blames)
        if code >= 0:
            # nothing of fuzzvm's own ends a process so
            sentence = f"exit status {code} in the middle of its work{self._perhaps(' by os._exit')}"
            return Trouble(sentence, blames=bool(channel.files), nowhere=True)
        name = signal.Signals(-code).name
        dumps = channel.dumps()
        if _FATAL in dumps and (stood := place_in_dump(dumps, channel.files)):
            return Trouble(f"{stood} has ended the process: {name}", blames=True)
        if -code == signal.SIGKILL:
            return Trouble(f"killed by {name}", blames=False, by_others=True, nowhere=True)
        return Trouble(f"killed by {name}{self._perhaps()}", blames=bool(channel.files), nowhere=True)

    def _starved(self) -> bool:
        """Return whether the process waits for a processor, and has hardly had one since it was last looked at."""
        state, used = processor_of(self.pid)
        return state == "R" and used - self._used < SILENCE / 2

    def _perhaps(self, how: str = "") -> str:
        """Return what may have ended the process, as the end of a sentence."""
        files = ", ".join(self.channel.files)
        return f", perhaps{how} in {files}" if files else ""

    def _blamed(self, what: str) -> Trouble:
        stood = self._stands(once=True)
        if stood:
            return Trouble(f"{stood} has neither yielded nor returned; {what}", blames=True)
        return Trouble(what, blames=False)

    def _stands(self, *, once: bool = False) -> str:
        """Return where in the user's code the process stands, '' where in none, or where it is not the same at once."""
        first = self._dumped()
        if once or not first:
            return first
        # a process whose guard was switched off is found there by chance as well
        function = first.rpartition(":")[2]
        return first if all(self._dumped().rpartition(":")[2] == function for _ in range(DUMPS - 1)) else ""

    def _dumped(self) -> str:
        channel = self.channel
        if not channel.guarded:
            return ""
        channel.forget_dumps()
        try:
            os.kill(self.pid, DUMP_SIGNAL)
        except ProcessLookupError:
            return ""
        until = time.monotonic() + DUMP_SECONDS
        text = ""
        while time.monotonic() < until:
            time.sleep(0.02)
            if (now := channel.dumps()) and now == text:
                break
            text = now
        return place_in_dump(text, channel.files)
