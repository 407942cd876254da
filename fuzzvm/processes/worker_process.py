"""A process of this machine that makes calls for another: forked, watched, and gone when nobody needs it.

Forking starts one in milliseconds, with all that is loaded and compiled.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from fuzzvm.supervision import inside
from fuzzvm.supervision.channel import Channel
from fuzzvm.supervision.outside import Trouble, Watched


class WorkerProcess:
    """A process that runs `main(connection, *arguments)`, guarded. `connection` here is the other end of its pipe.

    `hook_seconds` is what one call of user code may take there, 0 for what holds in this process.
    """

    def __init__(self, main: Callable[..., None], *arguments: Any, hook_seconds: float = 0.0) -> None:
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, there = context.Pipe()
        channel = Channel()
        channel.hook_seconds = hook_seconds or inside.hook_seconds()
        self.process: BaseProcess = context.Process(target=_main, args=(main, there, channel, arguments), daemon=True)
        self.process.start()
        # only the process itself holds that end then, so that the pipe tells when it is gone
        there.close()
        self._watched = Watched(self.process.pid or 0, channel)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._watched.pid

    def kill(self) -> None:
        """Have it ended at once; `bury` waits for that."""
        self.process.kill()

    def trouble(self) -> Trouble | None:
        """Return why the process must be ended, None where it need not; call it some times a second."""
        return self._watched.trouble()

    def bury(self) -> Trouble:
        """Return what the process died of; end it where it has not ended."""
        # it closes its end a moment before it has ended
        self.process.join(0.5)
        self.process.kill()
        self.process.join()
        self.connection.close()
        trouble = self._watched.died(self.process.exitcode or 0)
        self._watched.channel.close()
        return trouble


def _main(main: Callable[..., None], connection: Connection, channel: Channel, arguments: tuple[Any, ...]) -> None:
    # Ctrl-C ends it at once and without a word: the parent has the last one
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # what was there before the fork is no garbage, and looking through it for some takes as long as a small search
    gc.freeze()
    inside.begin(channel)
    main(connection, *arguments)
