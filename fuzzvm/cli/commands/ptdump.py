"""`fuzzvm ptdump FILE [FILE2]`: reads real text of kernel_page_tables.

Imports nothing of the model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from fuzzvm.cli.output import print_table, say, say_text
from fuzzvm.dump import Difference, DumpError, Summary, compare, summarise
from fuzzvm.dump import plot as picture
from fuzzvm.dump.diff import Change, What
from fuzzvm.dump.entry import Entry
from fuzzvm.dump.figures import Figures
from fuzzvm.dump.geometry import LEVEL_SIZES, size_name

PAGE_SIZES = {size_name(size): size for size in LEVEL_SIZES}
SHOWN_CAUTIONS = 5
DEFAULT_LIMIT = 20


@click.command()
@click.argument("file", metavar="FILE")
@click.argument("file2", metavar="[FILE2]", required=False)
@click.option("--page-size", type=click.Choice(list(PAGE_SIZES)), help="Page size. Default: inferred from the rows.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=DEFAULT_LIMIT,
    show_default=True,
    help="W+X ranges and changed ranges that are listed; all are counted.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="OUT.svg|png",
    help="Draw what maps each region as stacked bars; needs matplotlib.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
def ptdump(file: str, file2: str | None, page_size: str | None, limit: int, plot: Path | None, as_json: bool) -> int:
    """Say what a dump of /sys/kernel/debug/kernel_page_tables maps, by what entries, and at what cost.

    FILE is the text as arm64 or x86_64 prints it, with timestamps of dmesg or journalctl or without, perhaps
    compressed with gzip or xz; - is standard input. With FILE2, what changed from FILE to FILE2. Exit status 0
    whatever the dump says, W+X mappings included.

    \b
    fuzzvm ptdump /sys/kernel/debug/kernel_page_tables
    fuzzvm ptdump before.txt after.txt --json
    """
    if plot is not None:
        _check_plot(plot)
    if file == file2 == "-":
        raise click.UsageError("standard input can be one of the two dumps, not both")
    size = None if page_size is None else PAGE_SIZES[page_size]
    try:
        outcome = summarise(file, size) if file2 is None else compare(file, file2, size, limit)
    except DumpError as error:
        raise click.ClickException(str(error)) from error
    summaries = [outcome] if isinstance(outcome, Summary) else [outcome.before, outcome.after]
    if plot is not None:
        picture.draw(summaries, plot)
    if as_json:
        say_text(json.dumps(outcome.to_data() | ({} if plot is None else {"plot": str(plot)}), indent=2))
        return 0
    for summary in summaries:
        _warn(summary)
    for number, summary in enumerate(summaries):
        if number:
            say("")
        _print_summary(summary, limit)
    if isinstance(outcome, Difference):
        _print_difference(outcome)
    return 0


def _check_plot(path: Path) -> None:
    """Raise UsageError now, not after 200 MB have been read."""
    if path.suffix.lower().removeprefix(".") not in picture.FORMATS:
        raise click.UsageError(f"--plot {path}: the name must end in .svg or .png")
    if lacks := picture.missing():
        raise click.UsageError(f"--plot: {lacks}")
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"--plot {path}: no such folder")


def _warn(summary: Summary) -> None:
    reading = summary.reading
    for caution in reading.cautions[:SHOWN_CAUTIONS]:
        place = f"{summary.source}:{caution.line}" if caution.line else summary.source
        say(f"{place}: {caution.message}", err=True)
    if len(reading.cautions) > SHOWN_CAUTIONS or reading.skipped > SHOWN_CAUTIONS or reading.gaps > 1:
        say(f"{summary.source}: in all {reading.skipped} rows skipped, {reading.gaps} gaps", err=True)


def _print_summary(summary: Summary, limit: int) -> None:
    reading = summary.reading
    geometry = summary.geometry
    doubt = "" if geometry.certain or geometry.source == "option" else ", in doubt"
    say(f"{summary.source}: {summary.layout.name}, {reading.rows} rows in {reading.lines} lines")
    say(f"pages of {size_name(geometry.page_size)} ({geometry.source}{doubt}: {geometry.why})")
    left_out = [
        f"{what}: {count}"
        for count, what in (
            (reading.skipped, "rows skipped"),
            (reading.others, "lines that are no rows"),
            (int(reading.truncated_first), "truncated first line"),
            (int(reading.truncated_last), "truncated last line"),
        )
        if count
    ]
    if left_out:
        say(f"left out: {', '.join(left_out)}")
    say("")
    _print_regions([*summary.regions, summary.total])
    say("")
    _print_vmalloc(summary.vmalloc)
    _print_wx(summary, limit)
    if summary.tables:
        counts = ", ".join(f"{count} {level.name}" for level, count in sorted(summary.tables.items()))
        say(f"table descriptors: {counts}")


def _print_regions(regions: Sequence[Figures]) -> None:
    parts = sorted(
        {(share.level, share.kind) for figures in regions for share in figures.shares},
        key=lambda part: (-part[0], part[1].contiguous),
    )
    names = [Entry(level, kind).name for level, kind in parts]
    rows = []
    for figures in regions:
        sizes = {(share.level, share.kind): share.bytes for share in figures.shares}
        rows.append(
            [
                figures.name,
                _size(figures.mapped),
                *(_size(sizes.get(part, 0)) for part in parts),
                _percent(figures.block_share),
                _percent(figures.contiguous_share),
                str(figures.tlb_entries),
                str(figures.tlb_entries_as_pages),
                _size(figures.wx_bytes),
            ]
        )
    print_table(["region", "mapped", *names, "block", "contiguous", "TLB entries", "as pages", "W+X"], rows)


def _print_vmalloc(vmalloc: Figures | None) -> None:
    if vmalloc is None:
        say("vmalloc space: no marker names it, so its share of block mappings is not known")
    elif not vmalloc.mapped:
        say("vmalloc space: nothing mapped")
    else:
        text = f"vmalloc space: {_percent(vmalloc.block_share)} of {_size(vmalloc.mapped)} mapped by blocks"
        if vmalloc.device_bytes:
            text += f" ({_percent(vmalloc.memory_block_share)} without devices)"
        say(f"{text}, {_percent(vmalloc.contiguous_share)} by contiguous pages;")
        say(f"  {vmalloc.tlb_entries} TLB entries, {vmalloc.tlb_entries_as_pages} if all were pages")


def _print_wx(summary: Summary, limit: int) -> None:
    ranges = len(summary.wx) + summary.wx_left_out
    if not ranges:
        say("W+X: none")
        return
    say(f"W+X: {_count(ranges, 'range')}, {_size(summary.total.wx_bytes)}")
    for found in summary.wx[:limit]:
        say(
            f"  {found.start:#018x}-{found.end:#018x} {_size(found.end - found.start):>7}  {found.region}: "
            f"{_entry(found.entry)}"
        )
    if ranges > limit:
        say(f"  and {ranges - min(limit, len(summary.wx))} more")


def _print_difference(difference: Difference) -> None:
    say("")
    if difference.moved:
        say(
            f"vmalloc space begins elsewhere in {difference.after.source}: another boot? Ranges cannot be compared then"
        )
    if not difference.totals:
        say("no range changed")
        return
    regions = list(dict.fromkeys(region for region, _ in difference.totals))
    say("changed, in bytes (ranges):")
    rows = []
    for region in regions:
        cells = []
        for what in What:
            size, ranges = difference.totals.get((region, what), (0, 0))
            cells.append(f"{_size(size)} ({ranges})" if ranges else "-")
        share = [_percent(_block_share(summary, region)) for summary in (difference.before, difference.after)]
        rows.append([region, *cells, " to ".join(share)])
    print_table(["region", *(what.value for what in What), "block share"], rows)
    say("")
    for change in difference.changes:
        say(_change(change))
    if difference.left_out:
        say(f"and {difference.left_out} ranges more")


def _block_share(summary: Summary, region: str) -> float | None:
    return next((figures.block_share for figures in summary.regions if figures.name == region), None)


def _change(change: Change) -> str:
    where = f"{change.start:#018x}-{change.end:#018x} {_size(change.end - change.start):>7}  {change.region}"
    return f"{where}: {change.what.value}: {_entry(change.before)} -> {_entry(change.after)}"


def _entry(entry: Entry | None) -> str:
    return "nothing" if entry is None else " ".join((entry.name, *entry.attributes))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _size(size: int) -> str:
    """Return bytes in three or four digits, as the kernel prints them where that is exact."""
    if not size:
        return "-"
    unit = 0
    value = float(size)
    while value >= 1024 and unit < 6:
        value /= 1024
        unit += 1
    return f"{value:.0f}{'BKMGTPE'[unit]}" if value == int(value) else f"{value:.1f}{'BKMGTPE'[unit]}"
