"""Notices code that asks for the time or for random numbers while hooks run.

What a hook makes of the time shows in no comparison where it makes the same of it most of the time. So the functions
that tell it, and those that draw numbers, are replaced by ones that say who has called them: before the code of the
user is loaded, as it may keep them by names of its own. They return what they always return.
"""

from __future__ import annotations

import datetime
import os
import random
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from fuzzvm.supervision import inside
from fuzzvm.supervision.user_code import is_own

_TIME = (
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
    *("process_time_ns", "thread_time", "thread_time_ns", "clock_gettime", "clock_gettime_ns", "localtime", "gmtime"),
    *("ctime",),
)
_DRAWS = (
    *(
        "random",
        "uniform",
        "randint",
        "randrange",
        "choice",
        "choices",
        "sample",
        "shuffle",
        "getrandbits",
        "randbytes",
    ),
    *("triangular", "betavariate", "expovariate", "gammavariate", "gauss", "lognormvariate", "normalvariate"),
    *("vonmisesvariate", "paretovariate", "weibullvariate"),
)
_QUIET = ("logging",)
"""Libraries that may ask for the time: nothing that a hook does goes by what they write down."""


class Calls:
    """The calls so far: what was called, and file and line of the innermost code of the user that called it."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str, int]] = []

    def note(self, what: str) -> None:
        """Note a call of the function that calls this."""
        frame = sys._getframe(2)
        while frame is not None:
            filename = frame.f_code.co_filename
            name = str(frame.f_globals.get("__name__", ""))
            module = name.partition(".")[0]
            # the guard looks at the clock whatever runs
            if module in _QUIET or name == inside.__name__:
                return
            if not is_own(filename) and module not in sys.stdlib_module_names:
                self.made.append((what, filename, frame.f_lineno))
                return
            frame = frame.f_back  # type: ignore[assignment]

    def take(self) -> list[tuple[str, str, int]]:
        """Return the calls so far, and forget them."""
        made, self.made = self.made, []
        return made


def install() -> Calls:
    """Replace the functions of this process; return what notes the calls of them. For a process that ends soon."""
    calls = Calls()

    def noting(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.note(what)
            return function(*args, **kwargs)

        return noted

    for name in _TIME:
        if hasattr(time, name):
            setattr(time, name, noting(f"time.{name}", getattr(time, name)))
    for name in ("urandom", "getrandom"):
        if hasattr(os, name):
            setattr(os, name, noting(f"os.{name}", getattr(os, name)))
    for name in _DRAWS:
        if hasattr(random, name):
            setattr(random, name, noting(f"random.{name}", getattr(random, name)))

    class Random(random.Random):
        def random(self) -> float:
            calls.note("random.Random.random")
            return super().random()

        def getrandbits(self, k: int, /) -> int:
            calls.note("random.Random.getrandbits")
            return super().getrandbits(k)

    class SystemRandom(random.SystemRandom):
        def random(self) -> float:
            calls.note("random.SystemRandom.random")
            return super().random()

        def getrandbits(self, k: int, /) -> int:
            calls.note("random.SystemRandom.getrandbits")
            return super().getrandbits(k)

        def randbytes(self, n: int) -> bytes:
            calls.note("random.SystemRandom.randbytes")
            return super().randbytes(n)

    class Date(datetime.date):
        @classmethod
        def today(cls) -> Any:
            calls.note("datetime.date.today")
            return super().today()

    class DateTime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            calls.note("datetime.datetime.now")
            return super().now(tz)

        @classmethod
        def utcnow(cls) -> Any:
            calls.note("datetime.datetime.utcnow")
            return super().utcnow()

        @classmethod
        def today(cls) -> Any:
            calls.note("datetime.datetime.today")
            return super().today()

    random.Random, random.SystemRandom = Random, SystemRandom  # type: ignore[misc]
    datetime.date, datetime.datetime = Date, DateTime  # type: ignore[misc]
    return calls
