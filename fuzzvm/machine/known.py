"""Results that are kept to be looked up: at most so many, and never needed, since they can be worked out again."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 10_000
"""Results of a table. A search that goes on asks for what it met lately: where there are more, all are dropped."""


class Known(dict[K, V]):
    """A table of results by all that they depend on."""

    def keep(self, key: K, result: V) -> V:
        """Keep a result that was not known; return it."""
        if len(self) >= MOST:
            self.clear()
        self[key] = result
        return result
