"""A verdict as every command says it in words; as JSON: verify/verdict_data.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fuzzvm.cli.happened import not_met
from fuzzvm.cli.output import say
from fuzzvm.exhaustive import Verdict
from fuzzvm.machine.program import Place


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


def say_load_buffering(verdicts: Sequence[tuple[str, Verdict]]) -> None:
    """Print what is known of load buffering, of all runs that are given with where they are and that are safe."""
    safe = [(where, verdict.load_buffering) for where, verdict in verdicts if verdict.verdict == "safe"]
    known = [(where, found) for where, found in safe if found is not None]
    if not known:
        return
    excluded = sum(found.excluded for _, found in known)
    unseen = sum(bool(found.not_looked_at) for _, found in known)
    beside = f", not looked at in {unseen}" if unseen else ""
    say("", f"load buffering: excluded in {excluded} of {len(known)} runs that are safe under arm64{beside}")
    for where, found in known:
        if found.not_looked_at:
            say(f"  {where}: not looked at, as {found.not_looked_at}")
        for pair in found.pairs:
            say(f"  {where}: not excluded: CPU {pair.cpu}, store in {_at(pair.store)} before load in {_at(pair.load)}")


def _at(place: Place) -> str:
    return f"{place.function} ({Path(place.filename).name}:{place.line})"


def say_shortfalls(where: str, verdict: Verdict) -> None:
    """Print what a verdict lacks: a schedule that was not found, what never happened, what was not explored."""
    if verdict.failure is not None and verdict.schedule is None:
        place = verdict.failure.function or "the run as a whole"
        say("", f"{where}: {verdict.failure.error} in {place}; its schedule was not found within the bound")
    if verdict.missing:
        say("", f"{where}: vacuous: {not_met(verdict.missing)}")
    if verdict.stopped:
        say("", f"{where}: not everything was explored: {verdict.stopped}")
