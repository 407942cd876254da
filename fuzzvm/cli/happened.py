"""What happened in the schedules of `fuzzvm verify` and `fuzz`, as text and as plain data: their cover points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from fuzzvm.campaigns.plain import FuzzCellResult
from fuzzvm.campaigns.status import Status
from fuzzvm.cli.output import print_table, say
from fuzzvm.kernel.cover_points import POINTS
from fuzzvm.verify.matrix import VerifiedCell

happened_option = click.option(
    "--happened", is_flag=True, help="Show what happened in the schedules: promotions, tables freed, walks, ..."
)


def not_met(points: Sequence[str], where: str = "no schedule") -> str:
    """Return a sentence on what a scenario is for and what happened nowhere; there is one thing at least."""
    first, *others = points
    more = f"; nor {', '.join(others)}" if others else ""
    return f"in {where} {POINTS[first]} ({first}){more}"


def print_happened(runs: Sequence[VerifiedCell]) -> None:
    """Print for each run the cover points that were met, and those that it was for and that were not."""
    say("", "Happened in some schedule:")
    print_table(
        ("mitigation", "scenario", "memory", "met", "not met", "given up"),
        [
            (
                run.cell.mitigation,
                run.cell.scenario.name,
                run.cell.memory,
                _names(run.verdict.met),
                _names(run.verdict.missing),
                _names(run.gives_up),
            )
            for run in runs
        ],
    )


def print_happened_in_runs(results: Sequence[FuzzCellResult]) -> None:
    """Print for each search and scenario the first run that met each of its cover points."""
    say("", "Happened first in run:")
    print_table(
        ("mitigation", "engine", "scenario", "runs", "met first in run", "not met"),
        [
            (
                result.cell.name,
                result.cell.engine.name,
                scenario,
                str(one.runs),
                ", ".join(f"{point} {run}" for point, run in one.first.items() if run is not None) or "-",
                _names(one.missing),
            )
            for result in results
            for scenario, one in result.happened
        ],
    )


def print_happened_in_campaign(status: Status) -> None:
    """Print for each target of a campaign the cover points that runs have met."""
    say("", "Happened in some run:")
    print_table(
        ("mitigation", "scenario and memory", "met", "not met"),
        [
            (
                one.mitigation,
                where,
                _names([point for point, met in cover.items() if met]),
                _names([point for point, met in cover.items() if not met]),
            )
            for one in status.mitigations
            for where, cover in one.cover.items()
        ],
    )


def happened_to_data(run: VerifiedCell) -> dict[str, Any]:
    """Return what happened as plain data: the keys that a run of `verify --json` has for it."""
    return {
        "happened": {point: point in run.verdict.met for point in POINTS},
        "not_met": list(run.verdict.missing),
        "gives_up": [point for point in POINTS if point in run.gives_up],
    }


def _names(points: Sequence[str] | frozenset[str]) -> str:
    return ", ".join(point for point in POINTS if point in points) or "-"
