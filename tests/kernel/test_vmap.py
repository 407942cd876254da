"""fuzzvm.kernel.vmap, against a dict of pages."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.arch.x86_64 import X86
from fuzzvm.kernel.errors import MAP_OVER_MAPPING, PARTIAL_UNMAP
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PTE_CONT,
    Geometry,
    Level,
    pxd_pgprot,
    pxd_pgtable,
)
from fuzzvm.kernel.ptdump import ptdump_walk_pgd
from fuzzvm.kernel.ptdump_notes import WalkBegins, WalkEnds
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Address, Free, Load, Steps, Store
from fuzzvm.mitigations.config_off import ConfigOff
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from tests.kernel.reference import (
    AlreadyMappedError,
    CutError,
    Page,
    Reference,
    Row,
    UnseenError,
    live_tables,
    translate,
)
from tests.support import boot, burst, executions, geometry_of, operations, run

PROTS = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_EXEC]


class Change(NamedTuple):
    page: int
    nr_pages: int
    pfn: int | None
    """None unmaps."""
    prot: int = PAGE_KERNEL
    max_level: Level = Level.PUD
    contiguous: bool = True
    """Whether PTEs may form contiguous blocks, where max_level is PTE."""


class Story(NamedTuple):
    arch: str
    geometry: Geometry
    lazy_mmu: bool
    mitigation: type[Mitigation]
    changes: list[Change]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    shapes = [("arm64", 12, 3), ("arm64", 14, 4), ("arm64", 12, 4), ("x86_64", 12, 4), ("x86_64", 12, 5)]
    shapes += [("arm64", 12, 5), ("arm64", 16, 3), ("arm64", 14, 2), ("arm64", 16, 2)]
    arch, page_shift, levels = draw(st.sampled_from(shapes))
    fanout = draw(st.sampled_from({2: [4, 8], 3: [2, 4, 8], 4: [2, 4], 5: [2]}[levels]))
    cont_ptes = min(draw(st.sampled_from([1, 2, 2, 4])), fanout // 2) if arch == "arm64" else 1
    top = fanout**levels
    changes = []
    for _ in range(draw(st.integers(1, 6))):
        unit = draw(st.sampled_from([fanout, fanout**2, fanout, fanout**2, 1, max(1, cont_ptes)]))
        page = draw(st.integers(0, min(top, 2 * fanout**2) // unit - 1)) * unit
        nr_pages = min(unit * draw(st.sampled_from([1, 1, 1, 2, 3])), top - page)
        if draw(st.sampled_from([False] * 5 + [True])):
            changes.append(Change(page, nr_pages, None))
            continue
        phys = page + draw(st.sampled_from([0, 0, 0, 1, fanout, fanout**2, 7 * fanout**2]))
        level = draw(st.sampled_from([Level.PUD, Level.PTE, Level.PMD, Level.PUD]))
        changes.append(Change(page, nr_pages, phys, draw(st.sampled_from(PROTS)), level, draw(st.booleans())))
        if draw(st.sampled_from([True, True, True, False])):
            changes.append(Change(page, nr_pages, None))
    geometry = geometry_of(arch, levels, fanout, page_shift, cont_ptes)
    mitigation = draw(st.sampled_from([NoMitigation, ConfigOff, StaticKeyMitigation]))
    return Story(arch, geometry, draw(st.booleans()), mitigation, changes)


def apply(machine: Machine, kernel: Kernel, change: Change) -> None:
    geometry = kernel.geometry
    addr = geometry.base + (change.page << geometry.page_shift)
    end = addr + (change.nr_pages << geometry.page_shift)
    if change.pfn is None:
        machine.boot(vunmap_range(kernel, addr, end))
    else:
        shift = geometry.shifts[change.max_level]
        if change.contiguous:
            shift = max(shift, geometry.cont_pte_shift)
        machine.boot(vmap_range(kernel, addr, end, change.pfn << geometry.page_shift, change.prot, shift))


def expect(reference: Reference, change: Change) -> None:
    if change.pfn is None:
        reference.vunmap(change.page, change.nr_pages)
    else:
        contiguous = change.contiguous or change.max_level < Level.PTE
        reference.vmap(change.page, change.nr_pages, change.pfn, change.prot, change.max_level, contiguous=contiguous)


def check(machine: Machine, kernel: Kernel, reference: Reference) -> None:
    """Compare translations, tables and the dump."""
    geometry = kernel.geometry
    known = set(reference.pages)
    near = {page + step for page in known for step in (-1, 1)} | {0}
    for page in known | {page for page in near if 0 <= page < (geometry.end - geometry.base) >> geometry.page_shift}:
        assert translate(machine, kernel, page) == reference.pages.get(page)
    assert live_tables(machine, kernel) == reference.tables
    assert len(machine.allocator.dead) == reference.freed
    assert [row_of(kernel, row) for row in machine.boot(ptdump_walk_pgd(kernel, kernel.init_mm))] == reference.rows()


def row_of(kernel: Kernel, row: DumpRow) -> Row:
    start, end = ((addr - kernel.geometry.base) >> kernel.geometry.page_shift for addr in (row.start, row.end))
    return Row(start, end, row.level, pxd_pgprot(row.entry) if row.entry else None)


@settings(max_examples=250, deadline=None)
@given(stories())
def test_every_page_is_where_the_reference_has_it(story: Story) -> None:
    machine, kernel = boot(story.arch, geometry=story.geometry, mitigation=story.mitigation, lazy_mmu=story.lazy_mmu)
    pud = story.geometry.page_shift == 12 and not story.geometry.folded(Level.PUD)
    blocks = (Level.PUD, Level.PMD) if pud else (Level.PGD,) if story.geometry.folded(Level.PMD) else (Level.PMD,)
    reference = Reference(kernel.geometry, huge=story.mitigation is not ConfigOff, blocks=blocks)
    for change in story.changes:
        try:
            expect(reference, change)
        except AlreadyMappedError:
            event("mapped over a mapping")
            with pytest.raises(ModelError) as caught:
                apply(machine, kernel, change)
            assert caught.value.error == MAP_OVER_MAPPING
            return
        except UnseenError:
            event("mapped over a mapping, unseen")
            apply(machine, kernel, change)
            return
        except CutError:
            event("cut a contiguous block")
            with pytest.raises(ModelError) as caught:
                apply(machine, kernel, change)
            assert caught.value.error == PARTIAL_UNMAP
            return
        apply(machine, kernel, change)
        check(machine, kernel, reference)
        event(f"contiguous blocks: {any(page.prot & PTE_CONT for page in reference.pages.values())}")
        for level in {page.level for page in reference.pages.values()}:
            event(f"an entry of {level.name}")
    event(f"tables freed: {min(reference.freed, 3)}")
    assert machine.observer is not None
    machine.observer.finished()


@pytest.mark.parametrize(("arch", "levels"), [("arm64", 3), ("arm64", 4), ("x86_64", 4)])
def test_the_real_fan_out(arch: str, levels: int) -> None:
    """512 entries a table: a PTE table is replaced by a 2M block; beside it a 2M block, a 1G block and loose pages."""
    machine, kernel = boot(arch, levels, 512)
    reference = Reference(kernel.geometry)
    changes = [
        Change(0, 512, 512, max_level=Level.PTE),
        Change(0, 512, None),
        Change(0, 512, 512),
        Change(512, 3, 7, PAGE_KERNEL_RO),
        Change(1024, 512, 1024, PAGE_KERNEL_EXEC),
        Change(1536, 512, 1),
    ]
    for change in changes:
        expect(reference, change)
        apply(machine, kernel, change)
    check(machine, kernel, reference)
    assert reference.freed == 1
    assert reference.pages[0].level is reference.pages[1024].level is Level.PMD
    if levels == 4:
        gigabyte = Change(1 << 18, 1 << 18, 1 << 18)
        apply(machine, kernel, gigabyte)
        assert translate(machine, kernel, (1 << 18) + 5) == Page((1 << 18) + 5, PAGE_KERNEL, Level.PUD)


# The conditions of vmap_try_huge_*, one at a time

FITS = Change(4, 4, 4)


@pytest.mark.parametrize(
    ("change", "level", "why"),
    [
        (FITS, Level.PMD, "all conditions hold"),
        (FITS._replace(max_level=Level.PMD), Level.PMD, "all conditions hold"),
        (FITS._replace(max_level=Level.PTE), Level.PTE, "max_page_shift < PMD_SHIFT"),
        (FITS._replace(nr_pages=3), Level.PTE, "end - addr != PMD_SIZE"),
        (FITS._replace(page=5, nr_pages=3), Level.PTE, "addr is not aligned"),
        (FITS._replace(pfn=6), Level.PTE, "phys_addr is not aligned"),
        (FITS._replace(pfn=12), Level.PMD, "another physical address, aligned"),
    ],
)
@pytest.mark.parametrize(("arch", "levels"), [("arm64", 3), ("arm64", 4), ("x86_64", 4)])
def test_conditions_of_a_pmd_block(change: Change, level: Level, why: str, arch: str, levels: int) -> None:
    machine, kernel = boot(arch, levels, 4)
    apply(machine, kernel, change)
    page = translate(machine, kernel, change.page)
    assert page is not None
    assert page.level is level, why


@pytest.mark.parametrize(
    ("change", "level", "why"),
    [
        (Change(16, 16, 16), Level.PUD, "all conditions hold"),
        (Change(16, 16, 16, max_level=Level.PMD), Level.PMD, "max_page_shift < PUD_SHIFT"),
        (Change(16, 12, 16), Level.PMD, "end - addr != PUD_SIZE"),
        (Change(16, 16, 20), Level.PMD, "phys_addr is aligned to a PMD only"),
        (Change(16, 16, 17), Level.PTE, "phys_addr is aligned to nothing"),
    ],
)
@pytest.mark.parametrize(("arch", "levels"), [("arm64", 3), ("arm64", 4), ("x86_64", 4)])
def test_conditions_of_a_pud_block(change: Change, level: Level, why: str, arch: str, levels: int) -> None:
    machine, kernel = boot(arch, levels, 4)
    apply(machine, kernel, change)
    page = translate(machine, kernel, change.page)
    assert page is not None
    if levels == 3 and level is Level.PUD:
        level = Level.PMD
    assert page.level is level, why


class BlocksEverywhere(X86):
    """An architecture with P4D blocks, as the generic code provides for."""

    def arch_vmap_p4d_supported(self, k: Kernel) -> bool:
        return True

    def p4d_free_pud_page(self, k: Kernel, p4dp: Address, addr: int) -> Steps[bool]:
        p4d = yield Load(p4dp)
        table = pxd_pgtable(p4d)
        index = 0
        while index < k.geometry.ptrs[Level.PUD]:
            yield from self.pud_free_pmd_page(k, table + index, addr + index * k.geometry.size(Level.PUD))
            index += 1
        yield Store(p4dp, 0)
        yield Free(table)
        return True


def test_a_p4d_block_replaces_all_below_it_where_the_architecture_has_one() -> None:
    machine, kernel = boot("x86_64", 5, 2)
    for mapped, arch in ((Level.PTE, kernel.arch), (Level.P4D, BlocksEverywhere())):
        view = kernel.on(0)
        object.__setattr__(view, "arch", arch)
        base = kernel.geometry.base
        end = base + (8 << 12)
        shift = kernel.geometry.shifts[mapped]
        machine.boot(vmap_range(view, base, end, 0, PAGE_KERNEL, shift))
        assert [translate(machine, kernel, page) for page in range(8)] == [
            Page(page, PAGE_KERNEL, mapped) for page in range(8)
        ]
        if mapped is Level.PTE:
            machine.boot(vunmap_range(view, base, end))
    assert live_tables(machine, kernel) == {(Level.P4D, 0)}
    assert len(machine.allocator.dead) == 7


def test_a_p4d_is_never_a_block() -> None:
    machine, kernel = boot("arm64", 4, 2)
    apply(machine, kernel, Change(0, 16, 0))
    pages = [translate(machine, kernel, page) for page in range(16)]
    assert pages == [Page(page, PAGE_KERNEL, Level.PUD) for page in range(16)]


def test_a_mitigation_may_refuse_huge_mappings_or_one_promotion() -> None:
    machine, kernel = boot("arm64", 3, 4, ConfigOff)
    apply(machine, kernel, FITS)
    page = translate(machine, kernel, 4)
    assert page is not None
    assert page.level is Level.PTE

    class Refuses(NoMitigation):
        def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
            yield from ()
            return False

        def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
            raise AssertionError("only where before_promotion said yes")
            yield

    machine, kernel = boot("arm64", 3, 4, Refuses)
    apply(machine, kernel, FITS)
    assert translate(machine, kernel, 4) == Page(4, PAGE_KERNEL, Level.PMD), "an empty entry is no promotion"
    apply(machine, kernel, FITS._replace(pfn=None))
    apply(machine, kernel, FITS._replace(max_level=Level.PTE))
    apply(machine, kernel, FITS._replace(pfn=None))
    apply(machine, kernel, FITS)
    assert translate(machine, kernel, 4) == Page(4, PAGE_KERNEL, Level.PTE), "falls back to small pages"
    assert not machine.allocator.dead


# Races within mapping


def test_two_cpus_need_the_same_table_and_one_frees_its_own() -> None:
    machines: list[tuple[Machine, Kernel]] = []

    def start() -> Machine:
        machine, kernel = boot("arm64", 3, 4, cpus=2)
        machine.start([vmap_page(kernel.on(cpu), cpu) for cpu in range(2)])
        machines.append((machine, kernel))
        return machine

    freed = set()
    for execution in executions(start, 2):
        assert execution.failure is None
        machine, kernel = machines.pop()
        pages = [translate(machine, kernel, page) for page in range(2)]
        assert pages == [Page(page, PAGE_KERNEL, Level.PTE) for page in range(2)]
        freed.add(len(machine.allocator.dead))
    assert freed == {0, 1, 2}, "the loser of a race for a table gives its own back"


def vmap_page(k: Kernel, page: int, nr_pages: int = 1) -> Steps[None]:
    addr = k.geometry.base + (page << 12)
    yield from vmap_range(k, addr, addr + (nr_pages << 12), page << 12, PAGE_KERNEL, k.geometry.shifts[Level.PMD])


def test_a_block_that_appears_before_page_table_lock_is_found() -> None:
    """CPU 0 finds no PTE table and allocates one; meanwhile CPU 1 maps a block there."""
    machine, kernel = boot("arm64", 3, 4, cpus=2)
    machine.boot(vmap_page(kernel, 8))
    agents = burst((0, 3), (1, 5))
    failure = run(machine, vmap_page(kernel.on(0), 1), vmap_page(kernel.on(1), 0, 4), agents=agents)
    assert failure is not None
    assert (failure.error, failure.cpu, failure.function) == (MAP_OVER_MAPPING, 0, "pxd_alloc")


def test_vunmap_leaves_the_empty_tables_and_the_next_promotion_frees_them() -> None:
    machine, kernel = boot("arm64", 4, 2, tracing=True)
    apply(machine, kernel, Change(0, 4, 0, max_level=Level.PTE))
    before = live_tables(machine, kernel)
    apply(machine, kernel, Change(0, 4, None))
    assert live_tables(machine, kernel) == before
    base = kernel.geometry.base
    assert run(machine, vmap_range(kernel, base, base + (4 << 12), 0, PAGE_KERNEL, 64)) is None
    assert live_tables(machine, kernel) == {(Level.PUD, 0)}
    assert sum(isinstance(op, Free) for op in operations(machine)) == 3


def test_unmapping_what_is_not_mapped_touches_no_table() -> None:
    machine, kernel = boot("arm64", 4, 2, tracing=True)
    base = kernel.geometry.base
    assert run(machine, vunmap_range(kernel, base, kernel.geometry.end)) is None
    assert sum(isinstance(op, Load) for op in operations(machine)) == 2, "both PGD entries are none"


def test_a_walk_of_part_of_the_range_ends_where_it_is_told() -> None:
    machine, kernel = boot("arm64", 3, 4)
    apply(machine, kernel, Change(0, 16, 0, max_level=Level.PTE))
    base = kernel.geometry.base

    def walk(k: Kernel) -> Steps[tuple[DumpRow, ...]]:
        yield from mmap_write_lock(k, k.init_mm)
        yield WalkBegins()
        rows = yield from walk_page_range(k, k.init_mm, base + (2 << 12), base + (7 << 12))
        yield WalkEnds()
        yield from mmap_write_unlock(k, k.init_mm)
        return rows

    assert [row_of(kernel, row) for row in machine.boot(walk(kernel))] == [Row(2, 7, Level.PTE, PAGE_KERNEL)]
