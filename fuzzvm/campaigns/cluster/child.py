"""The process that makes the calls of one session, one after the other; started by `worker`, and ended by it.

It is no fork of the worker, which has threads, and no thread of it: a call needs the main thread for its guard, and
must be ended when nobody wants it any more. It ends by itself when the worker is gone: standard input closes then.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection

from fuzzvm.campaigns.cluster.outcomes import Outcome, Raised, Refused, Returned
from fuzzvm.campaigns.cluster.session import Session
from fuzzvm.exhaustive.limits import limit_process
from fuzzvm.machine.blame import blamed
from fuzzvm.mitigations import registry, sent_files
from fuzzvm.supervision import inside
from fuzzvm.supervision.channel import Channel


def main(pipe: int, channel: int) -> None:
    """Make calls until the pipe closes. The first message is the session and the bytes that a search may use."""
    threading.Thread(target=_end_with_the_worker, daemon=True).start()
    # what a user's code prints goes to the worker's log
    os.dup2(2, 1)
    inside.begin(Channel(channel))
    connection = Connection(pipe)
    try:
        session, memory = connection.recv()
        limit_process(memory)
        wrong = _prepare(session)
        while True:
            payload = connection.recv_bytes()
            connection.send_bytes(pickle.dumps(Refused(wrong) if wrong else _call(payload)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # nobody wants more
        os._exit(0)


def _prepare(session: Session) -> str:
    """Return what keeps this process from making calls of a session; '' if nothing does."""
    sent_files.provide(session.files)
    sent_files.stand_alone()
    try:
        differs = session.differs()
    except registry.MitigationError as error:
        return str(error)
    return f"it has {differs}" if differs else ""


def _call(payload: bytes) -> Outcome:
    try:
        function, arguments = pickle.loads(payload)
        return Returned(pickle.dumps(function(*arguments)))
    except BaseException as error:  # noqa: BLE001 - raised again where the call was asked for
        return Raised.of(blamed(error))


def _end_with_the_worker() -> None:
    os.read(0, 1)
    # whatever it has started goes with it: it leads a session of its own
    os.killpg(0, signal.SIGKILL)
