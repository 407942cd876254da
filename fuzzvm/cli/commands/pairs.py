"""`fuzzvm pairs`."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from fuzzvm.cli.common import json_option, known_releases, print_json, progress_console
from fuzzvm.cli.output import print_table, say
from fuzzvm.cli.pairs_page import PairCell, grid, page
from fuzzvm.cli.where import Where
from fuzzvm.exhaustive import Limits
from fuzzvm.files.writing import check_file, write
from fuzzvm.kernel import arch as architectures
from fuzzvm.mitigations import registry
from fuzzvm.scenario import pairs as all_pairs
from fuzzvm.scenario.pairs import Pair
from fuzzvm.verify.matrix import Bounds, Cell, VerifiedCell, memories
from fuzzvm.verify.verdict_data import failure_to_data, search_to_data


@click.command()
@click.option(
    "--release",
    "release_names",
    multiple=True,
    metavar="NAME",
    callback=known_releases,
    help="Release to verify the pairs of; may be given more than once. Default: all.",
)
@click.option("--arch", "archs", multiple=True, type=click.Choice(architectures.names()), help="Default: all.")
@click.option(
    "--max-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Time for one pair under one memory model; one that needs more is undecided.",
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), help="Processes. Default: one a core.")
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT",
    help="Write the pairs as a page of Markdown, too.",
)
@json_option
def pairs(
    release_names: tuple[str, ...],
    archs: tuple[str, ...],
    max_seconds: float,
    jobs: int | None,
    markdown: Path | None,
    as_json: bool,
) -> int:
    """Verify every walker of page tables beside everything that frees one, for each release.

    A cell is `safe`, or the error of the shortest schedule that goes wrong; `nothing freed` where the release does not
    do there what the freer's name says. `-` stands for two that are not meant to meet; the reason follows below. Each
    pair is a scenario of two CPUs for `fuzzvm verify --scenario pair-...`, under sc and the architecture's memory. Exit
    status 0 where every verdict is the one that the release claims.

    \b
    fuzzvm pairs --release linux-7.3
    fuzzvm verify --release linux-7.3 -s pair-x86_64-collapse-pmd-kcore
    """
    if markdown is not None:
        check_file(markdown)
    began = time.monotonic()
    releases = release_names or tuple(registry.releases())
    among = [pair for arch in archs or architectures.names() for pair in all_pairs.pairs(arch)]
    asked = [
        (PairCell(release, pair, memory), Cell(release, pair.scenario, memory))
        for release in releases
        for pair in among
        if pair.scenario is not None
        for memory in dict.fromkeys(("sc", memories(pair.scenario)[-1]))
    ]
    found: dict[int, VerifiedCell] = {}
    console = progress_console()
    verifying = Where(jobs, None, None).verify([cell for _, cell in asked], Bounds(Limits(None, max_seconds)))
    with closing(verifying) as running, console.status("verifying") as status:
        for index, run in running:
            found[index] = run
            status.update(f"verifying: {len(found)} of {len(asked)}")
    runs = {asked[index][0]: run for index, run in sorted(found.items())}
    if markdown is not None:
        write(markdown, page(releases, among, runs))
    if as_json:
        print_json({"pairs": [_to_data(one, run) for one, run in runs.items()], "not_meant_to_meet": _apart(among)})
    else:
        _print(releases, among, runs)
        say("", f"{len(runs)} runs in {time.monotonic() - began:.0f} s")
    # the bound is there so that the command ends: a search that it has cut is no success
    done = all(run.as_expected and (run.verdict.complete or run.verdict.failure) for run in runs.values())
    return 0 if done else 1


def _to_data(asked: PairCell, run: VerifiedCell) -> dict[str, Any]:
    verdict = run.verdict
    return {
        "release": asked.release,
        "arch": asked.pair.arch,
        "freer": asked.pair.freer.name,
        "walker": asked.pair.walker.name,
        "scenario": run.cell.scenario.name,
        "memory": asked.memory,
        "verdict": verdict.verdict,
        "expected": run.expected,
        "as_expected": run.as_expected,
        **failure_to_data(verdict),
        **search_to_data(verdict),
    }


def _apart(among: list[Pair]) -> list[dict[str, str]]:
    return [
        {"arch": pair.arch, "freer": pair.freer.name, "walker": pair.walker.name, "reason": pair.reason}
        for pair in among
        if pair.scenario is None
    ]


def _print(releases: tuple[str, ...], among: list[Pair], runs: dict[PairCell, VerifiedCell]) -> None:
    for release in releases:
        for arch in dict.fromkeys(pair.arch for pair in among):
            walkers, rows = grid(release, [pair for pair in among if pair.arch == arch], runs)
            say(f"{release}, {arch}:")
            print_table(("freer", *walkers), rows)
            say("")
    for reason in dict.fromkeys(pair.reason for pair in among if pair.reason):
        say(f"-: {reason}")
