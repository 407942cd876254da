"""A verdict as every command says it in words; as JSON: verify/verdict_data.py."""

from __future__ import annotations

from fuzzvm.cli.happened import not_met
from fuzzvm.cli.output import say
from fuzzvm.exhaustive import Verdict


def in_words(verdict: Verdict) -> str:
    """Return a verdict that never says more than was explored."""
    if verdict.failure is not None:
        return f"bug: {verdict.failure.error}"
    if verdict.complete or verdict.verdict == "undecided":
        return verdict.verdict
    return f"{verdict.verdict} within the bound"


def how(*, minimal: bool) -> str:
    """Return what is known of the length of a schedule."""
    return "proven minimal" if minimal else "not proven minimal"


def say_shortfalls(where: str, verdict: Verdict) -> None:
    """Print what a verdict lacks: a schedule that was not found, what never happened, what was not explored."""
    if verdict.failure is not None and verdict.schedule is None:
        place = verdict.failure.function or "the run as a whole"
        say("", f"{where}: {verdict.failure.error} in {place}; its schedule was not found within the bound")
    if verdict.missing:
        say("", f"{where}: vacuous: {not_met(verdict.missing)}")
    if verdict.stopped:
        say("", f"{where}: not everything was explored: {verdict.stopped}")
