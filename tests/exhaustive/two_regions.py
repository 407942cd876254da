"""Small programs on the page tables of two regions, which oracles look at: writes, frees, and walks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import PAGE_KERNEL_EXEC, Level, TableLabel, mk_leaf, mk_table, pxd_pfn, pxd_pgprot
from fuzzvm.kernel.ptdump_notes import MappingNoted, WalkBegins, WalkEnds
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Address, Alloc, Annotation, Free, Load, Operation, Steps, Store
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario.calls import Vmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.small_programs import WORDS, allocate_words, leave

REGIONS = 2
PAGES = 2
"""Pages of a region; all are mapped at the beginning."""

Recipe = tuple[str, int, int]
"""Kind of operation, number of the page or region, and what an entry is set to: 0 none, else a mapping."""


@dataclass(frozen=True, slots=True)
class InNewTable:
    """Sets an entry of the table that the CPU has allocated last."""

    index: int
    entry: int


@dataclass(frozen=True, slots=True)
class LinkNewTable:
    """Sets an upper entry to the table that the CPU has allocated last."""

    address: Address


Item = Operation | Annotation | InNewTable | LinkNewTable


def run(cpu: int, items: tuple[Item, ...], results: Address, stored: bool) -> Steps[None]:
    """Execute the operations, and leave what loads returned in memory."""
    seen: tuple[Any, ...] = ()
    table = 0
    index = 0
    while index < len(items):
        item = items[index]
        if isinstance(item, InNewTable):
            yield Store(table + item.index, item.entry)
        elif isinstance(item, LinkNewTable):
            yield Store(item.address, mk_table(table))
        elif isinstance(item, Alloc):
            table = yield item
        elif isinstance(item, Load):
            response = yield item
            seen = (*seen, response)
        else:
            yield item
        index += 1
    yield leave(cpu, seen, results, stored=stored)


class RegionSystem(System):
    """A system whose CPUs change, free, allocate and look at page tables as recipes say."""

    def __init__(self, memory: str, lists: list[list[Recipe]], *, stored: bool = True) -> None:
        self.stored = stored
        setup = tuple(Vmap(PAGES * region, PAGES, "pte") for region in range(REGIONS))
        super().__init__(Scenario("arm64", "4K", 3, 2, setup, ((),) * len(lists)), NoMitigation, memory)
        self.results = allocate_words(self._boot)[WORDS]
        machine = self.booted()
        labels = {one.label: one.address for one in machine.allocator.allocations if isinstance(one.label, TableLabel)}
        geometry = self.kernel.geometry
        self._base = geometry.base
        self._page = geometry.size(Level.PTE)
        self._tables = [labels[TableLabel(Level.PTE, self._base + self._va(PAGES * n))] for n in range(REGIONS)]
        self._upper = [
            address + geometry.index(label.level, self._base + self._va(PAGES * n))
            for n in range(REGIONS)
            for label, address in labels.items()
            if machine.memory.peek(address + geometry.index(label.level, self._base + self._va(PAGES * n)))
            == mk_table(self._tables[n])
        ]
        self._leaves = [machine.memory.peek(self._tables[page // PAGES] + page % PAGES) for page in range(4)]
        self.items = [tuple(item for recipe in recipes for item in self._items(recipe)) for recipes in lists]

    def programs(self) -> Any:
        """Return what runs the recipes."""
        runs = [partial(run, cpu, items, self.results, self.stored) for cpu, items in enumerate(self.items)]
        return list(map(GeneratorProgram, runs))

    def _va(self, page: int) -> int:
        return page * self._page

    def _leaf(self, page: int, value: int) -> int:
        entry = self._leaves[page]
        assert isinstance(entry, int)
        if value == 2:
            return mk_leaf(pxd_pfn(entry) + 64, PAGE_KERNEL_EXEC)
        return mk_leaf(pxd_pfn(entry), pxd_pgprot(entry)) if value else 0

    def _items(self, recipe: Recipe) -> list[Item]:
        kind, number, value = recipe
        region = number // PAGES
        match kind:
            case "pte":
                return [Store(self._tables[region] + number % PAGES, self._leaf(number, value))]
            case "pmd":
                return [Store(self._upper[region], self._leaf(PAGES * region, value))]
            case "read":
                return [Load(self._tables[region] + number % PAGES)]
            case "free":
                return [Free(self._tables[region])]
            case "new":
                label = TableLabel(Level.PTE, self._base + self._va(PAGES * region))
                entries = [InNewTable(index, self._leaf(PAGES * region + index, value)) for index in range(PAGES)]
                return [Alloc(PAGES, label), entries[0], LinkNewTable(self._upper[region]), entries[1]]
        noted = MappingNoted(Level.PTE, self._base + self._va(number), self._leaf(number, value or 1))
        return [WalkBegins(), Load(self._upper[region]), noted, Load(self._upper[0]), WalkEnds()]


RECIPES: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(st.sampled_from(["pte", "pmd", "walk"]), st.integers(0, PAGES * REGIONS - 1), st.integers(0, 2)),
    st.tuples(st.sampled_from(["free", "new", "read"]), st.integers(0, PAGES * REGIONS - 1), st.just(1)),
)
