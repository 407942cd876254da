"""What `fuzzvm fuzz --jobs` and `fuzzvm status` share: a campaign's progress line, and its figures as text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import click
from rich.live import Live
from rich.text import Text

from fuzzvm.cli.common import progress_console, shell_path
from fuzzvm.cli.output import print_table
from fuzzvm.corpus.format import read
from fuzzvm.explore.campaigns.run import State
from fuzzvm.explore.campaigns.status import Status
from fuzzvm.machine.schedule import context_switches


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[State], None]]:
    """Show one line of progress on a terminal; yields what to call with a campaign's state."""
    # no thread that refreshes it: workers are forked from this process
    with Live(console=progress_console(), auto_refresh=False, transient=True) as live:

        def show(state: State) -> None:
            live.update(Text(_line(state), no_wrap=True, overflow="ellipsis"), refresh=True)

        yield show


def _line(state: State) -> str:
    since = f", last new {_ago(time.time() - state.last_new)}" if state.last_new else ""
    settling = f" and {state.unsettled} to check" if state.unsettled else ""
    return (
        f"{state.runs} runs, {state.sitting_runs / max(state.sitting_seconds, 1e-9):.0f}/s, {state.pairs} pairs"
        f"{since}, {state.findings} findings{settling}, {_duration(state.seconds)}"
    )


def print_campaign(status: Status) -> None:
    """Print what a campaign has come to."""
    print_table(
        ("mitigation", "runs", "pairs", "CPU s", "findings", "verdict", "as claimed"),
        [
            (
                one.mitigation,
                str(one.sums.runs),
                str(one.sums.pairs),
                f"{one.sums.cpu_seconds:.1f}",
                str(len(one.findings)),
                "bug" if one.findings else "none found",
                {True: "yes", False: "NO", None: "-"}[one.as_expected],
            )
            for one in status.mitigations
        ],
    )
    click.echo()
    print_table(
        ("engine", "runs", "CPU s", "pairs first covered", "ways to fail"),
        [
            (name, str(sums.runs), f"{sums.cpu_seconds:.1f}", str(sums.pairs), str(sums.failing))
            for name, sums in status.engines.items()
        ],
    )
    for finding in status.findings:
        path = status.path(finding)
        case = read(path)
        own = f" --mitigation {case.mitigation}" if ".py:" in case.mitigation else ""
        how = "proven minimal" if finding.proven else "reduced"
        click.echo(
            f"\n{case.mitigation}, {finding.engine}: {case.expect} ({context_switches(case.schedule)} context "
            f"switches, {len(case.schedule)} steps, {how}; found in {finding.scenario})\n"
            f"  saved: fuzzvm explain {shell_path(path)}{own}"
        )
    if status.unsettled:
        click.echo(
            f"\n{len(status.unsettled)} ways to fail are not minimised and checked: "
            f"{shell_path(status.folder / 'unsettled')}"
        )


def print_progress(status: Status) -> None:
    """Print whether a campaign runs, and how far it has come."""
    state = "running" if status.running else "finished" if status.finished else "not running"
    lately = "" if status.runs_per_second_lately is None else f", {status.runs_per_second_lately:.0f}/s lately"
    new = "nothing new yet" if status.last_new is None else f"last new {_ago(status.last_new)}"
    click.echo(
        f"{status.folder}: {state}, {_duration(status.seconds)}, {status.sums.runs} runs, "
        f"{status.sums.runs / max(status.seconds, 1e-9):.0f}/s{lately}, {status.pairs} pairs, "
        f"{len(status.findings)} findings, {new}"
    )
    deaths = sum("worker died" in what for _, what in status.events)
    if deaths:
        click.echo(f"{deaths} workers died, and their tasks were run again; --json has what of")
    if not status.running and not status.finished:
        click.echo(f"goes on with: fuzzvm fuzz --resume {shell_path(status.folder)}")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _ago(seconds: float) -> str:
    return f"{_duration(max(0.0, seconds))} ago"
