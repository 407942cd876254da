"""A verdict as plain data, as every command's JSON has it."""

from __future__ import annotations

from typing import Any

from fuzzvm.exhaustive import Verdict
from fuzzvm.exhaustive.verdict import FailingRun
from fuzzvm.machine.program import Place
from fuzzvm.machine.schedule import context_switches, format_schedule


def failure_to_data(verdict: Verdict) -> dict[str, Any]:
    """Return what goes wrong, None where nothing does."""
    failure = verdict.failure
    return {"bug": failure.error if failure else None, "function": failure.function if failure else None}


def error_to_data(error: FailingRun) -> dict[str, Any]:
    """Return one of several errors, with its schedule."""
    return {
        "bug": error.failure.error,
        "function": error.failure.function,
        "message": error.failure.message,
        "proven_minimal": error.minimal,
        "schedule": format_schedule(error.schedule),
        "context_switches": context_switches(error.schedule),
        "steps": len(error.schedule),
    }


def load_buffering_to_data(verdict: Verdict) -> dict[str, Any] | None:
    """Return what is known of load buffering, None where the memory model leaves none of it out, or something fails."""
    found = verdict.load_buffering
    if found is None:
        return None
    return {
        "verdict": found.in_words,
        "why": found.not_looked_at or None,
        "pairs": [
            {"cpu": pair.cpu, "load": _place_to_data(pair.load), "store": _place_to_data(pair.store)}
            for pair in found.pairs
        ],
    }


def _place_to_data(place: Place) -> dict[str, Any]:
    return {"function": place.function, "file": place.filename, "line": place.line}


def search_to_data(verdict: Verdict) -> dict[str, Any]:
    """Return what was explored, and the shortest schedule that goes wrong; seconds are rounded."""
    schedule = verdict.schedule
    return {
        "complete": verdict.complete,
        "bound": verdict.stopped or None,
        "states": verdict.states,
        "transitions": verdict.transitions,
        "seconds": round(verdict.seconds, 4),
        "schedule": None if schedule is None else format_schedule(schedule),
        "context_switches": None if schedule is None else context_switches(schedule),
        "steps": None if schedule is None else len(schedule),
        "load_buffering": load_buffering_to_data(verdict),
    }
