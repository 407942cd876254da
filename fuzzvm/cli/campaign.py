"""What `fuzzvm fuzz --jobs` and `fuzzvm status` share: a campaign's progress line, and its figures as text."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.live import Live
from rich.text import Text

from fuzzvm.campaigns.run import State
from fuzzvm.campaigns.status import MitigationStatus, Status
from fuzzvm.cli.common import progress_console, shell_path
from fuzzvm.cli.fuzz_results import seen_in_words
from fuzzvm.cli.happened import not_met
from fuzzvm.cli.output import print_table, say
from fuzzvm.corpus.command import command
from fuzzvm.corpus.format import read
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
                _verdict(one),
                {True: "yes", False: "NO", None: "-"}[one.as_expected],
            )
            for one in status.mitigations
        ],
    )
    say()
    print_table(
        ("engine", "runs", "CPU s", "pairs first covered", "ways to fail"),
        [
            (name, str(sums.runs), f"{sums.cpu_seconds:.1f}", str(sums.pairs), str(sums.failing))
            for name, sums in status.engines.items()
        ],
    )
    if status.undiscovered is not None:
        say("", seen_in_words(status.pairs, status.undiscovered))
    for one in status.mitigations:
        for where in one.vacuous if one.verdict == "vacuous" else ():
            never = not_met([point for point, met in one.cover[where].items() if not met], "no run")
            say("", f"{one.mitigation}, {where}: vacuous: {never}")
    for finding in status.findings:
        path = status.path(finding)
        case = read(path)
        how = "proven minimal" if finding.proven else "reduced"
        say(
            "",
            f"{case.mitigation}, {finding.engine}: {case.expect} ({context_switches(case.schedule)} context "
            f"switches, {len(case.schedule)} steps, {how}; found in {finding.scenario})",
            f"  saved: {command('explain', path, case.mitigation)}",
        )
    if status.unsettled:
        say(
            "",
            f"{len(status.unsettled)} ways to fail are not minimised and checked: "
            f"{shell_path(status.folder / 'unsettled')}",
        )


def _verdict(one: MitigationStatus) -> str:
    """Return a verdict that says no more than is known."""
    if one.verdict == "bug" and not one.findings:
        return "bug, not checked"
    return "none found" if one.verdict == "safe" else one.verdict


def print_progress(status: Status) -> None:
    """Print whether a campaign runs, and how far it has come."""
    state = "running" if status.running else "finished" if status.finished else "not running"
    lately = "" if status.runs_per_second_lately is None else f", {status.runs_per_second_lately:.0f}/s lately"
    new = "nothing new yet" if status.last_new is None else f"last new {_ago(status.last_new)}"
    say(
        f"{status.folder}: {state}, {_duration(status.seconds)}, {status.sums.runs} runs, "
        f"{status.sums.runs / max(status.seconds, 1e-9):.0f}/s{lately}, {status.pairs} pairs, "
        f"{len(status.findings)} findings, {new}"
    )
    deaths = sum("worker died" in what for _, what in status.events)
    if deaths:
        say(f"{deaths} workers died, and their tasks were run again; --json has what of")
    if status.rebuilt:
        when = _ago(time.time() - status.rebuilt)
        say(f"its journal was rebuilt {when}: runs, times and coverage are at least these")
    if not status.running and not status.finished:
        say(f"goes on with: fuzzvm fuzz --resume {shell_path(status.folder)}")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _ago(seconds: float) -> str:
    return f"{_duration(max(0.0, seconds))} ago"
