"""Calls whose arguments are not known before page tables are there: addresses of page-table entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.run.environment import Call
from fuzzvm.compiled.run.links import ENTRY, table_of
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.machine.machine import Machine


@dataclass(frozen=True, slots=True)
class EntryOf:
    """The address of the page-table entry that leads to an address, once the calls before have been made.

    `height` counts levels from that of PTEs, which is 0; `name` is what errors call it.
    """

    va: int
    height: int
    name: str


Word: TypeAlias = int | EntryOf


@dataclass(frozen=True)
class AskedCall:
    """A call of a function of the image by its address; see `program.Call`.

    `cells` are the words of the CPU's own memory that its arguments are the addresses of, (size, value) by address.
    """

    function: int
    arguments: tuple[Word, ...] = ()
    cells: Mapping[int, tuple[int, Word]] = field(default_factory=dict)

    @property
    def needs_tables(self) -> bool:
        """Whether a word is not known before page tables are there."""
        return any(isinstance(word, EntryOf) for word in (*self.arguments, *(word for _, word in self.cells.values())))


@dataclass(frozen=True)
class CpuCalls:
    """The calls of one CPU."""

    calls: tuple[AskedCall, ...]


def known(calls: CpuCalls, machine: Machine, memory: MemoryMap) -> tuple[tuple[Call, ...], dict[int, tuple[int, int]]]:
    """Return calls with the words that they are on a machine as it is, and their cells.

    Raises ImageError where there is no such entry, and what `MemoryMap.location` raises.
    """

    def word(of: Word) -> int:
        return _address(of, machine, memory) if isinstance(of, EntryOf) else of

    made = tuple(Call(call.function, tuple(map(word, call.arguments))) for call in calls.calls)
    cells = {at: (size, word(value)) for call in calls.calls for at, (size, value) in call.cells.items()}
    return made, cells


def _address(of: EntryOf, machine: Machine, memory: MemoryMap) -> int:
    """Return the address of an entry: the walk that hardware makes, down to its table."""
    page_shift = memory.layout.page_shift
    bits = page_shift - 3
    # that of init_mm
    table = memory.image.symbol(memory.image.arch.tables[-1]).address
    height = memory.image.manifest.levels - 1
    while True:
        at = table + (of.va >> page_shift + bits * height & (1 << bits) - 1) * ENTRY
        if height == of.height:
            return at
        unit = memory.location(at, ENTRY)
        assert unit is not None
        value = machine.memory.peek(unit.address)
        below = table_of(memory, memory.initial(unit) ^ (value if isinstance(value, int) else 0))
        if below is None:
            raise ImageError(f"there is no {of.name} when it is asked for: no table leads there")
        table = memory.va(below)
        height -= 1
