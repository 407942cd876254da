"""Allocations: their flags, what reclaim runs, and what is done where there is no memory."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.errors import LOCK_ORDER, SLEEP_IN_ATOMIC
from fuzzvm.kernel.gfp import GFP_ATOMIC, GFP_KERNEL, GFP_NOFS, GFP_NOWAIT, NO_MEMORY, Gfp, Memory, pagetable_alloc
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, mutex_lock, mutex_unlock, spin_lock, spin_unlock
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel
from fuzzvm.kernel.vmalloc import vmalloc, vmalloc_huge
from fuzzvm.kernel.vmap import ENOMEM, vmap_range
from fuzzvm.machine.errors import DEADLOCK
from fuzzvm.machine.ops import Alloc, Free, Steps, Store
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.cpa_lock import CpaLock
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell

SPLIT = {
    "arch": "x86_64",
    "page_size": "4K",
    "levels": 4,
    "fanout": 2,
    "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pmd')", "vmap(page=2, nr_pages=2, max_page_shift='pte')"],
    "cpus": [["set_memory_ro(page=0, nr_pages=1)"]],
}
"""A change of part of a block, which allocates a table."""
TTM = {"shrinkers": ["set_memory_ro(page=2, nr_pages=1)"]}
"""As ttm_pool_free_page() does: a change of attributes by a shrinker, of pages that nobody else uses."""
DUMP = {"cpus": [*SPLIT["cpus"], ["cat_kernel_page_tables()"]]}  # type: ignore[misc]


def errors(scheme: type[Mitigation], memory: str = "sc", **more: Any) -> str:
    """Return the error of a scheme beside a split, '' where it is safe."""
    found = Scenario.from_data(SPLIT | more)
    verdict = verify_cell(Cell(scheme.name, found, memory), Bounds(Limits()), scheme).verdict
    assert verdict.complete
    return verdict.failure.error if verdict.failure else ""


class Allocates(Mitigation):
    """Allocates and frees while it holds a spinlock."""

    name = "allocates"
    gfp: Gfp | None = GFP_KERNEL
    spin: ExclusiveLock
    mutex: ExclusiveLock

    def attach(self, boot: Boot) -> None:
        self.spin, self.mutex = boot.lock("spin"), boot.lock("mutex")

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        yield from spin_lock(k.cpu, self.spin)
        yield from self.allocate(k)
        yield from spin_unlock(k.cpu, self.spin)

    def allocate(self, k: Kernel) -> Steps[None]:
        label = TableLabel(Level.PTE, k.geometry.base)
        if self.gfp is None:
            table = yield Alloc(2, label)
        else:
            table = yield from pagetable_alloc(k, 2, label, self.gfp)
        if table != NO_MEMORY:
            yield Free(table)


@pytest.mark.parametrize(
    ("gfp", "error"),
    [
        (None, SLEEP_IN_ATOMIC),
        (GFP_KERNEL, SLEEP_IN_ATOMIC),
        (GFP_NOFS, SLEEP_IN_ATOMIC),
        (GFP_NOWAIT, ""),
        (GFP_ATOMIC, ""),
    ],
)
@pytest.mark.parametrize("more", [{}, TTM | {"allocations_fail": True}])
def test_only_what_may_not_reclaim_may_be_allocated_under_a_spinlock(
    gfp: Gfp | None, error: str, more: dict[str, Any]
) -> None:
    scheme = type("Allocates", (Allocates,), {"gfp": gfp})
    assert errors(scheme, **more) == error


@pytest.mark.parametrize(
    ("scheme", "more", "error"),
    [
        # the read lock is held while the table is allocated, and taken again by the shrinker
        ("cpa-lock", TTM, LOCK_ORDER),
        ("cpa-lock", TTM | DUMP, DEADLOCK),
        ("cpa-lock", {}, ""),
        ("cpa-lock", {"allocations_fail": True}, ""),
        # 7.3 drops it
        ("linux-7.3", TTM, ""),
        ("linux-7.3", TTM | DUMP, ""),
        ("linux-6.18", TTM, ""),
    ],
)
def test_a_shrinker_that_changes_attributes_comes_back_to_the_lock(
    scheme: str, more: dict[str, Any], error: str
) -> None:
    assert errors(registry.get(scheme), **more) == error


def test_what_a_shrinker_allocates_does_not_reclaim_again() -> None:
    """Its change of part of a block allocates a table, in reclaim."""
    setup = ["vmap(page=0, nr_pages=2, max_page_shift='pmd')", "vmap(page=2, nr_pages=2, max_page_shift='pmd')"]
    assert errors(registry.get("linux-7.3"), setup=setup, **TTM) == ""


class UnderAMutex(CpaLock):
    """Drops init_mm's lock, and allocates under a mutex that only the shrinker's way takes as well."""

    name = "under-a-mutex"
    gfp = GFP_KERNEL

    def attach(self, boot: Boot) -> None:
        self.mutex = boot.lock("a_mutex")

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        yield from mutex_lock(k.cpu, self.mutex)
        if not k.reclaims:
            label = TableLabel(Level.PTE, k.geometry.base)
            table = yield from pagetable_alloc(k, 2, label, self.gfp)
            yield Free(table)
        yield from mutex_unlock(k.cpu, self.mutex)

    def after_change_attr(self, k: Kernel, token: Any) -> Steps[None]:
        yield from ()


class NoReclaimUnderIt(UnderAMutex):
    name = "no-reclaim-under-it"
    gfp = GFP_NOWAIT


def test_a_lock_under_which_reclaim_may_run_is_not_one_that_a_shrinker_takes() -> None:
    """The shrinker runs under GFP_NOFS as well: it is a driver's, and drivers do not look."""
    assert errors(UnderAMutex, **TTM) == DEADLOCK
    nofs = type("NoFs", (UnderAMutex,), {"gfp": GFP_NOFS})
    assert errors(nofs, **TTM) == DEADLOCK
    assert errors(NoReclaimUnderIt, **TTM) == ""


class OrdersThroughReclaim(Mitigation):
    """The shrinker takes a mutex; the other CPU allocates under it, before memory runs short or after."""

    name = "orders-through-reclaim"
    gfp = GFP_KERNEL

    def attach(self, boot: Boot) -> None:
        self.mutex = boot.lock("a_mutex")

    def before_change_attr(self, k: Kernel) -> Steps[None]:
        if k.reclaims:
            yield from mutex_lock(k.cpu, self.mutex)
            yield from mutex_unlock(k.cpu, self.mutex)

    def before_split_alloc(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_split_alloc(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def after_change_attr(self, k: Kernel, token: Any) -> Steps[None]:
        if k.reclaims:
            return
        yield from mutex_lock(k.cpu, self.mutex)
        # an allocation that need not come into the shortage
        table = yield Alloc(2, TableLabel(Level.PTE, k.geometry.base), flags=self.gfp)
        yield from mutex_unlock(k.cpu, self.mutex)
        yield Free(table)


@pytest.mark.parametrize(("gfp", "error"), [(GFP_KERNEL, LOCK_ORDER), (GFP_NOFS, ""), (GFP_NOWAIT, "")])
def test_a_cycle_by_way_of_reclaim_needs_no_run_that_reclaims_there(gfp: Gfp, error: str) -> None:
    """As lockdep has it: reclaim is a lock, which GFP_NOFS does not take."""
    scheme = type("Orders", (OrdersThroughReclaim,), {"gfp": gfp})
    assert errors(scheme, **TTM) == error


# What is done where there is none


def short(arch: str, setup: list[str]) -> tuple[System, Any, Kernel]:
    """Return a system whose memory is short for good from the first step on, its machine, and its kernel."""
    data = SPLIT | {"arch": arch, "setup": setup, "cpus": [[]], "allocations_fail": True}
    system = System(Scenario.from_data(data), registry.get("linux-7.3"), "sc")
    machine = system.booted(tracing=True)
    memory = system.kernel.memory
    assert isinstance(memory, Memory)
    machine.boot(_store(memory.word, 1))
    return system, machine, system.kernel


def _store(word: int, value: int) -> Steps[None]:
    yield Store(word, value)


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_a_vmap_that_fails_leaves_nothing_mapped(arch: str) -> None:
    # the second table is missing
    _, machine, k = short(arch, ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"])
    base, page = k.geometry.base, k.geometry.size(Level.PTE)
    assert machine.boot(vmap_range(k, base, base + 4 * page, 0, PAGE_KERNEL, 12)) == -ENOMEM
    mapped = [mapping.addr for mapping in Oracles(machine, k).mappings()]
    assert mapped == [base, base + page]
    _, machine, k = short(arch, ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"])
    machine.boot(parse_call("vmap(page=0, nr_pages=4, max_page_shift='pte')").run(k, ()))
    assert list(Oracles(machine, k).mappings()) == []


def test_a_vmalloc_that_fails_gives_its_area_back() -> None:
    _, machine, k = short("arm64", ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"])
    page = k.geometry.size(Level.PTE)
    assert machine.boot(vmalloc(k, 4 * page, PAGE_KERNEL)) is None
    # a block needs no table where the first page table is; what comes behind it does
    assert machine.boot(vmalloc_huge(k, 16 * page, PAGE_KERNEL)) is None
    assert list(Oracles(machine, k).mappings()) == []
    assert all(area.lazy for area in machine.memory.peek(k.vmap_area_root))
    machine.boot(_store(k.memory.word, 0))  # type: ignore[union-attr]
    assert machine.boot(vmalloc(k, 4 * page, PAGE_KERNEL)) is not None


def test_a_split_that_fails_says_so_and_changes_nothing() -> None:
    _, machine, k = short("x86_64", SPLIT["setup"])  # type: ignore[arg-type]
    before = list(Oracles(machine, k).mappings())
    assert machine.boot(k.arch.set_memory_ro(k, k.geometry.base, 1)) == -ENOMEM
    assert list(Oracles(machine, k).mappings()) == before
    for lock in k.locks:
        assert getattr(machine.memory.peek(lock.address), "left", lambda name: "")(lock.name) == ""
    # the same without a split
    assert machine.boot(k.arch.set_memory_ro(k, k.geometry.base, 2)) == 0


@pytest.mark.parametrize("scheme", ["none", "linux-7.3", "deferred-free"])
def test_nothing_goes_wrong_in_what_fails_beside_a_walk(scheme: str) -> None:
    """No table is leaked, and no lock is left held."""
    setup = ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "vunmap(page=0, nr_pages=2)"]
    cpus = [["vmap(page=0, nr_pages=4, max_page_shift='pte')"], ["cat_kernel_page_tables()"]]
    found = {"arch": "arm64", "setup": setup, "cpus": cpus, "allocations_fail": True}
    assert errors(registry.get(scheme), **found) == ""
    assert errors(registry.get(scheme), **DUMP, allocations_fail=True) == ""
