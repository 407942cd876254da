"""Calls a function in a process of its own, and supervises that: for a process that user code must not end.

The process is forked: the function may be any, also one that no pickle knows. What it returns must come through one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

from fuzzvm.supervision import inside
from fuzzvm.supervision.channel import LOOK_SECONDS, Channel
from fuzzvm.supervision.errors import UserCodeError, pack, unpack
from fuzzvm.supervision.outside import Watched
from fuzzvm.supervision.supervisor import die_with_parent, lead_group

T = TypeVar("T")


def call(function: Callable[[], T], blamed: Callable[[BaseException], BaseException]) -> T:
    """Return what a function returns that is called in a process of its own, guarded.

    Raises what it raises, by way of `blamed` and a pickle, and UserCodeError where it does not come to an end or has
    ended its process. Where nothing can be forked, it is called here.
    """
    if not hasattr(os, "fork"):
        return function()
    channel = Channel()
    read, write = os.pipe()
    life, end_of_life = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with warnings.catch_warnings():
        # of threads beside this one, which the process does without
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(read)
        os.close(end_of_life)
        lead_group()
        die_with_parent(life)
        _work(function, blamed, channel, write)
    os.close(write)
    os.close(life)
    watched = Watched(pid, channel)
    answer = b""
    try:
        while True:
            if select.select([read], [], [], LOOK_SECONDS)[0]:
                if not (more := os.read(read, 1 << 16)):
                    break
                answer += more
            elif trouble := watched.trouble():
                raise UserCodeError(trouble.sentence)
        # it may have closed the pipe, and go on
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if ended is None and channel.status is None:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    finally:
        os.close(read)
        os.close(end_of_life)
        _kill_group(pid)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if channel.status is None or channel.reported:
        raise UserCodeError(watched.died(code).sentence)
    channel.close()
    result, packed = pickle.loads(answer)
    if packed is not None:
        raise unpack(packed)
    returned: T = result
    return returned


def _work(
    function: Callable[[], T], blamed: Callable[[BaseException], BaseException], channel: Channel, pipe: int
) -> None:
    """Call the function, answer, and end the process: nothing of what its parent has begun is to go on in it."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        inside.begin(channel)
        inside.arm()
        try:
            answer = pickle.dumps((function(), None))
        except BaseException as raised:  # noqa: BLE001 - it is raised in the parent
            answer = pickle.dumps((None, pack(blamed(raised))))
        view = memoryview(answer)
        while view:
            view = view[os.write(pipe, view) :]
        for stream in (sys.stdout, sys.stderr):
            # user code may have closed it
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        channel.done(0)
    finally:
        os._exit(1)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return
