"""The pairs of walkers and freers as a table, and as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fuzzvm.cli.verdicts import in_words
from fuzzvm.kernel.cover_points import COLLAPSE, PROMOTION, TABLE_FREED
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.scenario.pairs import FREERS, VMALLOC, WALKERS, Freer, Pair, Walker
from fuzzvm.verify.matrix import VerifiedCell


class PairCell(NamedTuple):
    """A pair under one release and memory model."""

    release: str
    pair: Pair
    memory: str


Runs = Mapping[PairCell, VerifiedCell]


def grid(release: str, here: Sequence[Pair], runs: Runs) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the table of a release and of the pairs of one architecture: its walkers, and a row for each freer.

    A row has the freer's name and then what is said of it beside each walker.
    """
    walkers = tuple(dict.fromkeys(pair.walker.name for pair in here))
    rows = []
    for freer in dict.fromkeys(pair.freer.name for pair in here):
        cells = {pair.walker.name: _cell(release, pair, runs) for pair in here if pair.freer.name == freer}
        rows.append((freer, *(cells[walker] for walker in walkers)))
    return walkers, rows


def _cell(release: str, pair: Pair, runs: Runs) -> str:
    """Return what a table says of a pair under a release: of each memory model where they differ."""
    if pair.scenario is None:
        return "-"
    said = {
        one.memory: _said(run, pair.freer) for one, run in runs.items() if one.release == release and one.pair == pair
    }
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{memory}: {what}" for memory, what in said.items())


def _said(run: VerifiedCell, freer: Freer) -> str:
    frees = PROMOTION if freer.unmapped else COLLAPSE if freer.part == VMALLOC else TABLE_FREED
    if run.verdict.failure is None and frees in run.gives_up - run.verdict.met:
        return "nothing freed"
    return run.verdict.failure.error if run.verdict.failure else in_words(run.verdict)


def page(releases: Sequence[str], among: Sequence[Pair], runs: Runs) -> str:
    """Return the page: a table for each release and architecture, the shortest schedules, and what the names mean."""
    return "\n".join(_lines(releases, among, runs)) + "\n"


def _lines(releases: Sequence[str], among: Sequence[Pair], runs: Runs) -> Iterator[str]:
    yield "# Walkers and freers"
    yield ""
    yield "<!-- made by `fuzzvm pairs --markdown docs/pairs.md` -->"
    yield ""
    yield (
        "Every walker of the kernel's page tables beside everything that frees one, on two CPUs, every schedule, "
        "under `sc` and the architecture's memory. A cell is `safe`, or the error of the shortest schedule that goes "
        "wrong; `nothing freed` where the release does not do there what the freer's name says. `free-of-linked-table` "
        "and `missing-destructor` are the freer's own, whatever the walker does; [what is open](open-in-7.3.md) has a "
        "page."
    )
    archs = tuple(dict.fromkeys(pair.arch for pair in among))
    for release in releases:
        summary = registry.releases()[release].summary
        yield from ["", f"## {release}", "", f"{summary[0].upper()}{summary[1:]}."]
        for arch in archs:
            yield from _table(release, arch, [pair for pair in among if pair.arch == arch], runs)
        yield from _schedules(release, runs)
    reasons = dict.fromkeys(pair.reason for pair in among if pair.reason)
    yield from ["", *(f"`-`: {reason}." for reason in reasons)]
    yield from ["", "## The walkers", "", *_explained(WALKERS), "", "## The freers", "", *_explained(FREERS)]


def _table(release: str, arch: str, here: Sequence[Pair], runs: Runs) -> Iterator[str]:
    walkers, rows = grid(release, here, runs)
    yield from ["", f"| {arch} | {' | '.join(walkers)} |", f"| --- |{' --- |' * len(walkers)}"]
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _schedules(release: str, runs: Runs) -> Iterator[str]:
    wrong = {one: run for one, run in runs.items() if one.release == release and run.verdict.schedule is not None}
    if not wrong:
        return
    yield from [
        "",
        "| scenario | memory | error | in | context switches | steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one, run in wrong.items():
        failure, schedule = run.verdict.failure, run.verdict.schedule
        assert failure is not None
        assert schedule is not None
        yield (
            f"| `{run.cell.scenario.name}` | {one.memory} | {failure.error} | `{failure.function}` "
            f"| {context_switches(schedule)} | {len(schedule)} |"
        )


def _explained(what: Sequence[Walker] | Sequence[Freer]) -> Iterator[str]:
    yield from ["| name | what it is | where | architectures |", "| --- | --- | --- | --- |"]
    for one in what:
        yield f"| {one.name} | {one.summary} | `{one.source}` | {', '.join(one.archs)} |"
