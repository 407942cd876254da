"""Asks second processes whether a scheme does the same there."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import tempfile
import time
from collections.abc import Sequence

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import ProgramError, StoppedError
from fuzzvm.supervision import inside
from fuzzvm.supervision.channel import LOOK_SECONDS, Channel, processor_of
from fuzzvm.supervision.errors import UserCodeError
from fuzzvm.supervision.interpreter import environment, python
from fuzzvm.supervision.outside import Trouble, Watched
from fuzzvm.verify.determinism.asked import Asked, DeterminismQuestion
from fuzzvm.verify.determinism.drive import place_of
from fuzzvm.verify.determinism.second import Answer
from fuzzvm.verify.determinism.sources import source_of

SEEDS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")
"""Hash seeds. Under one of its own, a set of two strings comes in the other order half of the time."""
FEW = 2
"""Hash seeds for a scheme of which nothing is known that goes by them."""
SECONDS = 120.0
"""Of processor time, for a process that takes half a second: one that takes more does not do what was done here."""
ATTEMPTS = 3
"""Times that a process is started that was killed: that says nothing of the scheme."""


class NondeterministicSchemeError(ProgramError):
    """A scheme does not do the same every time; the message says what, and where."""


def other_seeds() -> list[str]:
    """Return hash seeds that this process does not have."""
    return [seed for seed in SEEDS if seed != os.environ.get("PYTHONHASHSEED")]


def ask(mitigation: type[Mitigation], questions: Sequence[DeterminismQuestion], until: float | None = None) -> str:
    """Ask second processes about a mitigation until one finds something that is not the same.

    Returns what is not the same of a replay, '' where all is. Raises NondeterministicSchemeError for a hook that does
    not do the same, and where a process does not answer. Raises ProgramError where the code of the mitigation cannot be
    loaded in another process, UserCodeError where it does not come to an end there, and StoppedError where the answers
    are not there `until` then, by the monotonic clock.
    """
    source = source_of(mitigation)
    seeds = other_seeds()
    left = FEW
    for seed in seeds:
        if not left:
            break
        left -= 1
        # what does not go by the hash seed shows in one process
        asked = Asked(source, tuple(questions), passes=2 if seed == seeds[0] else 1)
        answer = _asked(mitigation, pickle.dumps(asked), seed, until)
        place = place_of(mitigation)
        if answer.unusable:
            message = f"the scheme cannot be loaded in a second process: {answer.unusable}"
            raise ProgramError(" ".join(message.split()), place.filename, place.line)
        if answer.message and answer.filename:
            raise NondeterministicSchemeError(answer.message, answer.filename, answer.line)
        if answer.message:
            return answer.message
        if answer.more and seed == seeds[0]:
            left = len(seeds) - 1
    return ""


def _asked(mitigation: type[Mitigation], question: bytes, seed: str, until: float | None) -> Answer:
    place = place_of(mitigation)
    for _ in range(ATTEMPTS):
        said, errors, died = _answer(mitigation, question, seed, until)
        if not died.by_others:
            break
    try:
        return Answer(**json.loads(said))
    except (ValueError, TypeError):
        last = (errors.decode(errors="replace").splitlines() or [""])[-1]
        message = f"a second process that ran the scheme ended: {died.sentence}{last and f'; {last}'}"
        raise NondeterministicSchemeError(message, place.filename, place.line) from None


def _answer(
    mitigation: type[Mitigation], question: bytes, seed: str, until: float | None
) -> tuple[bytes, bytes, Trouble]:
    """Return what a second process writes to its standard streams, and what has ended it if it does not answer."""
    channel = Channel()
    channel.hook_seconds = inside.hook_seconds()
    command = python("-m", "fuzzvm.verify.determinism.second", str(channel.fd))
    variables = environment(PYTHONHASHSEED=seed)
    pipe = subprocess.PIPE
    with contextlib.closing(channel), tempfile.TemporaryFile() as asked:
        # a pipe takes a part of it, and what is left goes nowhere once there was a look at the process
        asked.write(question)
        asked.seek(0)
        process = subprocess.Popen(command, stdin=asked, stdout=pipe, stderr=pipe, env=variables, pass_fds=[channel.fd])
        watched = Watched(process.pid, channel)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said, errors = process.communicate(timeout=LOOK_SECONDS)
                    if not channel.reported:
                        return said, errors, watched.died(process.returncode)
                if trouble := watched.trouble():
                    raise UserCodeError(f"{trouble.sentence}, in a second process")
                if until is not None and time.monotonic() > until:
                    raise StoppedError("not repeated in a second process for want of time")
                # not of the clock: a process that waits for a processor says nothing of the scheme
                if processor_of(process.pid)[1] > SECONDS:
                    place = place_of(mitigation)
                    message = f"the scheme has not done within {SECONDS:g} s in a second process what it did here"
                    raise NondeterministicSchemeError(message, place.filename, place.line)
        finally:
            with process:
                process.kill()
