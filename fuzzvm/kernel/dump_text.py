"""The layout that the architectures' dumps share: range, size, and what the architecture says of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from fuzzvm.kernel.arch import DumpRow

_ULONG_MAX = (1 << 64) - 1


def dump_text(
    rows: Sequence[DumpRow], *, units: str, markers: tuple[str, str], describe: Callable[[DumpRow], str]
) -> str:
    """Return the text of kernel_page_tables: marker lines before and after, one line a row.

    `units` are the letters of the sizes, the first one for bytes ("B…") or kilobytes ("K…").
    """
    return _text(tuple(rows), units, markers, describe)


@lru_cache(maxsize=256)
def _text(rows: tuple[DumpRow, ...], units: str, markers: tuple[str, str], describe: Callable[[DumpRow], str]) -> str:
    """Return the text; kept, since the walks of a campaign find the same few tables over and over."""
    lines = [f"---[ {markers[0]} ]---"]
    for row in rows:
        size, unit = row.end - row.start, 0
        if not units.startswith("B"):
            size >>= 10
        while size % 1024 == 0 and unit < len(units) - 1:
            size //= 1024
            unit += 1
        # %016lx: the end of the address space is 0
        end = row.end & _ULONG_MAX
        lines.append(f"0x{row.start:016x}-0x{end:016x}   {size:9d}{units[unit]} {describe(row)}".rstrip())
    lines.append(f"---[ {markers[1]} ]---")
    return "\n".join(lines) + "\n"
