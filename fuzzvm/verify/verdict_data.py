"""A verdict as plain data, as every command's JSON has it."""

from __future__ import annotations

from typing import Any

from fuzzvm.exhaustive import Verdict
from fuzzvm.exhaustive.verdict import FailingRun
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
    }
