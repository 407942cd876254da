"""fuzzvm.kernel.vmalloc: areas of address space."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level
from fuzzvm.kernel.vmalloc import VmapArea, alloc_vmap_area, vfree, vm_unmap_aliases, vmalloc, vmalloc_huge
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Steps, Tlbi
from fuzzvm.mitigations.config_off import ConfigOff
from tests.kernel.reference import live_tables, translate
from tests.support import boot, executions, operations, random_failures, run

PAGE = 4096


def areas(machine: Machine, kernel: Kernel) -> list[tuple[int, int, bool, bool]]:
    """Return first page, pages, lazy and busy of every area."""
    value = machine.memory.peek(kernel.vmap_area_root)
    found = value if isinstance(value, tuple) else ()
    assert all(isinstance(area, VmapArea) for area in found)
    base = kernel.geometry.base
    return [((a.start - base) // PAGE, (a.end - a.start) // PAGE, a.lazy, a.busy) for a in found]


def fresh(fanout: int = 4) -> tuple[Machine, Kernel, Callable[[Steps[int | None]], int | None]]:
    machine, kernel = boot("arm64", 3, fanout)

    def pages(program: Steps[int | None]) -> int | None:
        addr = machine.boot(program)
        return None if addr is None else (addr - kernel.geometry.base) // PAGE

    return machine, kernel, pages


# First fit


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from(["alloc", "free", "purge"]), st.integers(1, 9), st.sampled_from([1, 2, 4, 16])),
        max_size=25,
    )
)
def test_first_fit_against_a_map_of_pages(steps: list[tuple[str, int, int]]) -> None:
    """The lowest aligned place that is free; what is freed stays in use until a purge; a failed try purges once."""
    machine, kernel, pages = fresh()
    total = (kernel.geometry.end - kernel.geometry.base) // PAGE
    used: dict[int, str] = {}
    live: list[tuple[int, int]] = []

    def first(size: int, align: int) -> int | None:
        places = range(0, total - size + 1, align)
        return next((place for place in places if not any(p in used for p in range(place, place + size))), None)

    def purge() -> None:
        for page in [page for page, state in used.items() if state == "lazy"]:
            del used[page]

    for kind, number, align in steps:
        if kind == "purge":
            machine.boot(vm_unmap_aliases(kernel))
            purge()
        elif kind == "free" and live:
            start, size = live.pop(number % len(live))
            machine.boot(vfree(kernel, kernel.geometry.base + start * PAGE))
            used |= dict.fromkeys(range(start, start + size), "lazy")
        elif kind == "alloc":
            expected = first(number, align)
            if expected is None:
                purge()
                expected = first(number, align)
            assert pages(alloc_vmap_area(kernel, number * PAGE, align * PAGE)) == expected
            if expected is not None:
                live.append((expected, number))
                used |= dict.fromkeys(range(expected, expected + number), "busy")
        found = {page: lazy for start, size, lazy, _ in areas(machine, kernel) for page in range(start, start + size)}
        assert found == {page: state == "lazy" for page, state in used.items()}


def test_alignment_leaves_a_gap_that_a_smaller_area_fills() -> None:
    _machine, kernel, pages = fresh()
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) == 0
    assert pages(alloc_vmap_area(kernel, 4 * PAGE, 4 * PAGE)) == 4
    assert pages(alloc_vmap_area(kernel, 3 * PAGE, PAGE)) == 1
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) == 8
    assert pages(alloc_vmap_area(kernel, 56 * PAGE, PAGE)) is None
    assert pages(alloc_vmap_area(kernel, 55 * PAGE, PAGE)) == 9
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) is None


# vmalloc, vmalloc_huge, vfree


def test_vmalloc_maps_page_by_page() -> None:
    machine, kernel, pages = fresh()
    assert pages(vmalloc(kernel, 5 * PAGE - 1, PAGE_KERNEL)) == 0
    assert [page.level for n in range(5) if (page := translate(machine, kernel, n))] == [Level.PTE] * 5
    assert translate(machine, kernel, 5) is None


def test_vmalloc_huge_rounds_up_to_blocks_from_the_size_of_one() -> None:
    machine, kernel, pages = fresh()
    assert pages(vmalloc_huge(kernel, 3 * PAGE, PAGE_KERNEL)) == 0
    assert pages(vmalloc_huge(kernel, 5 * PAGE, PAGE_KERNEL)) == 4
    levels = [page.level if (page := translate(machine, kernel, n)) else None for n in range(13)]
    assert levels == [Level.PTE] * 3 + [None] + [Level.PMD] * 8 + [None]


def test_vmalloc_huge_falls_back_to_pages_where_no_aligned_room_is() -> None:
    machine, kernel, pages = fresh(2)
    for _ in range(4):
        assert pages(alloc_vmap_area(kernel, PAGE, 2 * PAGE)) is not None
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) == 1
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) == 3
    assert pages(vmalloc_huge(kernel, 2 * PAGE, PAGE_KERNEL)) is None
    machine, kernel, pages = fresh(2)
    assert pages(alloc_vmap_area(kernel, PAGE, PAGE)) == 0
    assert pages(alloc_vmap_area(kernel, 4 * PAGE, PAGE)) == 1
    assert pages(alloc_vmap_area(kernel, PAGE, 8 * PAGE)) is None
    assert pages(vmalloc_huge(kernel, 3 * PAGE, PAGE_KERNEL)) == 5, "not 4 pages from 6 on: there are only 3 left"
    page = translate(machine, kernel, 6)
    assert page is not None
    assert page.level is Level.PTE


def test_vmalloc_huge_where_huge_is_off() -> None:
    machine, kernel = boot("arm64", 3, 4, ConfigOff)
    machine.boot(vmalloc_huge(kernel, 4 * PAGE, PAGE_KERNEL))
    page = translate(machine, kernel, 0)
    assert page is not None
    assert page.level is Level.PTE


def test_vfree_unmaps_and_leaves_tables_and_addresses() -> None:
    machine, kernel, pages = fresh()
    pages(vmalloc(kernel, 4 * PAGE, PAGE_KERNEL))
    tables = live_tables(machine, kernel)
    machine.boot(vfree(kernel, kernel.geometry.base))
    assert all(translate(machine, kernel, n) is None for n in range(4))
    assert live_tables(machine, kernel) == tables
    assert areas(machine, kernel) == [(0, 4, True, False)]
    assert pages(vmalloc(kernel, PAGE, PAGE_KERNEL)) == 4, "lazily freed addresses are not free yet"
    machine.boot(vm_unmap_aliases(kernel))
    assert areas(machine, kernel) == [(4, 1, False, True)]
    assert pages(vmalloc_huge(kernel, 4 * PAGE, PAGE_KERNEL)) == 0, "and now they are, with a table to replace"
    page = translate(machine, kernel, 0)
    assert page is not None
    assert page.level is Level.PMD
    assert len(machine.allocator.dead) == 1


def test_vfree_of_what_is_no_area_does_nothing() -> None:
    machine, kernel, pages = fresh()
    pages(vmalloc(kernel, 4 * PAGE, PAGE_KERNEL))
    before = areas(machine, kernel)
    machine.boot(vfree(kernel, kernel.geometry.base + PAGE))
    assert areas(machine, kernel) == before
    machine.boot(vfree(kernel, kernel.geometry.base))
    machine.boot(vfree(kernel, kernel.geometry.base))
    assert areas(machine, kernel) == [(0, 4, True, False)]


def test_a_purge_flushes_from_the_first_to_the_last_lazy_area() -> None:
    machine, kernel = boot("arm64", 3, 4, cpus=1, tracing=True)
    for _ in range(3):
        machine.boot(alloc_vmap_area(kernel, PAGE, PAGE))
    for page in (0, 2):
        machine.boot(vfree(kernel, kernel.geometry.base + page * PAGE))
    assert run(machine, vm_unmap_aliases(kernel)) is None
    flushed = [op.virtual_address for op in operations(machine) if isinstance(op, Tlbi)]
    assert flushed == [kernel.geometry.base + page * PAGE for page in range(3)]


def test_a_purge_of_nothing_flushes_nothing() -> None:
    machine, kernel = boot("arm64", 3, 4, cpus=1, tracing=True)
    assert run(machine, vm_unmap_aliases(kernel)) is None
    assert not any(isinstance(op, Tlbi) for op in operations(machine))


# Races


def test_two_cpus_free_the_same_area_and_one_of_them_finds_it() -> None:
    """find_unlink_vmap_area(): while one unmaps, the other cannot unmap it too, and its addresses are not free."""
    for first, second in ((0, 1), (1, 0)):
        machine, kernel = boot("arm64", 3, 4, cpus=2)
        addr = machine.boot(vmalloc(kernel, 4 * PAGE, PAGE_KERNEL))
        assert addr is not None

        def free_purge_and_allocate(k: Kernel, addr: int) -> Steps[None]:
            yield from vfree(k, addr)
            yield from vm_unmap_aliases(k)
            yield from vmalloc(k, 4 * PAGE, PAGE_KERNEL)

        programs = [free_purge_and_allocate(kernel.on(cpu), addr) for cpu in range(2)]
        assert run(machine, *programs, agents=[first, second]) is None
        found = areas(machine, kernel)
        assert [area[3] for area in found].count(True) == 2, "both allocations stand"
        for start_page, size, _, busy in found:
            mapped = [translate(machine, kernel, page) is not None for page in range(start_page, start_page + size)]
            assert mapped == [busy] * size


def test_a_purge_never_frees_what_became_lazy_after_its_flush() -> None:
    """vmap_purge_lock: every lazy area is flushed between its vfree and its addresses' next use."""
    machines: list[Machine] = []

    def start() -> Machine:
        machine, kernel = boot("arm64", 3, 2, cpus=2, tracing=True)
        machine.boot(vmalloc(kernel, 8 * PAGE, PAGE_KERNEL))

        def cycle(k: Kernel) -> Steps[None]:
            yield from vfree(k, k.geometry.base)
            addr = yield from vmalloc(k, 8 * PAGE, PAGE_KERNEL)
            if addr is not None:
                yield from vfree(k, addr)
            yield from vm_unmap_aliases(k)

        machine.start([cycle(kernel.on(0)), vm_unmap_aliases(kernel.on(1))])
        machines.append(machine)
        return machine

    for execution in executions(start, 2):
        assert execution.failure is None
        machine = machines.pop()
        kernel_word = next(a.address for a in machine.allocator.allocations if str(a.label) == "vmap_area_root")
        assert machine.memory.peek(kernel_word) == (), "both frees were followed by a purge"
        flushes = sum(isinstance(op, Tlbi) for op in operations(machine))
        assert flushes == 2, "one flush of everything for each of the two lives of the area"


def test_many_cpus_allocate_and_free_without_overlap() -> None:
    def start() -> Machine:
        machine, kernel = boot("arm64", 3, 4, cpus=3)

        def cycle(k: Kernel) -> Steps[None]:
            addr = yield from vmalloc_huge(k, 4 * PAGE, PAGE_KERNEL)
            other = yield from vmalloc(k, 2 * PAGE, PAGE_KERNEL)
            if addr is not None:
                yield from vfree(k, addr)
            yield from vm_unmap_aliases(k)
            if other is not None:
                yield from vfree(k, other)

        machine.start([cycle(kernel.on(cpu)) for cpu in range(3)])
        return machine

    assert random_failures(start, 150) == set()
