"""Small programs on entries of one page table, in the shape that searches take, with the TLBs watched."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import strategies as st

from fuzzvm.kernel.pgtable import Level, TableLabel, mk_leaf, pxd_pfn, pxd_pgprot
from fuzzvm.machine.generators import GeneratorProgram
from fuzzvm.machine.ops import Address, Await, Barrier, Fence, InterruptAll, Load, Operation, Order, Store, Tlbi, Value
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario.calls import Vmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.small_programs import WORDS, IsPositive, allocate_words, run

MAPPED = 2
"""Pages that are mapped at the beginning, and the entries that programs change."""

Step = tuple[str, int, Any]
"""Kind of operation, number of the entry or word, and what is stored, or how."""

ARCHITECTURES = {"arm64": (3, "vaae1is"), "x86_64": (4, "invlpg")}


class TableSystem(System):
    """A system whose CPUs change the entries of the page table of the first pages."""

    def __init__(self, arch: str, memory: str, lists: list[list[Step]]) -> None:
        levels, self._tlbi = ARCHITECTURES[arch]
        setup = (Vmap(0, MAPPED, "pte"),)
        super().__init__(Scenario(arch, "4K", levels, 2, setup, ((),) * len(lists), tlb=True), NoMitigation, memory)
        self.words = allocate_words(self._boot)
        machine = self.booted()
        (self._table,) = [
            one.address
            for one in machine.allocator.allocations
            if isinstance(one.label, TableLabel) and one.label.level is Level.PTE and machine.memory.peek(one.address)
        ]
        self._entries = [machine.memory.peek(self._table + number) for number in range(MAPPED)]
        self.ops = [tuple(self._operation(step) for step in steps) for steps in lists]

    def programs(self) -> Any:
        """Return what runs the operations."""
        return [GeneratorProgram(partial(run, cpu, ops, self.words[WORDS], True)) for cpu, ops in enumerate(self.ops)]

    def _operation(self, step: Step) -> Operation:
        kind, number, value = step
        word: Address = self.words[number]
        match kind:
            case "set":
                return Store(self._table + number, self._entry(number, value))
            case "store":
                return Store(word, 1, value)
            case "load":
                return Load(word, value)
            case "await":
                return Await(word, IsPositive(), Order.ACQUIRE)
            case "fence":
                return Fence(value)
            case "tlbi":
                return Tlbi(self._tlbi, self.kernel.geometry.base + number * self.kernel.geometry.size(Level.PTE))
        return InterruptAll()

    def _entry(self, number: int, value: int) -> Value:
        """Return an entry: 0 is none, 1 what is mapped at the beginning, 2 another page."""
        entry = self._entries[number]
        assert isinstance(entry, int)
        return (0, entry, mk_leaf(pxd_pfn(entry) + 64, pxd_pgprot(entry)))[value]


ENTRY = st.integers(0, MAPPED - 1)
STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("set"), ENTRY, st.sampled_from([0, 0, 1, 2])),
    st.tuples(st.just("tlbi"), ENTRY, st.none()),
    st.tuples(st.just("fence"), ENTRY, st.sampled_from([Barrier.DSB_ISH, Barrier.DSB_ISHST, Barrier.ISB])),
    st.tuples(st.sampled_from(["await", "kick"]), ENTRY, st.none()),
    st.tuples(st.just("store"), ENTRY, st.sampled_from([Order.PLAIN, Order.RELEASE])),
    st.tuples(st.just("load"), ENTRY, st.sampled_from([Order.PLAIN, Order.ACQUIRE])),
)
FLUSH: list[Step] = [("tlbi", 0, None), ("fence", 0, Barrier.DSB_ISH), ("fence", 0, Barrier.ISB)]
CHANGE: list[Step] = [("set", 0, 0), ("fence", 0, Barrier.DSB_ISHST), *FLUSH, ("set", 0, 2)]
