"""A check as KTAP: each pair is a test, and so is each function that no verdict is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fuzzvm.report.check_words import BAD, GOOD, NOT_SEEN, verdict_in_words
from fuzzvm.report.ktap import Result, ktap

NAME = "fuzzvm check"


def check_ktap(data: Mapping[str, Any]) -> str:
    """Return a check's data as KTAP. What cannot be said is skipped, as `git bisect run` skips it."""
    results = [_pair(pair) for pair in data["pairs"]]
    results += [
        Result(f"{one['name']} ({one['file']})", True, f"not looked at: {one['why'] or one['state']}")
        for one in data["functions"]
        if one["state"] in NOT_SEEN
    ]
    results += [Result(name, True, "not looked at: no image is compiled from it") for name in data["not_looked_at"]]
    answer, why = data["answer"], data["why"]
    said = f"{answer}: {why}" if why else answer
    skip = "" if answer in GOOD or answer in BAD else said
    return ktap(NAME, results, skip, [*data["series"], f"answer: {said}"])


def _pair(pair: Mapping[str, Any]) -> Result:
    answer = pair["answer"]
    said = [f"before: {verdict_in_words(pair['before'])}", f"after: {verdict_in_words(pair['after'])}"]
    if answer in BAD:
        said += pair["after"]["story"]["text"].splitlines() if pair["after"]["story"] else ()
    skip = "" if answer in GOOD or answer in BAD else answer
    return Result(f"{pair['scenario']}, {pair['memory']}", answer not in BAD, skip, tuple(said))
