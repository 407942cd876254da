"""The page of a check: the series, its verdicts before and after, what was not looked at, and the schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuzzvm.report.check_words import BAD, GOOD, NOT_SEEN, kernel_in_words, verdict_in_words
from fuzzvm.report.html.escape import render


def check_page(data: Mapping[str, Any]) -> str:
    """Return the page of a check's data, as `fuzzvm check --json` prints it."""
    return render(
        "check_page.html.j2",
        data=data,
        kernel=kernel_in_words,
        verdict=verdict_in_words,
        mood=_mood,
        not_seen=NOT_SEEN,
    )


def _mood(answer: str) -> str:
    return "good" if answer in GOOD else "bad" if answer in BAD else "open"
