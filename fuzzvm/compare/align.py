"""The operations of one call on both sides, side by side, and what differs.

Alignment is a longest common subsequence. Operations are the same where kind, entry, ordering and what is written are,
and where they are in one function, or in one that the other has called: where a function ends is no operation. Those in
one function are preferred. What remains is named:

    read again           the image reads an entry once more than the model does
    further, missing     an operation that only the image has, or only the model
    another order        both have it, before and behind something else
    another ordering     both access it, one as acquire or release
    another value        both write it, and not the same
    another access       one side stores, the other swaps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.compare.operations import Entry, Visible

SAME, SAME_FUNCTION = 1 << 20, (1 << 20) + 1
"""What an aligned pair is worth, and one in the same function: a longer alignment is always better."""


@dataclass(frozen=True)
class Row:
    """One line of the two sequences: the same operation, or what only one side has."""

    compiled: Visible | None
    model: Visible | None


@dataclass(frozen=True)
class Difference:
    """A difference: what it is, and the operation of each side that has one."""

    what: str
    compiled: Visible | None
    model: Visible | None

    @property
    def one(self) -> Visible:
        """The operation: the image's where it has one."""
        found = self.compiled or self.model
        assert found is not None
        return found

    @property
    def function(self) -> str:
        """The modelled function that it is in."""
        return self.one.function

    @property
    def operation(self) -> tuple[str, str, str, str]:
        """The operation, whichever entry of its level it is of."""
        place = self.one.place
        return self.one.at(place.level if isinstance(place, Entry) else place)

    @property
    def inner(self) -> tuple[str, ...]:
        """The functions of the image that it is in below the modelled one, innermost first."""
        return self.compiled.inner() if self.compiled else ()

    def identity(self) -> tuple[object, ...]:
        """Return what differences have in common that are one difference met again."""
        other = self.model if self.compiled and self.model else None
        return self.what, self.function, self.operation, self.inner, other and (other.function, other.order)


def aligned(compiled: Sequence[Visible], model: Sequence[Visible]) -> list[Row]:
    """Return both sequences side by side."""
    columns = len(model) + 1
    best = [[0] * columns for _ in range(len(compiled) + 1)]
    for row in range(len(compiled) - 1, -1, -1):
        for column in range(len(model) - 1, -1, -1):
            skipped = max(best[row + 1][column], best[row][column + 1])
            worth = _worth(compiled[row], model[column])
            best[row][column] = max(skipped, worth + best[row + 1][column + 1]) if worth else skipped
    rows = []
    row = column = 0
    while row < len(compiled) and column < len(model):
        worth = _worth(compiled[row], model[column])
        if worth and best[row][column] == worth + best[row + 1][column + 1]:
            rows.append(Row(compiled[row], model[column]))
            row, column = row + 1, column + 1
        elif best[row][column] == best[row + 1][column]:
            rows.append(Row(compiled[row], None))
            row += 1
        else:
            rows.append(Row(None, model[column]))
            column += 1
    rows += [Row(one, None) for one in compiled[row:]]
    return rows + [Row(None, one) for one in model[column:]]


def _worth(one: Visible, other: Visible) -> int:
    if not _same(one, other):
        return 0
    return SAME_FUNCTION if one.function == other.function else SAME


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Return what differs in two sequences that are side by side."""
    found: list[Difference] = []
    further = [row.compiled for row in rows if row.compiled and not row.model]
    missing = [row.model for row in rows if row.model and not row.compiled]
    for what, alike in _PAIRS:
        for one in list(further):
            other = next((two for two in missing if alike(one, two)), None)
            if other is not None:
                further.remove(one)
                missing.remove(other)
                found.append(Difference(what, one, other))
    entries = {row.model.place for row in rows if row.model and row.compiled and row.model.kind == "read"}
    for one in further:
        again = one.kind == "read" and one.place in entries
        found.append(Difference("read again" if again else "further", one, None))
    return found + [Difference("missing", None, one) for one in missing]


def _same(one: Visible, other: Visible) -> bool:
    return one.key == other.key and (one.within(other.function) or other.within(one.function))


def _reordered(one: Visible, other: Visible) -> bool:
    same = (one.kind, one.place, one.detail) == (other.kind, other.place, other.detail)
    return same and one.place != "" and one.order != other.order


def _rewritten(one: Visible, other: Visible) -> bool:
    same = (one.kind, one.place, one.order) == (other.kind, other.place, other.order)
    return same and one.kind in ("write", "swap") and one.detail != other.detail


def _stored_otherwise(one: Visible, other: Visible) -> bool:
    same = (one.place, one.detail, one.order) == (other.place, other.detail, other.order)
    return same and {one.kind, other.kind} == {"write", "swap"}


_PAIRS = (
    ("another order", _same),
    ("another ordering", _reordered),
    ("another value", _rewritten),
    ("another access", _stored_otherwise),
)
