"""What is raised where user code ends a process or does not end, and how an exception goes to another process."""

from __future__ import annotations

import pickle
import traceback


class UserCodeError(Exception):
    """User code does not come to an end, or has ended the process that ran it: one line, with its place where known."""


def pack(error: BaseException) -> bytes:
    """Return bytes that `unpack` makes an exception of again, in a process that has the same code.

    By its class and what it holds: a pickle would call the class with the message alone, and few take that.
    """
    try:
        packed = pickle.dumps((type(error), error.args, vars(error)))
        unpack(packed)
    except Exception:  # noqa: BLE001 - what it holds is anything, and of anybody
        text = "".join(traceback.format_exception(error))
        packed = pickle.dumps((RuntimeError, (f"in another process:\n{text}",), {}))
    return packed


def unpack(packed: bytes) -> BaseException:
    """Return the exception that `pack` was given, without its traceback."""
    kind, args, held = pickle.loads(packed)
    error: BaseException = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(held)
    return error
