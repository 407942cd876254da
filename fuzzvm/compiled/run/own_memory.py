"""Functions of the C library that only touch memory of the CPU's own: they are done at once, and are no steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.private import CpuMemory

_WORD = 8

OwnMemory = Callable[[CpuMemory, MemoryMap, Sequence[int]], int | None]
"""Does what a function does, given its arguments, and returns its result; None where others use the memory as well."""


def _pieces(start: int, size: int) -> list[tuple[int, int]]:
    """Return (address, size) of the aligned words and single bytes of a range."""
    found = []
    while size:
        piece = _WORD if start % _WORD == 0 and size >= _WORD else 1
        found.append((start, piece))
        start += piece
        size -= piece
    return found


def memset(own: CpuMemory, memory: MemoryMap, arguments: Sequence[int]) -> int | None:
    """Fill bytes; return their address."""
    destination, byte, size = arguments[:3]
    if not own.low <= destination < own.high:
        return None
    for at, piece in _pieces(destination, size):
        own.store(at, piece, int.from_bytes(bytes([byte & 0xFF]) * piece, "little"), 0, 0)
    return destination


def memcpy(own: CpuMemory, memory: MemoryMap, arguments: Sequence[int]) -> int | None:
    """Copy bytes, from memory of the CPU's own or from constant data; return where they are now."""
    destination, source, size = arguments[:3]
    if not own.low <= destination < own.high:
        return None
    for at, piece in _pieces(destination, size):
        found = own.load(source + at - destination, piece)
        if found is None and memory.location(source + at - destination, piece) is None:
            found = memory.constant(source + at - destination, piece), 0, 0
        if found is None:
            raise ImageError(f"memcpy() from memory that CPUs share, at {source + at - destination:#x}")
        own.store(at, piece, *found)
    return destination


def mtrr_type_lookup(own: CpuMemory, memory: MemoryMap, arguments: Sequence[int]) -> int | None:
    """Say that a range is write-back all over (arch/x86/kernel/cpu/mtrr/generic.c)."""
    own.store(arguments[2], 1, 1, 0, 0)
    return _MTRR_TYPE_WRBACK


_MTRR_TYPE_WRBACK = 6

OWN_MEMORY: dict[str, OwnMemory] = {"memset": memset, "memcpy": memcpy, "mtrr_type_lookup": mtrr_type_lookup}
"""By name."""
