"""`fuzzvm campaign recover`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fuzzvm.campaigns.recover import recover as recover_journal
from fuzzvm.cli.common import json_option, print_json, progress_console, shell_path
from fuzzvm.cli.output import say


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def campaign() -> None:
    """Look after the folders of campaigns; fuzzvm fuzz --campaign begins one, and fuzzvm status says how it stands."""


@campaign.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option(
    "--mitigation",
    "-m",
    "named",
    multiple=True,
    metavar="FILE.py:CLASS",
    help="A mitigation of your own that the campaign searches; a folder alone never makes code run.",
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Processes. Default: one a core.")
@json_option
def recover(folder: Path, named: tuple[str, ...], jobs: int | None, as_json: bool) -> int:
    """Rebuild the journal of a damaged campaign from what is in DIR.

    Findings, failing runs and coverage come from the test cases in the folder, each of which is replayed; the counts
    of runs come from what can be read of the old journal, and may be too low afterwards. What was damaged is moved to
    a folder damaged-N in DIR, and nothing is deleted. Where nothing is damaged, nothing is done.

    Exit status: 0, or 1 where something had to be left out.

    \b
    fuzzvm campaign recover weekend
    fuzzvm fuzz --resume weekend
    """
    columns = TextColumn("replaying"), BarColumn(bar_width=20), MofNCompleteColumn()
    with Progress(*columns, console=progress_console(), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, refresh=True)

        recovered = recover_journal(folder, named=named, jobs=jobs, on_progress=show)
    if as_json:
        print_json(
            {
                "campaign": str(folder),
                "damage": recovered.damage or None,
                "findings": recovered.findings,
                "unsettled": recovered.unsettled,
                "coverage": recovered.pairs,
                "runs": recovered.runs,
                "left_out": recovered.left_out,
                "moved_to": None if recovered.aside is None else str(recovered.aside),
            }
        )
        return 1 if recovered.left_out else 0
    if not recovered.damage:
        say(f"{folder}: nothing is damaged")
        return 0
    say(
        f"{folder}: {recovered.damage}",
        f"rebuilt with {recovered.findings} findings, {recovered.unsettled} ways to fail that are not minimised and "
        f"checked, {recovered.pairs} pairs, at least {recovered.runs} runs",
        *(f"left out: {line}" for line in recovered.left_out),
    )
    if recovered.aside is not None:
        say(f"what was damaged is in {shell_path(recovered.aside)}")
    say(f"goes on with: fuzzvm fuzz --resume {shell_path(folder)}")
    return 1 if recovered.left_out else 0
