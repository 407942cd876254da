"""What a run would cost: counts times weights. docs/cost-model.md has the formula and where each weight is from.

Two weights are calibrated on one figure of the kernel commit that brought contiguous PTEs to vmap; the others are
assumed, and each can be given. A result is as good as they are: it compares, and it does not predict.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from fuzzvm.machine.ops import (
    Alloc,
    Barrier,
    CacheMaintenance,
    Fence,
    Fetch,
    Free,
    InterruptAll,
    Load,
    Operation,
    Rmw,
    Store,
    Tlbi,
)

COMMIT_BEFORE_USEC = 1_274_243
COMMIT_AFTER_USEC = 1_083_553
"""fix_size_alloc_test on an Apple M2, nr_pages=256, use_huge=1, without and with huge pte-mapped pages in vmap."""
COMMIT_LOOPS = 100_000
"""test_loop_count of that figure."""
COMMIT_PAGES = 256


@dataclass(frozen=True)
class Weights:
    """Nanoseconds of one operation each, and of what is done for each page of an area besides (`page`).

    `walk` is of an entry that a reader reads and notes, `barrier` of a DSB or ISB, `table` of a page table allocated or
    freed, `cache` of one DC or IC, `tlbi` and `ipi` of one each, to all CPUs.
    """

    barrier: float = 3.633
    page: float = 35.412
    access: float = 1.0
    atomic: float = 5.0
    dmb: float = 1.0
    tlbi: float = 100.0
    ipi: float = 2000.0
    cache: float = 20.0
    table: float = 200.0
    fetch: float = 0.0
    walk: float = 5.0

    def of(self, op: Operation | None) -> float:
        """Return the weight of an operation. Waiting has none: it takes as long as it takes."""
        match op:
            case Load():
                return self.access
            case Store():
                return self.access
            case Fence(kind):
                return self.dmb if kind in _DMBS else self.barrier
            case Rmw():
                return self.atomic
            case Tlbi():
                return self.tlbi
            case InterruptAll():
                return self.ipi
            case CacheMaintenance():
                return self.cache
            case Alloc() | Free():
                return self.table
            case Fetch():
                return self.fetch
            case _:
                return 0.0

    def changed(self, changes: dict[str, float]) -> Weights:
        """Return them with others in their place. Raises ValueError for an unknown name or a weight below 0."""
        known = [field.name for field in fields(self)]
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no weight {name!r}; there are {', '.join(known)}")
            if not 0 <= value < float("inf"):
                raise ValueError(f"weight {name} must be 0 or more, not {value}")
        return replace(self, **changes)

    def to_data(self) -> dict[str, float]:
        """Return them by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


_DMBS = frozenset({Barrier.DMB_ISH, Barrier.DMB_ISHLD, Barrier.DMB_ISHST})


def calibrate(barriers: tuple[int, int], besides: tuple[float, float]) -> tuple[float, float]:
    """Return the weights `barrier` and `page` with which the two loops of the commit take the time that it measured.

    `barriers` are the DSBs and ISBs of one loop before and after the commit, `besides` the nanoseconds that everything
    else takes which has a weight, but the pages.
    """
    before = COMMIT_BEFORE_USEC * 1000 / COMMIT_LOOPS
    after = COMMIT_AFTER_USEC * 1000 / COMMIT_LOOPS
    barrier = (before - after - (besides[0] - besides[1])) / (barriers[0] - barriers[1])
    page = (before - barriers[0] * barrier - besides[0]) / COMMIT_PAGES
    return barrier, page
