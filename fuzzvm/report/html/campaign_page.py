"""The page of a campaign: what was seen and found over time, and what each engine and scenario has cost."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fuzzvm.report.html.escape import render

WIDTH, HEIGHT = 720, 220
"""Of the drawing, in its own units."""
GAP_SECONDS = 60.0
"""What lies between two samples counts for no more: nobody ran the campaign meanwhile."""
POINTS = 400
"""That a line has at most."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A finding in the drawing, at `x`; `label` says which, and after how long."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of WIDTH by HEIGHT: `seen` and `expected` are points of lines as SVG has them, `top` is their scale.

    `expected` is what was seen and what is estimated to be left; it may be taken for the top where it is above it.
    """

    seen: str
    expected: str
    top: int
    seconds: float
    markers: tuple[Marker, ...]


def campaign_page(data: Mapping[str, Any]) -> str:
    """Return the page of a campaign's data, as `fuzzvm status --json` prints it; complete in itself."""
    return render(
        "campaign_page.html.j2",
        data=data,
        chart=chart_of(data["samples"], data["searches"]),
        width=WIDTH,
        height=HEIGHT,
        duration=duration,
        when=_when,
    )


def duration(seconds: float) -> str:
    """Return seconds as days, hours, minutes and seconds."""
    return str(timedelta(seconds=int(seconds)))


def chart_of(samples: Sequence[Mapping[str, float]], searches: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return the drawing of the samples and findings of a campaign, None where there are too few samples for a line."""
    if len(samples) < 2:
        return None
    times = [one["time"] for one in samples]
    elapsed = [0.0]
    for before, after in itertools.pairwise(times):
        elapsed.append(elapsed[-1] + min(after - before, GAP_SECONDS))
    seconds = max(elapsed[-1], 1e-9)
    # an estimate from few samples can be far above all that there turns out to be, and would make the rest flat
    top = int(max(1, *(one["pairs"] for one in samples), samples[-1]["pairs"] + samples[-1]["undiscovered"]))
    every = -(-len(samples) // POINTS)
    chosen = sorted({*range(0, len(samples), every), len(samples) - 1})

    def line(values: Sequence[float]) -> str:
        points = ((elapsed[number] / seconds * WIDTH, min(values[number] / top, 1.0)) for number in chosen)
        return " ".join(f"{x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in points)

    def at(time: float) -> float:
        place = min(max(bisect_right(times, time) - 1, 0), len(times) - 1)
        return min(elapsed[place] + min(max(time - times[place], 0.0), GAP_SECONDS), seconds)

    markers = tuple(
        Marker(
            at(found["time"]) / seconds * WIDTH,
            f"{found['bug']} of {search['mitigation']}, {duration(at(found['time']))}",
        )
        for search in searches
        for found in search["findings"]
    )
    return Chart(
        seen=line([one["pairs"] for one in samples]),
        expected=line([one["pairs"] + one["undiscovered"] for one in samples]),
        top=top,
        seconds=seconds,
        markers=markers,
    )


def _when(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
