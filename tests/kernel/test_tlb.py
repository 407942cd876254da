"""fuzzvm.kernel.tlb: what hardware must never come upon is found where it is made, and only there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fuzzvm.exhaustive import Limits, verify
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch.arm64 import Arm64
from fuzzvm.kernel.errors import HARDWARE_WALK_OF_FREED_TABLE, STALE_TRANSLATION, TLB_CONFLICT
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_RO,
    PTE_CONT,
    Geometry,
    Level,
    TableLabel,
    mk_leaf,
    mk_table,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
)
from fuzzvm.kernel.vmap import vmap_range, vunmap_range, vunmap_range_noflush
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Address, Alloc, Barrier, Fence, Load, Steps, Store, Tlbi
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, Vfree, VmallocHuge, VmUnmapAliases
from fuzzvm.scenario.calls import Vmalloc as VmallocCall
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.support import geometry_of, run

PAGE = 4096
Program = Callable[[Kernel], Steps[Any]]


class Broken(Arm64):
    """An architecture with a fault, which it keeps when it is configured."""

    def configured(self, geometry: Geometry) -> Arm64:
        return type(self)(geometry.page_shift)


def with_tlb(arch: Arm64 | str = "arm64", fanout: int = 2, cont_ptes: int = 1) -> tuple[Machine, Kernel]:
    """Return a machine of two CPUs with a kernel whose TLBs are watched."""
    architecture = architectures.get(arch) if isinstance(arch, str) else arch
    machine = Machine(SequentialConsistency(2))
    geometry = geometry_of(architecture.name, 4, fanout, cont_ptes=cont_ptes)
    kernel = boot_kernel(machine, architecture, geometry, NoMitigation(), tlb=True)
    machine.observer = Oracles(machine, kernel)
    return machine, kernel


def outcome(program: Program, arch: Arm64 | str = "arm64", setup: Program | None = None) -> Failure | None:
    machine, kernel = with_tlb(arch)
    if setup is not None:
        machine.boot(setup(kernel))
    return run(machine, program(kernel))


def pages(k: Kernel, count: int, shift: int | None = None, prot: int = PAGE_KERNEL) -> Steps[None]:
    base = k.geometry.base
    yield from vmap_range(k, base, base + count * PAGE, 0, prot, shift or k.geometry.page_shift)


def entry_of(k: Kernel, level: Level) -> Steps[Address]:
    """Return the address of the entry of that level for the first address."""
    table = k.init_mm.pgd
    for upper in (Level.PGD, Level.PUD, Level.PMD):
        if upper == level:
            break
        entry = yield Load(table)
        table = pxd_pgtable(entry)
    return table


# Break-before-make


class PromotesInPlace(Broken):
    """Sets a block over the table that it replaces: nothing is cleared, flushed or freed."""

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        yield from ()
        return True


class ClearsAndDoesNotFlush(Broken):
    """Clears the entry and sets the block: a break with no invalidation is none. The table is never freed."""

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        yield Store(pmdp, 0)
        return True


class FlushesTheLastLevelAlone(Broken):
    """Invalidates by the TLBI that leaves walk caches alone."""

    def pmd_free_pte_page(self, k: Kernel, pmdp: Address, addr: int) -> Steps[bool]:
        yield Store(pmdp, 0)
        yield from self.flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PMD))
        return True


def empty_pages(k: Kernel) -> Steps[None]:
    yield from pages(k, 2)
    yield from vunmap_range(k, k.geometry.base, k.geometry.base + 2 * PAGE)


def promote(k: Kernel) -> Steps[None]:
    yield from pages(k, 2, k.geometry.shifts[Level.PMD])


@pytest.mark.parametrize("broken", [PromotesInPlace(), ClearsAndDoesNotFlush(), FlushesTheLastLevelAlone()])
def test_a_block_over_a_table_without_break_before_make(broken: Arm64) -> None:
    failure = outcome(promote, broken, empty_pages)
    assert failure is not None
    assert (failure.error, failure.function) == (TLB_CONFLICT, "set_pxd")
    assert "a block and a table" in failure.message


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
def test_a_promotion_in_order(arch: str) -> None:
    assert outcome(promote, arch, empty_pages) is None


def test_another_output_address_in_place() -> None:
    def program(k: Kernel) -> Steps[None]:
        ptep = yield from entry_of(k, Level.PTE)
        yield Store(ptep, mk_leaf(7, PAGE_KERNEL))

    failure = outcome(program, setup=lambda k: pages(k, 1))
    assert failure is not None
    assert failure.error == TLB_CONFLICT
    assert "different output addresses" in failure.message
    # x86 uses the old translation or the new one until it is flushed, and never both at once
    assert outcome(program, "x86_64", setup=lambda k: pages(k, 1)) is None


def test_other_permissions_in_place_are_allowed() -> None:
    def program(k: Kernel) -> Steps[None]:
        ptep = yield from entry_of(k, Level.PTE)
        yield Store(ptep, mk_leaf(0, PAGE_KERNEL_RO))

    assert outcome(program, setup=lambda k: pages(k, 1)) is None


def split(attributes: int, pfn: int = 0) -> Program:
    """Return the split of a block as CPA does it: a table with the same pages is made, and set in its place."""

    def program(k: Kernel) -> Steps[None]:
        pmdp = yield from entry_of(k, Level.PMD)
        table = yield Alloc(2, TableLabel(Level.PTE, k.geometry.base))
        yield Store(table, mk_leaf(pfn, attributes))
        yield Store(table + 1, mk_leaf(pfn + 1, attributes))
        yield Store(pmdp, mk_table(table))

    return program


def test_a_split_in_place_is_allowed_on_x86_where_nothing_else_changes() -> None:
    def block(k: Kernel) -> Steps[None]:
        yield from pages(k, 2, k.geometry.shifts[Level.PMD])

    assert outcome(split(PAGE_KERNEL), "x86_64", block) is None
    for attributes, pfn in ((PAGE_KERNEL_RO, 0), (PAGE_KERNEL, 2)):
        failure = outcome(split(attributes, pfn), "x86_64", block)
        assert failure is not None
        assert failure.error == TLB_CONFLICT
    failure = outcome(split(PAGE_KERNEL), "arm64", block)
    assert failure is not None
    assert failure.error == TLB_CONFLICT


# Addresses that are mapped again


def test_mapped_again_before_the_flush() -> None:
    def program(k: Kernel, *, flush: bool) -> Steps[None]:
        unmap = vunmap_range if flush else vunmap_range_noflush
        yield from unmap(k, k.geometry.base, k.geometry.base + PAGE)
        yield from pages(k, 1)

    for arch in ("arm64", "x86_64"):
        failure = outcome(lambda k: program(k, flush=False), arch, lambda k: pages(k, 1))
        assert failure is not None
        assert (failure.error, failure.function) == (STALE_TRANSLATION, "set_pxd")
        assert outcome(lambda k: program(k, flush=True), arch, lambda k: pages(k, 1)) is None


LAZY = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (VmallocCall("small", 2),),
    ((Vfree("small"), VmUnmapAliases(), VmallocCall("small", 2)), (CatKernelPageTables(),)),
    tlb=True,
)


def test_addresses_that_a_purge_frees_without_its_flush() -> None:
    scheme = registry.get("static-key")
    assert verify(System(LAZY, scheme, "sc")).verdict == "safe"
    found = verify(System(LAZY, scheme, "sc", without=("purge-flush-tlbi",))).failure
    assert found is not None
    assert found.error == STALE_TRANSLATION
    huge = replace(LAZY, cpus=((Vfree("small"), VmUnmapAliases(), VmallocHuge("huge", 2)),))
    found = verify(System(huge, scheme, "sc", without=("purge-flush-tlbi",))).failure
    assert found is not None
    assert found.error == TLB_CONFLICT


# Contiguous blocks

CONT = PAGE_KERNEL | PTE_CONT
CONT_RO = PAGE_KERNEL_RO | PTE_CONT


def contiguous(program: Program, arch: Arm64 | None = None) -> Failure | None:
    """Run a program on a kernel with four PTEs mapped as two contiguous blocks of two."""
    machine, kernel = with_tlb(arch or "arm64", fanout=4, cont_ptes=2)
    machine.boot(pages(kernel, 4, kernel.geometry.cont_pte_shift))
    assert kernel.geometry.cont(Level.PTE) == 2
    return run(machine, program(kernel))


def change(*entries: tuple[int, int], clear: bool = False, flush: tuple[int, ...] = ()) -> Program:
    """Return the program that changes PTEs (index, entry), clearing all four and flushing pages first if asked."""

    def program(k: Kernel) -> Steps[None]:
        ptep = yield from entry_of(k, Level.PTE)
        if clear:
            for index in range(4):
                yield Store(ptep + index, 0)
        yield Fence(Barrier.DSB_ISHST)
        for page in flush:
            yield Tlbi("vaale1is", k.geometry.base + page * PAGE)
        yield Fence(Barrier.DSB_ISH)
        yield Fence(Barrier.ISB)
        for index, entry in entries:
            yield Store(ptep + index, entry)

    return program


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (mk_leaf(7, CONT), "not alike"),
        (mk_leaf(1, CONT_RO), "not alike"),
        (mk_leaf(1, PAGE_KERNEL), "with and without the contiguous bit"),
    ],
)
def test_one_pte_of_a_contiguous_block_that_is_different(entry: int, message: str) -> None:
    failure = contiguous(change((1, entry)))
    assert failure is not None
    assert failure.error == TLB_CONFLICT
    assert message in failure.message
    assert contiguous(change((1, mk_leaf(1, CONT)))) is None


class LastPteWithoutTheBit(Broken):
    """Sets the last entry of a contiguous block as if it were a page by itself."""

    def set_huge_pte_at(
        self, k: Kernel, addr: int, ptep: Address, pte: int, size: int, *, lazy: bool = False
    ) -> Steps[None]:
        yield from super().set_huge_pte_at(k, addr, ptep, pte, size, lazy=lazy)
        last = size // PAGE - 1
        yield Store(ptep + last, mk_leaf(pxd_pfn(pte) + last, pxd_pgprot(pte) & ~PTE_CONT))


class ChangesBlocksInPlace(Broken):
    """Changes a valid contiguous block without the clear and the flush before it (set_huge_pte_at's BBM)."""

    def set_huge_pte_at(
        self, k: Kernel, addr: int, ptep: Address, pte: int, size: int, *, lazy: bool = False
    ) -> Steps[None]:
        yield from self._set_ptes_anysz(k, ptep, pte, size // PAGE, PAGE, lazy=lazy)


def test_set_huge_pte_at() -> None:
    def remap(k: Kernel) -> Steps[None]:
        ptep = yield from entry_of(k, Level.PTE)
        pte = k.arch.arch_make_huge_pte(k, mk_leaf(6, PAGE_KERNEL_RO), 2 * PAGE)
        yield from k.arch.set_huge_pte_at(k, k.geometry.base, ptep, pte, 2 * PAGE)

    def map_two(k: Kernel) -> Steps[None]:
        base = k.geometry.base + 4 * PAGE
        yield from vmap_range(k, base, base + 2 * PAGE, 4 * PAGE, PAGE_KERNEL, k.geometry.cont_pte_shift)

    assert contiguous(remap) is None
    failure = contiguous(remap, ChangesBlocksInPlace())
    assert failure is not None
    assert failure.error == TLB_CONFLICT
    assert contiguous(map_two) is None
    machine, kernel = with_tlb(LastPteWithoutTheBit(), fanout=4, cont_ptes=2)
    failure = run(machine, map_two(kernel))
    assert failure is not None
    assert (failure.error, failure.function) == (TLB_CONFLICT, "set_huge_pte_at")


def test_a_contiguous_block_that_is_mapped_again() -> None:
    again = tuple((index, mk_leaf(index, CONT)) for index in range(4))
    moved = tuple((index, mk_leaf(index + 4, CONT)) for index in range(4))
    for entries in (again, moved):
        assert contiguous(change(*entries, clear=True, flush=(0, 1, 2, 3))) is None
        # the range may be held as pages, so that each of them takes a flush
        assert contiguous(change(*entries, clear=True, flush=(0, 2, 3))) is not None
    failure = contiguous(change(*again, clear=True))
    assert failure is not None
    assert failure.error == STALE_TRANSLATION


def test_one_pte_that_is_cleared_may_still_be_translated_by_its_neighbour() -> None:
    def program(k: Kernel) -> Steps[None]:
        ptep = yield from entry_of(k, Level.PTE)
        yield Store(ptep, 0)
        yield from k.arch.flush_tlb_kernel_range(k, k.geometry.base, k.geometry.base + PAGE)
        yield Store(ptep, mk_leaf(9, CONT))

    failure = contiguous(program)
    assert failure is not None
    assert failure.error == TLB_CONFLICT


# The flush of what is freed

ALONE = replace(shipped.get("tlb-promotion"), cpus=shipped.get("tlb-promotion").cpus[1:])
X86_ALONE = replace(shipped.get("tlb-x86-promotion"), cpus=(shipped.get("tlb-x86-promotion").cpus[0], ()))


@pytest.mark.parametrize("mitigation", ["none", "mmap-lock-always", "static-key"])
@pytest.mark.parametrize(
    ("scenario", "memory", "point", "caught"),
    [
        (ALONE, "sc", "flush-tlbi", True),
        (ALONE, "sc", "flush-dsb-ish", True),
        (ALONE, "sc", "flush-dsb-ish-full", True),
        (ALONE, "sc", "flush-isb", True),
        # the entry is seen to be cleared at once
        (ALONE, "sc", "flush-dsb-ishst", False),
        (ALONE, "arm64", "flush-tlbi", True),
        (ALONE, "arm64", "flush-dsb-ishst", True),
        (ALONE, "arm64", "flush-dsb-ish", True),
        (ALONE, "arm64", "flush-isb", True),
        (X86_ALONE, "sc", "flush-tlbi", True),
        (X86_ALONE, "sc", "flush-ipi", True),
        (X86_ALONE, "tso", "flush-tlbi", True),
        (X86_ALONE, "tso", "flush-ipi", True),
    ],
)
def test_what_is_missing_from_the_flush(
    scenario: Scenario, memory: str, point: str, caught: bool, mitigation: str
) -> None:
    scheme = registry.get(mitigation)
    assert verify(System(scenario, scheme, memory)).verdict == "safe"
    failure = verify(System(scenario, scheme, memory, without=(point,))).failure
    assert (None if failure is None else failure.error) == (HARDWARE_WALK_OF_FREED_TABLE if caught else None)
    # with the TLBs not watched, nothing is
    off = replace(scenario, tlb=False)
    assert verify(System(off, scheme, memory, without=(point,))).verdict == "safe"


# Searches


@pytest.mark.parametrize("scenario", ["pmd-promotion", "two-walkers", "x86-pud-promotion", "tlb-promotion"])
@pytest.mark.parametrize("without", [(), ("flush-dsb-ish",), ("flush-tlbi",)])
def test_tuples_and_machines_agree(scenario: str, without: tuple[str, ...]) -> None:
    system = System(replace(shipped.get(scenario), tlb=True), registry.get("static-key"), "sc", without=without)
    limits = Limits(max_states=3000)
    flat = search(Space(system), limits, first_only=False)
    stepped = search(Space(system, fast=False), limits, first_only=False)
    assert (flat.states, flat.transitions, flat.findings) == (stepped.states, stepped.transitions, stepped.findings)


def test_a_second_flush_may_do_what_the_first_did_too_early() -> None:
    # the table is out of reach by then, so that no walk begins that could fill the copy again
    pud = replace(ALONE, cpus=shipped.get("tlb-promotion").cpus[:1])
    left_out = ("flush-dsb-ishst",)
    assert verify(System(pud, registry.get("static-key"), "arm64", without=left_out)).verdict == "safe"
    assert verify(System(pud, registry.get("none"), "arm64", without=left_out)).verdict == "bug"


def test_an_invalidation_that_no_rule_knows() -> None:
    def program(k: Kernel) -> Steps[None]:
        yield Tlbi("alle3", 0)

    machine, kernel = with_tlb()
    with pytest.raises(ValueError, match="alle3"):
        run(machine, program(kernel))
