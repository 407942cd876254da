"""The layouts of kernel_page_tables: one file each, found by being there.

A layout reads what stands behind the range and the size of a row, and says how sure it is of a dump's first rows.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from fuzzvm.dump.entry import Entry

MAX_UNKNOWN = 2
"""Attributes not known here that a row may have: newer kernels print more, a row run into another line has many."""

_PLAUSIBLE = re.compile(r"[A-Z][A-Za-z0-9/_-]{0,15}")


class Layout(ABC):
    """A layout. It has no state."""

    name: ClassVar[str]
    architecture: ClassVar[str]
    page_sizes: ClassVar[tuple[int, ...]]
    """Page sizes that the architecture has, in bytes."""

    @abstractmethod
    def parse(self, words: Sequence[str]) -> Entry | None:
        """Return what the words behind a row's size say, or None if no kernel prints such a row."""

    @abstractmethod
    def complete(self, words: Sequence[str]) -> bool:
        """Whether the last word is one that ends a row, so that nothing can be missing behind it."""

    def claims(self, rows: Sequence[Sequence[str]], inclusive: bool) -> int:
        """Return how many of a dump's first rows are of this layout; 0 if another knows better.

        `inclusive`: the ends of the rows are their last bytes, not the ones after.
        """
        return sum(self.parse(words) is not None for words in rows)


def unknown_words(words: Sequence[str], known: frozenset[str]) -> tuple[str, ...] | None:
    """Return the words that are not known, or None if they are too many or no attributes at all."""
    unknown = tuple(word for word in words if word not in known)
    if len(unknown) > MAX_UNKNOWN or not all(_PLAUSIBLE.fullmatch(word) for word in unknown):
        return None
    return unknown


@functools.cache
def layouts() -> tuple[Layout, ...]:
    """Return all layouts, in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(importlib.import_module(f"{__name__}.{name}").LAYOUT for name in names)


def detect(rows: Sequence[Sequence[str]], inclusive: bool) -> Layout | None:
    """Return the layout that most of a dump's first rows are of, or None if none reads half of them."""
    best = max(layouts(), key=lambda layout: layout.claims(rows, inclusive))
    return best if 2 * best.claims(rows, inclusive) > len(rows) else None
