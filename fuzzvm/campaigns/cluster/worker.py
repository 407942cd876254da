"""What a worker of dask does with a task: hands it to a process of its own, and ends that when nobody wants the result.

The processes are kept for the next task of the session; one that has had none for a while is ended. A worker with
several threads has as many processes at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

from fuzzvm.campaigns.cluster.outcomes import Ended, Outcome, Refused
from fuzzvm.campaigns.cluster.session import Session, here, host_of
from fuzzvm.supervision.channel import Channel
from fuzzvm.supervision.interpreter import environment, python
from fuzzvm.supervision.outside import Trouble, Watched

LOOK_SECONDS = 0.1
"""Between two looks whether anybody wants the result."""
IDLE_SECONDS = 10.0
"""That a process is kept without a task; what a client that has died leaves on its workers is gone after that."""
UNWANTED = Ended("cancelled", by_others=True)
_CODE = "import sys; from fuzzvm.campaigns.cluster import child; child.main(int(sys.argv[1]), int(sys.argv[2]))"


class Child:
    """A process that makes the calls of a session."""

    def __init__(self, session: Session, memory: int | None) -> None:
        self._pipe, theirs = Pipe()
        channel = Channel()
        descriptors = (theirs.fileno(), channel.fd)
        self._process = subprocess.Popen(
            python("-c", _CODE, *map(str, descriptors)),
            # its other end is here alone, and closes when this process ends, whatever it dies of
            stdin=subprocess.PIPE,
            env=environment(),
            pass_fds=descriptors,
            start_new_session=True,
        )
        theirs.close()
        self._watched = Watched(self._process.pid, channel)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # one that has just died says so when it is called
            self._pipe.send((session, memory))

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None

    def call(self, payload: bytes, unwanted: Callable[[], bool]) -> Outcome:
        """Return what came of a call; looks in between whether it is unwanted, and ends the process then."""
        try:
            self._pipe.send_bytes(payload)
            while not self._pipe.poll(LOOK_SECONDS):
                if unwanted():
                    self.end()
                    return UNWANTED
                if (trouble := self._watched.trouble()) is not None:
                    self.end()
                    return _ended(trouble)
            outcome: Outcome = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            # the latter where it was killed in the middle of a message
            return self._buried()
        return outcome

    def end(self) -> None:
        """End it at once, with all that it has started."""
        # one that has been waited for has given back its number, and that of its group
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._pipe.close()
        self._watched.channel.close()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _buried(self) -> Ended:
        # how it has ended, before what it has started is ended too
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        trouble = self._watched.died(code)
        self.end()
        return _ended(trouble)


def _ended(trouble: Trouble) -> Ended:
    return Ended(trouble.sentence, trouble.by_others, trouble.blames)


class Children:
    """The processes of a worker that have nothing to do, by session."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: defaultdict[str, list[tuple[float, Child]]] = defaultdict(list)
        self._memory: dict[str, int | None] = {}
        self._reaper: threading.Thread | None = None

    def take(self, session: Session, memory: Callable[[], int | None]) -> Child:
        """Return a process for a session; `memory` says what a search may use, and is asked once a session."""
        with self._lock:
            while self._idle[session.id]:
                _, child = self._idle[session.id].pop()
                if child.alive:
                    return child
                child.end()
            if session.id not in self._memory:
                # one session is under way at a time, or a few: what is known of older ones is of no use
                self._memory = dict(list(self._memory.items())[-8:]) | {session.id: memory()}
            share = self._memory[session.id]
        return Child(session, share)

    def give(self, session: Session, child: Child) -> None:
        """Keep a process that has made its call."""
        with self._lock:
            self._idle[session.id].append((time.monotonic(), child))
            if self._reaper is None:
                self._reaper = threading.Thread(target=self._reap, daemon=True)
                self._reaper.start()

    def _reap(self) -> None:
        while True:
            time.sleep(IDLE_SECONDS / 5)
            before = time.monotonic() - IDLE_SECONDS
            with self._lock:
                for session, kept in list(self._idle.items()):
                    for since, child in kept:
                        if since < before:
                            child.end()
                    self._idle[session] = [(since, child) for since, child in kept if since >= before]
                    if not self._idle[session]:
                        del self._idle[session]
                if not self._idle:
                    self._reaper = None
                    return


_children = Children()


def facts() -> dict[str, str]:
    """Return what a session compares, of this worker."""
    return here()


def run(session: Session, payload: bytes) -> Outcome:
    """Make a call; what a task of dask is. The payload is a pickle of function and arguments."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def memory() -> int | None:
        return session.memory_of_one(host_of(worker.address), worker.state.nthreads)

    child = _children.take(session, memory)
    try:
        outcome = child.call(payload, lambda: _unwanted(worker, key))
    except BaseException:
        child.end()
        raise
    if isinstance(outcome, Refused):
        outcome = Refused(f"worker {worker.address}: {outcome.why}")
    if not isinstance(outcome, Ended):
        _children.give(session, child)
    return outcome


def _unwanted(worker: Any, key: object) -> bool:
    """Return whether nobody waits for a task any more, or its worker is about to end."""
    task = worker.state.tasks.get(key)
    return task is None or task.state == "cancelled" or worker.status.name in ("closing", "closed", "failed")
