"""The picture of one dump or of two: a bar a region, its parts what maps it."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fuzzvm.dump.entry import Kind, Level
from fuzzvm.dump.figures import Figures, Summary
from fuzzvm.dump.geometry import size_name
from fuzzvm.files.writing import write

FORMATS: Final = ("svg", "png")

_COLOURS: Final = {
    Kind.PAGE: "#b8b8b8",
    Kind.CONTIGUOUS_PAGE: "#f2c14e",
    Kind.BLOCK: "#5b9bd5",
    Kind.CONTIGUOUS_BLOCK: "#2a5c8a",
}
_HATCHES: Final = {Level.PUD: "//", Level.P4D: "xx", Level.PGD: ".."}
"""Levels above PMD have the colour of its blocks."""


def missing() -> str:
    """Return '' where pictures can be drawn, else what is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed: pip install matplotlib"
    return ""


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Draw the mapped regions of each dump to a file, SVG or PNG by its name. Raises FileError.

    A bar's length is 100 % of what is mapped in its region, whose bytes and TLB entries stand behind it: regions differ
    by orders of magnitude.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # the same figures, the same file
    mpl.rcParams["svg.hashsalt"] = "fuzzvm"
    names = list(dict.fromkeys(f.name for s in summaries for f in s.regions if f.mapped))
    bars = [
        (f"{name} ({'before' if number == 0 else 'after'})" if len(summaries) > 1 else name, figures)
        for name in names
        for number, summary in enumerate(summaries)
        for figures in summary.regions
        if figures.name == name and figures.mapped
    ]
    figure = Figure((9, 1.6 + 0.4 * len(bars)), layout="constrained")
    axes = figure.subplots()
    parts = sorted(
        {(share.level, share.kind) for _, figures in bars for share in figures.shares},
        key=lambda part: (-part[0], list(_COLOURS).index(part[1])),
    )
    left = [0.0] * len(bars)
    for level, kind in parts:
        widths = [100 * _bytes(figures, level, kind) / figures.mapped for _, figures in bars]
        label = f"{level.name} {kind.value}"
        axes.barh(
            range(len(bars)),
            widths,
            left=left,
            label=label,
            color=_COLOURS[kind],
            hatch=_HATCHES.get(level, ""),
            edgecolor="white",
            linewidth=0.5,
        )
        left = [at + width for at, width in zip(left, widths, strict=True)]
    for place, (_, figures) in enumerate(bars):
        text = f"{size_name(figures.mapped)}, {figures.tlb_entries} TLB entries"
        axes.text(101, place, text, va="center", fontsize="small")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of the bytes mapped")
    axes.set_title(" and ".join(Path(summary.source).name for summary in summaries), fontsize="medium")
    if parts:
        figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    file_format = path.suffix.lower().removeprefix(".")
    drawn = io.BytesIO()
    figure.savefig(drawn, format=file_format, metadata={"Date": None} if file_format == "svg" else None)
    write(path, drawn.getvalue())


def _bytes(figures: Figures, level: Level, kind: Kind) -> int:
    return sum(share.bytes for share in figures.shares if (share.level, share.kind) == (level, kind))
