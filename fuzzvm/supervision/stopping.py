"""What makes a run or a search stop from outside: at the next step of user code, wherever that is in C or swallows.

A search asks between states, and a run between runs, whether its time is over. Where user code is slow, that is too
rarely. So whoever looks at the clock, a handler of a signal, asks here; and what runs user code, `Automaton` and
`Machine`, raises what was asked for before it lets user code go on.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

asked: Callable[[], Exception] | None = None
"""Makes what is to be raised; None as long as nothing is to stop."""

_sends: list[Callable[[Any], Any]] = []


def ask(error: Callable[[], Exception]) -> None:
    """Have what runs user code raise an exception before its next step. Called from a signal handler."""
    global asked
    asked = error
    # that loop asks nobody anything between two steps: this list is all that it goes by
    _sends[:] = [_stop] * len(_sends)


def withdraw() -> None:
    """Let user code go on."""
    global asked
    asked = None


def check() -> None:
    """Raise what was asked for, if anything was."""
    if asked is not None:
        raise asked()


def run_by(sends: list[Callable[[Any], Any]]) -> None:
    """Take these for what the loop of a run calls to let its programs go on; [] when it has ended."""
    global _sends
    _sends = sends
    if asked is not None:
        ask(asked)


def _stop(response: object) -> object:
    check()
    raise RuntimeError("a run goes on that was stopped")
