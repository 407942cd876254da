"""Memory that one CPU alone uses: its stack and its task.

Memory is a set of cells that do not overlap. A cell is what one store wrote: address, size, value, and what the value
depends on. A load that spans cells, or a part of one, depends on exactly the stores whose bytes it reads. Only cells
are kept, so that equal memory of few words is a small key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_WIDEST = 8


class UnwrittenMemoryError(Exception):
    """Private memory was read that nothing has written: `size` bytes at `address`."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes of private memory at {address:#x} are read before they are written")
        self.address = address
        self.size = size


class PrivateMemory:
    """The bytes from `low` up to and not including `high`; addresses outside are not private.

    It can be what `engine.Code.run` asks. What has not been written cannot be read.
    """

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high
        self.cells: dict[int, tuple[int, int]] = {}
        """Size and value of the cell at each address."""

    def copy(self) -> PrivateMemory:
        """Return memory with the same contents."""
        other = PrivateMemory(self.low, self.high)
        other.cells = self.cells.copy()
        return other

    def load(self, address: int, size: int) -> int | None:
        """Return the value of so many bytes, or None if they are not private. Raises UnwrittenMemoryError."""
        cell = self.cells.get(address)
        if cell is not None and cell[0] == size:
            return cell[1]
        if not self.low <= address <= self.high - size:
            return None
        value = 0
        for part in _parts(self.cells, address, size):
            value |= part[1]
        return value

    def store(self, address: int, size: int, value: int) -> bool:
        """Write so many bytes. Return False, and do nothing, if they are not private."""
        cell = self.cells.get(address)
        if cell is None or cell[0] != size:
            if not self.low <= address <= self.high - size:
                return False
            _clear(self.cells, address, size)
        self.cells[address] = size, value
        return True


class TrackedMemory:
    """Private memory as `PrivateMemory`, with what each value depends on; for `engine.Code.run_tracked`.

    `join` joins two dependencies.
    """

    def __init__(self, low: int, high: int, join: Callable[[Any, Any], Any]) -> None:
        self.low = low
        self.high = high
        self.cells: dict[int, tuple[int, int, Any, Any]] = {}
        """Size, value, view and pick of the cell at each address."""
        self._join = join

    def copy(self) -> TrackedMemory:
        """Return memory with the same contents."""
        other = TrackedMemory(self.low, self.high, self._join)
        other.cells = self.cells.copy()
        return other

    def load(self, address: int, size: int) -> tuple[int, Any, Any] | None:
        """Return value, view and pick, or None if the bytes are not private. Raises UnwrittenMemoryError."""
        cell = self.cells.get(address)
        if cell is not None and cell[0] == size:
            return cell[1:]
        if not self.low <= address <= self.high - size:
            return None
        first, *rest = _parts(self.cells, address, size)
        _, value, view, pick = first
        for _, bits, other_view, other_pick in rest:
            value |= bits
            view, pick = self._join(view, other_view), self._join(pick, other_pick)
        return value, view, pick

    def store(self, address: int, size: int, value: int, view: Any, pick: Any) -> bool:
        """Write so many bytes. Return False, and do nothing, if they are not private."""
        cell = self.cells.get(address)
        if cell is None or cell[0] != size:
            if not self.low <= address <= self.high - size:
                return False
            _clear(self.cells, address, size)
        self.cells[address] = size, value, view, pick
        return True


def _overlapping(cells: dict[int, Any], address: int, size: int) -> list[int]:
    """Return the addresses of the cells that share a byte with a range, in order."""
    return [at for at in range(address - _WIDEST + 1, address + size) if at in cells and at + cells[at][0] > address]


def _parts(cells: dict[int, Any], address: int, size: int) -> list[Any]:
    """Return the parts of cells that make up a range, each as a cell whose value is shifted to where it belongs."""
    parts = []
    covered = 0
    for at in _overlapping(cells, address, size):
        width, value, *tracked = cells[at]
        begin, end = max(at, address), min(at + width, address + size)
        covered += end - begin
        bits = value >> 8 * (begin - at) & (1 << 8 * (end - begin)) - 1
        parts.append((end - begin, bits << 8 * (begin - address), *tracked))
    if covered != size:
        raise UnwrittenMemoryError(address, size)
    return parts


def _clear(cells: dict[int, Any], address: int, size: int) -> None:
    """Cut a range out of the cells that overlap it."""
    for at in _overlapping(cells, address, size):
        width, value, *tracked = cells.pop(at)
        for begin, end in ((at, address), (address + size, at + width)):
            if begin < end:
                cells[begin] = (end - begin, value >> 8 * (begin - at) & (1 << 8 * (end - begin)) - 1, *tracked)
