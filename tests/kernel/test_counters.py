"""fuzzvm.kernel.counters and reach: each count against what was done, and nothing counted that was not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fuzzvm.kernel.counters import Counters
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.rwsem import down_read, down_read_trylock, down_write, down_write_trylock, up_read, up_write
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Geometry, Level
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.kernel.reach import leaves, mapped_areas, reach_of
from fuzzvm.kernel.vmalloc import vfree, vm_unmap_aliases, vmalloc, vmalloc_huge
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from tests.support import boot, geometry_of, run

Program = Callable[[Kernel], Steps[Any]]


def counted(
    *programs: Program,
    setup: Program | None = None,
    mitigation: type[Mitigation] = NoMitigation,
    geometry: Geometry | None = None,
    arch: str = "arm64",
    agents: tuple[int, ...] = (),
) -> Counters:
    """Run programs, one a CPU, and return what they executed."""
    geometry = geometry or geometry_of(arch, 4, 4)
    machine, kernel = boot(arch, mitigation=mitigation, geometry=geometry, cpus=len(programs), tracing=True)
    if setup is not None:
        machine.boot(setup(kernel))
    assert run(machine, *[program(kernel.on(cpu)) for cpu, program in enumerate(programs)], agents=agents) is None
    counters = Counters(machine.allocator, kernel.geometry)
    for step in machine.trace or ():
        counters.append(step)
    assert counters.steps == len(machine.trace or ())
    return counters


def map_pages(first: int, count: int, shift: int = 64) -> Program:
    def program(k: Kernel) -> Steps[None]:
        page = k.geometry.size(Level.PTE)
        base = k.geometry.base
        yield from vmap_range(k, base + first * page, base + (first + count) * page, first * page, PAGE_KERNEL, shift)

    return program


def unmap_pages(first: int, count: int) -> Program:
    def program(k: Kernel) -> Steps[None]:
        page = k.geometry.size(Level.PTE)
        yield from vunmap_range(k, k.geometry.base + first * page, k.geometry.base + (first + count) * page)

    return program


def leave_tables(first: int, count: int) -> Program:
    def program(k: Kernel) -> Steps[None]:
        yield from map_pages(first, count, 12)(k)
        yield from unmap_pages(first, count)(k)

    return program


def test_a_mapping_from_nothing_allocates_tables_and_has_a_pair_for_each_entry() -> None:
    data = counted(map_pages(0, 3)).to_data()
    assert data["tables_allocated"] == {"PUD": 1, "PMD": 1, "PTE": 1}
    assert data["tables_freed"] == {}
    assert data["mappings"] == {"page": {"PTE": 3}, "contiguous": {}, "block": {}}
    assert data["barrier_pairs"] == {"leaf": 3, "table": 3}
    assert (data["dsb"], data["isb"], data["dmb"]) == (6, 6, 3)
    assert data["tlbi"] == []
    assert data["promotions"] == 0


def test_a_pmd_promotion() -> None:
    data = counted(map_pages(0, 4), setup=leave_tables(0, 4)).to_data()
    assert data["promotions"] == 1
    assert data["tables_freed"] == {"PTE": 1}
    assert data["mappings"]["block"] == {"PMD": 1}
    assert data["tlbi"] == [{"operation": "vaae1is", "for": "PMD", "count": 1}]
    assert data["barrier_pairs"] == {"leaf": 1, "table": 0}
    assert (data["dsb"], data["isb"]) == (3, 2), "two DSBs and an ISB of the flush are no pair"
    assert data["free_path_locks"] == 0


@pytest.mark.parametrize("mitigation", [NoMitigation, StaticKeyMitigation])
def test_a_pud_promotion_flushes_for_each_level(mitigation: type[Mitigation]) -> None:
    data = counted(map_pages(0, 16), setup=leave_tables(0, 16), mitigation=mitigation).to_data()
    assert data["promotions"] == 1
    assert data["tables_freed"] == {"PMD": 1, "PTE": 4}
    assert data["mappings"]["block"] == {"PUD": 1}
    assert data["tlbi"] == [
        {"operation": "vaae1is", "for": "PMD", "count": 4},
        {"operation": "vaae1is", "for": "PUD", "count": 1},
    ]


def test_x86_has_no_barriers_but_ipis() -> None:
    data = counted(map_pages(0, 16), setup=leave_tables(0, 16), arch="x86_64").to_data()
    assert (data["promotions"], data["ipi"]) == (1, 1)
    assert (data["dsb"], data["isb"]) == (0, 0)
    assert data["tlbi"] == [{"operation": "invlpg", "for": "PUD", "count": 1}]


def test_a_block_over_nothing_is_no_promotion() -> None:
    counters = counted(map_pages(0, 4), unmap_pages(0, 4), map_pages(16, 16))
    assert counters.promotions == 0
    assert dict(counters.mappings) == {("block", Level.PMD): 1, ("block", Level.PUD): 1}


def test_a_block_that_comes_back_after_an_unmap_is_no_second_promotion() -> None:
    def again(k: Kernel) -> Steps[None]:
        yield from map_pages(0, 4)(k)
        yield from unmap_pages(0, 4)(k)
        yield from map_pages(0, 4)(k)

    counters = counted(again, setup=leave_tables(0, 4))
    assert (counters.promotions, counters.mappings["block", Level.PMD]) == (1, 2)


def test_contiguous_blocks_count_as_one() -> None:
    geometry = geometry_of("arm64", 3, 8, cont_ptes=4)
    data = counted(map_pages(3, 6, 14), setup=leave_tables(0, 1), geometry=geometry).to_data()
    assert data["mappings"] == {"page": {"PTE": 2}, "contiguous": {"PTE": 1}, "block": {}}
    assert data["barrier_pairs"]["leaf"] == 3


def test_locks_on_the_free_path_and_elsewhere() -> None:
    always = counted(map_pages(0, 4), setup=leave_tables(0, 4), mitigation=MmapLockAlways)
    assert (always.free_path_locks, always.free_path_contended, always.locks) == (1, 0, 1)
    key = counted(map_pages(0, 4), setup=leave_tables(0, 4), mitigation=StaticKeyMitigation)
    assert (key.free_path_locks, key.locks, key.text_patches) == (0, 0, 0)
    elsewhere = counted(vm_unmap_aliases)
    assert (elsewhere.free_path_locks, elsewhere.locks) == (0, 1)


def walk(k: Kernel) -> Steps[str]:
    return (yield from ptdump_walk(k, k.init_mm))


def test_a_lock_that_a_walk_holds_is_contended() -> None:
    for mitigation, walker, promoter in ((MmapLockAlways, 4, 5), (StaticKeyMitigation, 22, 11)):
        agents = (1,) * walker + (0,) * promoter
        counters = counted(map_pages(0, 4), walk, setup=leave_tables(0, 4), mitigation=mitigation, agents=agents)
        assert (counters.free_path_locks, counters.free_path_contended) == (1, 1)
        assert counters.walks == 1


def test_a_walk_patches_every_site_in_and_out() -> None:
    counters = counted(walk, mitigation=StaticKeyMitigation)
    assert counters.text_patches == 4
    assert counters.ipis == 2
    assert counters.walks == 1


def test_patches_are_counted_on_x86_as_well() -> None:
    counters = counted(walk, mitigation=StaticKeyMitigation, arch="x86_64")
    assert counters.text_patches == 4


def test_writers_and_trylocks() -> None:
    def write(k: Kernel) -> Steps[None]:
        yield from down_write(k.cpu, k.init_mm.mmap_lock)
        yield from up_write(k.cpu, k.init_mm.mmap_lock)

    def read(k: Kernel) -> Steps[None]:
        yield from down_read(k.cpu, k.init_mm.mmap_lock)
        yield from up_read(k.cpu, k.init_mm.mmap_lock)

    def attempt(k: Kernel) -> Steps[None]:
        taken = yield from down_read_trylock(k.cpu, k.init_mm.mmap_lock)
        if taken:
            yield from up_read(k.cpu, k.init_mm.mmap_lock)

    def attempt_to_write(k: Kernel) -> Steps[None]:
        taken = yield from down_write_trylock(k.cpu, k.init_mm.mmap_lock)
        if taken:
            yield from up_write(k.cpu, k.init_mm.mmap_lock)

    for programs, agents, locks, contended in (
        ([write, write], (), 2, 0),
        ([write, write], (0, 1), 2, 1),
        ([read, write], (0, 1), 2, 1),
        ([read, read], (0, 1), 2, 0),
        ([write, attempt], (0, 1), 1, 1),
        ([read, attempt], (0, 1), 2, 0),
        ([read, attempt_to_write], (0, 1), 1, 1),
        ([attempt_to_write], (), 1, 0),
    ):
        counters = counted(*programs, agents=agents)
        assert (counters.locks, counters.locks_contended) == (locks, contended)


def test_every_key_of_the_data_is_there_in_a_run_of_nothing() -> None:
    data = counted(vm_unmap_aliases).to_data()
    assert data["barrier_pairs"] == {"leaf": 0, "table": 0}
    assert data["mappings"] == {"page": {}, "contiguous": {}, "block": {}}


# Reach


def test_reach_of_pages_blocks_and_contiguous_blocks() -> None:
    machine, kernel = boot(geometry=geometry_of("arm64", 4, 8, cont_ptes=4))
    page = kernel.geometry.size(Level.PTE)
    # 1 page, a contiguous block, a PMD block, a contiguous block, 2 pages; then a hole, and a PUD block
    machine.boot(map_pages(3, 19)(kernel))
    machine.boot(map_pages(64, 64)(kernel))
    areas = mapped_areas(machine, kernel.geometry)
    base = kernel.geometry.base
    assert [((start - base) // page, (end - base) // page) for start, end, _ in areas] == [(3, 22), (64, 128)]
    first, second = (reach for _, _, reach in areas)
    assert first.to_data() == {
        "bytes": {"block": {"PMD": 8 * page}, "contiguous": {"PTE": 8 * page}, "page": {"PTE": 3 * page}},
        "tlb_entries": 1 + 1 + 1 + 1 + 2,
    }
    assert second.to_data() == {"bytes": {"block": {"PUD": 64 * page}, "contiguous": {}, "page": {}}, "tlb_entries": 1}
    assert first.mapped == 19 * page
    first.add(second)
    assert (first.mapped, first.of("block"), first.tlb_entries) == (83 * page, 72 * page, 7)
    part = reach_of(kernel.geometry, leaves(machine, kernel.geometry, base + 5 * page, base + 9 * page))
    assert part.tlb_entries == 2, "of the range asked for: the contiguous block and the PMD block that it touches"


def test_reach_of_nothing() -> None:
    machine, kernel = boot()
    assert mapped_areas(machine, kernel.geometry) == []
    assert reach_of(kernel.geometry, []).mapped == 0


@pytest.mark.parametrize("huge", [False, True])
def test_a_cycle_of_vmalloc_counts_the_same_however_long_ago_it_began(huge: bool) -> None:
    """Streaming: the counts of two rounds are twice those of one, and the counters keep nothing of the steps."""
    machine, kernel = boot(geometry=geometry_of("arm64", 3, 8, cont_ptes=2), cpus=1, tracing=True)

    def rounds(k: Kernel) -> Steps[None]:
        allocate = vmalloc_huge if huge else vmalloc
        for _ in range(3):
            addr = yield from allocate(k, 6 << 12, PAGE_KERNEL)
            assert addr is not None
            yield from vfree(k, addr)
            yield from vm_unmap_aliases(k)

    machine.boot(map_pages(0, 1, 12)(kernel))
    machine.boot(unmap_pages(0, 1)(kernel))
    counters = Counters(machine.allocator, kernel.geometry)
    machine.trace = counters  # type: ignore[assignment]
    run(machine, rounds(kernel))
    data = counters.to_data()
    assert data["mappings"] == {
        "page": {} if huge else {"PTE": 18},
        "contiguous": {"PTE": 9} if huge else {},
        "block": {},
    }
    assert isinstance(machine, Machine)
