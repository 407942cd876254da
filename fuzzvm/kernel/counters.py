"""Counts what a run executes: barriers, TLB maintenance, locks, page tables, mappings. What a scheme costs.

A `Counters` is given the steps of a traced run, one after the other: as a machine's `trace`, where nothing is to be
kept of the steps themselves, or from the list of a trace afterwards. It keeps numbers only, so its size does not
depend on the length of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from fuzzvm.kernel.arch import FLUSH_TLBI
from fuzzvm.kernel.locking.lock import lock_action
from fuzzvm.kernel.pgtable import Geometry, Level, TableLabel, pxd_cont, pxd_leaf, pxd_table
from fuzzvm.kernel.ptdump_notes import WalkEnds
from fuzzvm.kernel.vmap import PromotionBegins, PromotionEnds
from fuzzvm.machine.allocator import Allocator
from fuzzvm.machine.ops import Address, Alloc, Barrier, Fence, Free, InterruptAll, Rmw, Store, Tlbi
from fuzzvm.machine.trace import TraceStep

_CLEARED_LEVEL = {point: level.name for level, point in FLUSH_TLBI.items()}
PATCHES = frozenset({"patch-store", "poke-store"})
"""Points of the store that completes the patch of a site."""


class Counters:
    """The counts of one run, or of some CPUs of it: of those whose steps are appended.

    `barriers` is by kind, as the instructions are written. `barrier_pairs` counts DSB ISHST with ISB behind it at once,
    which makes entries valid, by what they were for: `leaf` or `table`. `tlbi` is by the instruction and what it is
    for: the level of the entry that was cleared, or `leaf`. `mappings` counts entries that were made, a contiguous
    block as one, by kind (`page`, `contiguous`, `block`) and level. A `promotion` is a leaf in the place of a table.
    `locks` are all acquisitions, `free_path_locks` those on the way of a promotion, `..._contended` those that found
    the lock taken (an exclusive lock that is waited for does not show).
    """

    def __init__(self, allocator: Allocator, geometry: Geometry) -> None:
        self._allocator = allocator
        self._geometry = geometry
        self.steps = 0
        self.barriers: Counter[str] = Counter()
        self.barrier_pairs: Counter[str] = Counter()
        self.tlbi: Counter[tuple[str, str]] = Counter()
        self.ipis = 0
        self.locks = 0
        self.locks_contended = 0
        self.free_path_locks = 0
        self.free_path_contended = 0
        self.tables_allocated: Counter[Level] = Counter()
        self.tables_freed: Counter[Level] = Counter()
        self.mappings: Counter[tuple[str, Level]] = Counter()
        self.promotions = 0
        self.text_patches = 0
        self.walks = 0
        self._after_ishst: dict[int, bool] = {}
        self._last_entry: dict[int, str] = {}
        self._cleared: dict[int, set[Address]] = {}
        self._contiguous: Counter[Level] = Counter()
        self._promoting: set[int] = set()
        self._count: dict[type, Callable[[TraceStep], None]] = {
            Fence: self._fence,
            Tlbi: self._tlbi,
            InterruptAll: self._interrupt,
            Store: self._store,
            Rmw: self._rmw,
            Alloc: self._alloc,
            Free: self._free,
        }

    def append(self, step: TraceStep) -> None:
        """Count a step."""
        self.steps += 1
        op = step.op
        count = self._count.get(type(op))
        if count is not None:
            count(step)
        if op is not None and type(op) is not Fence:
            self._after_ishst[step.cpu] = False
        for note in step.annotations:
            match note:
                case WalkEnds():
                    self.walks += 1
                case PromotionBegins():
                    self._promoting.add(step.cpu)
                case PromotionEnds():
                    self._promoting.discard(step.cpu)

    def on_free_path(self, cpu: int) -> bool:
        """Return whether a CPU is on the path on which a promotion frees a table, after the steps so far."""
        return cpu in self._promoting

    def to_data(self) -> dict[str, Any]:
        """Return the counts as plain data, with stable keys."""
        barriers = self.barriers
        mappings: dict[str, dict[str, int]] = {"page": {}, "contiguous": {}, "block": {}}
        for (kind, level), count in sorted(self.mappings.items()):
            mappings[kind][level.name] = count
        return {
            "steps": self.steps,
            "dsb": sum(count for kind, count in barriers.items() if kind.startswith("dsb")),
            "isb": barriers[Barrier.ISB.value],
            "dmb": sum(count for kind, count in barriers.items() if kind.startswith("dmb")),
            "barrier_pairs": {kind: self.barrier_pairs[kind] for kind in ("leaf", "table")},
            "tlbi": [{"operation": op, "for": what, "count": n} for (op, what), n in sorted(self.tlbi.items())],
            "ipi": self.ipis,
            "locks": self.locks,
            "locks_contended": self.locks_contended,
            "free_path_locks": self.free_path_locks,
            "free_path_contended": self.free_path_contended,
            "tables_allocated": _by_level(self.tables_allocated),
            "tables_freed": _by_level(self.tables_freed),
            "mappings": mappings,
            "promotions": self.promotions,
            "text_patches": self.text_patches,
            "walks": self.walks,
        }

    # One kind of operation each

    def _fence(self, step: TraceStep) -> None:
        kind: Barrier = step.op.kind  # type: ignore[union-attr]
        self.barriers[kind.value] += 1
        cpu = step.cpu
        if kind is Barrier.ISB and self._after_ishst.get(cpu):
            self.barrier_pairs[self._last_entry.get(cpu, "table")] += 1
        self._after_ishst[cpu] = kind is Barrier.DSB_ISHST

    def _tlbi(self, step: TraceStep) -> None:
        op = step.op
        assert isinstance(op, Tlbi)
        self.tlbi[op.operation, _CLEARED_LEVEL.get(op.point, "leaf")] += 1

    def _interrupt(self, step: TraceStep) -> None:
        self.ipis += 1

    def _store(self, step: TraceStep) -> None:
        op = step.op
        assert isinstance(op, Store)
        level = self._table_level(op.address)
        if level is None:
            self.text_patches += op.point in PATCHES
            return
        value = op.value
        assert isinstance(value, int)
        old = step.old if isinstance(step.old, int) else 0
        if value == 0:
            if pxd_table(old):
                self._cleared.setdefault(step.cpu, set()).add(op.address)
            return
        if pxd_leaf(value):
            self._last_entry[step.cpu] = "leaf"
            self._mapped(level, value)
            cleared = self._cleared.get(step.cpu, set())
            if op.address in cleared or pxd_table(old):
                self.promotions += 1
                cleared.clear()
        else:
            self._last_entry[step.cpu] = "table"

    def _mapped(self, level: Level, entry: int) -> None:
        if pxd_cont(entry):
            self._contiguous[level] += 1
            if self._contiguous[level] % self._geometry.cont(level) == 0:
                self.mappings["contiguous", level] += 1
        else:
            self.mappings["page" if level is Level.PTE else "block", level] += 1

    def _rmw(self, step: TraceStep) -> None:
        action = lock_action(step.op, step.response)
        if action is None or action.release:
            return
        contended = action.queued or action.failed
        taken = not action.failed
        self.locks += taken
        self.locks_contended += contended
        if step.cpu in self._promoting:
            self.free_path_locks += taken
            self.free_path_contended += contended

    def _alloc(self, step: TraceStep) -> None:
        label = step.op.label  # type: ignore[union-attr]
        if isinstance(label, TableLabel):
            self.tables_allocated[label.level] += 1

    def _free(self, step: TraceStep) -> None:
        level = self._table_level(step.op.address)  # type: ignore[union-attr]
        if level is not None:
            self.tables_freed[level] += 1

    def _table_level(self, address: Address) -> Level | None:
        allocation = self._allocator.lookup(address)
        if allocation is None or not isinstance(allocation.label, TableLabel):
            return None
        return allocation.label.level


def _by_level(counts: Counter[Level]) -> dict[str, int]:
    return {level.name: counts[level] for level in Level if counts[level]}
