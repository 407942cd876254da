"""Times that can be compared although the machine is busy: taken in turns, and the median of several."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Measure = Callable[[], float]
"""Does something, and returns a figure: seconds, or a rate."""


def interleaved(measures: Mapping[str, Measure], repeats: int, *, seconds: float | None = None) -> dict[str, float]:
    """Return the median of each figure, over rounds in which each is taken once; no round begins after `seconds`."""
    began = time.monotonic()
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for done in range(repeats):
        if done and seconds is not None and time.monotonic() - began > seconds:
            break
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(figures) for name, figures in taken.items()}


def median_ratio(one: Measure, other: Measure, repeats: int) -> tuple[float, float, float]:
    """Return the medians of two figures, and the median of their ratio, each taken within one round."""
    pairs = [(one(), other()) for _ in range(repeats)]
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio
