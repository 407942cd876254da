"""Schedules: the choices of a run, in order, and their text.

A step is a tuple of small integers: first the agent that steps (a CPU's number; numbers past the last CPU belong to
the memory model's own agents, a store buffer that drains for one), then what else the step had to choose, each from
0 to n - 1, where 0 is what sequential consistency would do. A choice among n ways is recorded only where n > 1; the
agent is always recorded, forced or not, so that a schedule can be read and edited without running it.

As text, equal steps in a row are one word: `0*12 1*3 0 1.2`, CPU 0 twelve times, CPU 1 three times, CPU 0 once, and
CPU 1 once, taking the third of the ways that its step has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import TypeAlias

Step: TypeAlias = tuple[int, ...]
Schedule: TypeAlias = tuple[Step, ...]

MAX_STEPS = 1_000_000
"""Longest schedule that a text may stand for; a short text must not be able to ask for unbounded memory."""

_WORD = re.compile(r"(?P<step>[0-9]{1,6}(?:\.[0-9]{1,6})*)(?:\*(?P<count>[1-9][0-9]{0,6}))?", re.ASCII)


def context_switches(schedule: Sequence[Step]) -> int:
    """Return how often the agent changes from one step to the next."""
    return sum(a[0] != b[0] for a, b in pairwise(schedule))


def format_schedule(schedule: Iterable[Step]) -> str:
    """Return the text of a schedule; `parse_schedule` reads it back."""
    words = []
    for step, run in groupby(schedule):
        count = sum(1 for _ in run)
        word = ".".join(map(str, step))
        words.append(word if count == 1 else f"{word}*{count}")
    return " ".join(words)


def parse_schedule(text: str) -> Schedule:
    """Return the schedule that a text stands for. Raises ValueError naming the word that is none."""
    steps: list[Step] = []
    for word in text.split():
        match = _WORD.fullmatch(word)
        if match is None:
            raise ValueError(f"{word[:40]!r} is not a step (like 0, 1*5 or 1.2)")
        count = int(match["count"] or 1)
        if len(steps) + count > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps")
        steps.extend([tuple(map(int, match["step"].split(".")))] * count)
    return tuple(steps)
