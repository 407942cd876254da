"""How a count grew, as a line of blocks on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
_MOST = 4096


class Growth:
    """A count that only grows, over time. Keeps a few thousand points of a search however long it is."""

    def __init__(self) -> None:
        self._points: list[tuple[float, int]] = []
        self._apart = 0.0
        """Seconds between two points that are kept."""

    def add(self, at: float, count: int) -> None:
        """Take in that the count was `count` at `at` seconds; times must not go back."""
        if len(self._points) > 1 and at - self._points[-2][0] < self._apart:
            self._points.pop()
        self._points.append((at, count))
        if len(self._points) > _MOST:
            self._points = [*self._points[:-1:2], self._points[-1]]
            self._apart = 2 * (at - self._points[0][0]) / _MOST

    def sampled(self, width: int) -> list[int]:
        """Return the count at `width` times that are equally far apart, the last of them the last that was taken in."""
        if not self._points:
            return []
        begin, end = self._points[0][0], self._points[-1][0]
        found, index = [], 0
        for sample in range(1, width + 1):
            until = end if sample == width else begin + (end - begin) * sample / width
            while index + 1 < len(self._points) and self._points[index + 1][0] <= until:
                index += 1
            found.append(self._points[index][1])
        return found

    def line(self, width: int = 24) -> str:
        """Return the growth as a sparkline, '' where nothing was counted."""
        return sparkline(self.sampled(width))


def sparkline(values: Sequence[int]) -> str:
    """Return a block a value, the lowest for 0 and the highest for the greatest; '' if all are 0."""
    most = max(values, default=0)
    if most <= 0:
        return ""
    return "".join(BLOCKS[min(len(BLOCKS) - 1, value * len(BLOCKS) // most)] for value in values)
