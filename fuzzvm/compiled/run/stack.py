"""The frames of a CPU's stack, by the chain of frame pointers that both AAPCS64 and the x86-64 psABI have."""

from __future__ import annotations

from fuzzvm.compiled.isa.private import TrackedMemory

FRAME_RECORDS = 64
"""Frames that a stack trace follows at most."""


def frame_records(memory: TrackedMemory, frame: int) -> list[int]:
    """Return the return addresses of the frames that a frame pointer leads to, innermost first."""
    records: list[int] = []
    cells = memory.cells
    while len(records) < FRAME_RECORDS:
        if not memory.low <= frame < memory.high - 16 or frame not in cells or frame + 8 not in cells:
            break
        records.append(cells[frame + 8][1])
        frame = cells[frame][1]
    return records
