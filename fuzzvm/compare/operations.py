"""What a step is on both sides: an operation that other CPUs can notice, by kernel function and table entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Order, Value, object_of, offset_of

LEVELS = {2: ("pmd", "pte"), 3: ("pgd", "pmd", "pte"), 4: ("pgd", "pud", "pmd", "pte")}
"""What the tables of each level are called, by the number of levels; the levels between are folded.

With 2 levels the root is the table of PMDs: blocks are mapped and tables freed by its entries.
"""
LOCK_CALLS = (
    *("down_read", "down_read_trylock", "down_write", "down_write_trylock"),
    *("up_read", "up_write", "downgrade_write", "spin_lock", "spin_unlock"),
)
"""Functions of locks, as both sides name them (kernel/locking/rwsem.c, include/linux/spinlock.h)."""


@dataclass(frozen=True, order=True)
class Entry:
    """A table entry: the level of its table, and its index in each table from the root on."""

    level: str
    path: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.level}[{'.'.join(map(str, self.path))}]"


class Place(NamedTuple):
    """A function, and the line of it that is being executed; `file` is '' for the model's own name of a function."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})" if self.file else self.function


@dataclass(frozen=True)
class Visible:
    """One operation.

    `kind` is read, write, swap, fence, tlbi, alloc, free, lock, or what else the machine has. `place` is an entry or
    the name of a lock; '' for what has none. `detail` is what is written (none, table or leaf), the kind of a barrier
    or TLBI, the call of a lock. `function` is the innermost modelled function that it is in. `stack` has all functions,
    innermost first, by the kernel's names.
    """

    kind: str
    place: Entry | str
    detail: str = ""
    order: str = ""
    function: str = ""
    stack: tuple[Place, ...] = field(default=(), repr=False)
    pages: tuple[int, int] | None = None
    """Of a TLBI by address: the first page of the image, and the first one after."""

    @property
    def key(self) -> tuple[object, ...]:
        """Return what it is wherever it is done."""
        return self.kind, self.place, self.detail, self.order, self.pages

    def at(self, level: str) -> tuple[str, str, str, str]:
        """Return what it is, whichever entry of a level it is of."""
        return self.kind, level, self.detail, self.order

    def within(self, function: str) -> bool:
        """Return whether it is done by a function, or by what that has called."""
        return any(place.function == function for place in self.stack)

    def inner(self) -> tuple[str, ...]:
        """Return the functions that it is in below the modelled one, innermost first."""
        found = []
        for place in self.stack:
            if place.function == self.function:
                break
            found.append(place.function)
        return tuple(found)

    def __str__(self) -> str:
        order = f" ({self.order})" if self.order else ""
        match self.kind:
            case "fence":
                return self.detail
            case "tlbi":
                return f"tlbi {self.detail}{'' if self.pages is None else f' of pages {_span(self.pages)}'}"
            case "lock":
                return f"{self.detail} of {self.place}{order}"
            case "write" | "swap":
                return f"{self.kind} {self.place} = {self.detail}{order}"
            case "free" | "alloc":
                return f"{self.kind} {self.place}".rstrip()
        return f"{self.kind} {self.place}{order}"


def _span(pages: tuple[int, int]) -> str:
    first, after = pages
    return str(first) if after == first + 1 else f"{first} to {after - 1}"


def order_of(order: Order) -> str:
    """Return the ordering of an access as it is compared: '' for a plain one."""
    return "" if order is Order.PLAIN else order.value


class Decoded(NamedTuple):
    """What an entry holds: none, table or leaf, and the table that it points to."""

    what: str
    target: Address | None = None


NONE, LEAF = Decoded("none"), Decoded("leaf")


class Tables:
    """Where each table has been linked, so that entries have the same names on both sides.

    `first` is the index in the root that counts as 0, `stride` the locations of an entry. `decode` returns what a
    value of a location is.
    """

    def __init__(
        self,
        machine: Machine,
        root: Address,
        levels: int,
        entries: int,
        stride: int,
        first: int,
        decode: Callable[[Address, Value], Decoded],
    ) -> None:
        self._levels = LEVELS[levels]
        self._stride = stride
        self._first = first
        self._entries = entries
        self._decode = decode
        self._paths: dict[int, tuple[int, ...]] = {object_of(root): ()}
        todo = [root]
        while todo:
            table = todo.pop()
            for index in range(entries):
                address = table + index * stride
                target = self.wrote(address, machine.memory.peek(address)).target
                if target is not None:
                    todo.append(target)

    def entry(self, address: Address) -> Entry | None:
        """Return which entry a location is, None where it is none of a table that has been linked."""
        path = self._paths.get(object_of(address))
        index, rest = divmod(offset_of(address), self._stride)
        if path is None or rest or index >= self._entries:
            return None
        return Entry(self._levels[len(path)], (*path, index if path else index - self._first))

    def path_of_table(self, number: int) -> Entry | None:
        """Return the entry that a table was linked by, None for what has been linked nowhere."""
        path = self._paths.get(number)
        return None if not path else Entry(self._levels[len(path) - 1], path)

    def wrote(self, address: Address, value: Value) -> Decoded:
        """Take note of a value of a location, and return what it is; a leaf for what is no entry."""
        entry = self.entry(address)
        if entry is None:
            return LEAF
        found = self._decode(address, value)
        if found.target is not None:
            if entry.level == self._levels[-1]:
                return LEAF
            self._paths[object_of(found.target)] = entry.path
        return found


def attributed(stack: Sequence[Place], names: Mapping[str, str] | frozenset[str]) -> str:
    """Return the innermost function of a stack that is modelled; the outermost one where none is."""
    return next((one.function for one in stack if one.function in names), stack[-1].function if stack else "")


def lock_call(functions: Sequence[str]) -> str:
    """Return the call of a lock that functions, innermost first, are in; '' where they are in none."""
    return next((name for name in functions if name in LOCK_CALLS), "")
