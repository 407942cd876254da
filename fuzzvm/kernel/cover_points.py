"""Cover points: things that a scenario is for, and that must happen in some schedule for a verdict to mean anything.

That nothing goes wrong where nothing happens is no proof of anything. In model checking such a verdict is called
vacuous (Beer, Ben-David, Eisner and Rodeh, CAV 1997); hardware verification asks for cover properties beside
assertions for the same reason. What happens is read off the steps of a run: the operation, the functions that it is
executed in, and its response. The kernel's code has nothing in it for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.jump_label import NOP
from fuzzvm.kernel.pgtable import Level, TableLabel, pgprot_wx, pxd_cont, pxd_leaf, pxd_pgprot, pxd_table
from fuzzvm.kernel.ptdump_notes import MappingNoted
from fuzzvm.machine.allocator import Allocator
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Alloc, Annotation, Fetch, Free, Load, Operation, Store, Value, object_of
from fuzzvm.machine.trace import TraceStep

PROMOTION = "promotion"
CONTIGUOUS_BLOCK = "contiguous-block"
COLLAPSE = "collapse"
SPLIT = "split"
TABLE_FREED = "table-freed"
WALK = "walk"
WALKED_TABLE_FREED = "walked-table-freed"
LOOKUP = "lookup"
WX_NOTED = "wx-noted"
BRANCH_TAKEN = "branch-taken"
BRANCH_NOT_TAKEN = "branch-not-taken"

POINTS: dict[str, str] = {
    PROMOTION: "vmap cleared an entry that led to a table, to put a block in its place",
    CONTIGUOUS_BLOCK: "vmap mapped pages by a contiguous block of PTEs",
    COLLAPSE: "set_memory_rox put a block in the place of a table (x86_64)",
    SPLIT: "a change of protection put a table in the place of a block (x86_64)",
    TABLE_FREED: "a table was freed that entries had led to",
    WALK: "a walk read an entry of a table below the root",
    WALKED_TABLE_FREED: "a table was freed that a walk had read or would have read",
    LOOKUP: "a look-up of one address read an entry of a table below the root",
    WX_NOTED: "a walk noted a mapping that is writable and executable",
    BRANCH_TAKEN: "the patched site of a static key was executed with the branch in it",
    BRANCH_NOT_TAKEN: "the patched site of a static key was executed with the NOP in it",
}
"""What each cover point is, by its id; ids are stable."""

_CLEARS = frozenset({"pmd_free_pte_page", "pud_free_pmd_page", "p4d_free_pud_page"})
_COLLAPSES = frozenset({"collapse_pmd_page", "collapse_pud_page"})
_LOOKUPS = frozenset(
    {"vmalloc_to_page", "perf_get_pgtable_size", "spurious_kernel_fault", "kernel_page_present", "copy_page_tables"}
)
_NEVER_LINKED = frozenset({"pxd_alloc", "split_large_page"})
"""Functions that free the table that they have allocated, where another CPU was first."""


class CoverPoints:
    """Which cover points were met in the steps that it was given, in any order.

    The steps may be those of one run, as a machine's `trace`, or those of all schedules that a search has explored.
    Then WALKED_TABLE_FREED says that some schedule reads a table and some schedule frees it; a table is known by the
    number of its object, which is exact for those from boot. `allocator` holds what there is from boot.
    """

    def __init__(self, arch: Architecture, allocator: Allocator) -> None:
        self._branch = arch.branch
        tables = {one.number: one.label for one in allocator.allocations if isinstance(one.label, TableLabel)}
        self._tables = set(tables)
        self._roots = {number for number, label in tables.items() if label.level == Level.PGD}
        self._met: set[str] = set()
        self._walked: set[int] = set()
        self._freed: set[int] = set()

    def append(self, step: TraceStep) -> None:
        """Take in a step of a run."""
        if step.op is not None:
            self.executed(step.op, step.stack, step.response)
        self.said(step.annotations)

    def executed(self, op: Operation, stack: Sequence[str], response: Value) -> None:
        """Take in an operation, the functions that it was executed in, innermost first, and its response."""
        function = stack[0] if stack else ""
        match op:
            case Store(_, value) if function in _CLEARS and value == 0:
                self._met.add(PROMOTION)
            case Store(_, int(value)) if pxd_leaf(value) and pxd_cont(value):
                self._met.add(CONTIGUOUS_BLOCK)
            case Store() if function in _COLLAPSES:
                self._met.add(COLLAPSE)
            case Store(_, int(value)) if function == "__split_large_page" and pxd_table(value):
                self._met.add(SPLIT)
            case Load(address) if function != "walk_pgd_range" and "walk_page_range" in stack:
                self._met.add(WALK)
                self._walked.add(object_of(address))
            case Load(address) if function in _LOOKUPS and object_of(address) not in self._roots:
                self._met.add(LOOKUP)
                self._walked.add(object_of(address))
            case Alloc(_, label) if isinstance(label, TableLabel) and isinstance(response, int):
                self._tables.add(object_of(response))
            case Free(address) if function not in _NEVER_LINKED:
                self._freed.add(object_of(address))
            case Fetch() if function == "static_branch_unlikely":
                if response == self._branch:
                    self._met.add(BRANCH_TAKEN)
                elif response == NOP:
                    self._met.add(BRANCH_NOT_TAKEN)

    def said(self, annotations: Iterable[Annotation]) -> None:
        """Take in what a program has told the oracles."""
        for annotation in annotations:
            if isinstance(annotation, MappingNoted) and pgprot_wx(pxd_pgprot(annotation.entry)):
                self._met.add(WX_NOTED)

    @property
    def met(self) -> frozenset[str]:
        """The ids of the cover points that were met."""
        freed = self._freed & self._tables
        more = {TABLE_FREED} if freed else set()
        return frozenset(self._met | more | ({WALKED_TABLE_FREED} if freed & self._walked else set()))


def watch(machine: Machine, points: CoverPoints) -> Machine:
    """Let a machine that has not taken a step tell `points` of each one; return it. It keeps no trace then."""
    # of a trace, a machine asks no more than that it takes steps
    machine.trace = cast("list[TraceStep]", points)
    return machine
