"""fuzzvm.kernel.arch.arm64: support, flushes and the dump's text; the order of frees is in test_order.py."""

from __future__ import annotations

import re

import pytest

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PROT_DEVICE,
    Level,
    mk_leaf,
    mk_table,
)
from fuzzvm.machine.ops import Barrier, Fence, Store, Tlbi
from fuzzvm.mitigations.releases.linux_6_18 import Linux618
from fuzzvm.mitigations.releases.linux_7_3 import Linux73
from fuzzvm.mitigations.releases.release import Release
from tests.support import boot, operations, run

ARM64 = architectures.get("arm64")
BASE = 0xFFFF_8000_0000_0000
LINE = re.compile(r"0x[0-9a-f]{16}-0x[0-9a-f]{16}   [ 0-9]{8}[0-9][KMGTPE] (PGD|P4D|PUD|PMD|PTE)( .*\S)?")


def line(row: DumpRow) -> str:
    return ARM64.format_dump([row]).splitlines()[1]


def test_blocks_are_possible_at_pud_and_pmd() -> None:
    _, k = boot("arm64")
    supported = [ARM64.arch_vmap_p4d_supported(k), ARM64.arch_vmap_pud_supported(k), ARM64.arch_vmap_pmd_supported(k)]
    assert supported == [False, True, True]
    assert ARM64.memory == "arm64"


def test_a_p4d_has_no_table_to_free() -> None:
    machine, kernel = boot("arm64")
    assert machine.boot(ARM64.p4d_free_pud_page(kernel, kernel.init_mm.pgd, BASE)) is False


def test_freeing_what_is_no_table_is_harmless() -> None:
    """VM_WARN_ON(1) and return 1."""
    machine, kernel = boot("arm64", cpus=1, tracing=True)
    pgd = kernel.init_mm.pgd
    assert machine.boot(ARM64.pmd_free_pte_page(kernel, pgd, BASE)) is True
    assert machine.boot(ARM64.pud_free_pmd_page(kernel, pgd, BASE)) is True


@pytest.mark.parametrize("entry", [mk_leaf(3, PAGE_KERNEL), mk_table(1 << 20)])
def test_a_valid_entry_is_set_with_barriers(entry: int) -> None:
    machine, kernel = boot("arm64", cpus=1, tracing=True)
    machine.observer = None
    run(machine, ARM64.set_pxd(kernel, kernel.init_mm.pgd, entry))
    assert operations(machine) == [
        Store(kernel.init_mm.pgd, entry),
        Fence(Barrier.DSB_ISHST),
        Fence(Barrier.ISB),
    ]


@pytest.mark.parametrize(("pages", "flushes"), [(1, 1), (3, 3), (4, 4), (5, 0)])
def test_flush_of_a_range(pages: int, flushes: int) -> None:
    """MAX_DVM_OPS is PTRS_PER_PTE: past it everything is flushed at once."""
    machine, kernel = boot("arm64", 3, 4, cpus=1, tracing=True)
    start = BASE + (1 << 12)
    run(machine, ARM64.flush_tlb_kernel_range(kernel, start, start + (pages << 12)))
    by_page = [Tlbi("vaale1is", start + (page << 12)) for page in range(flushes)]
    assert operations(machine) == [
        Fence(Barrier.DSB_ISHST),
        *(by_page or [Tlbi("vmalle1is", 0)]),
        Fence(Barrier.DSB_ISH),
        Fence(Barrier.ISB),
    ]


@pytest.mark.parametrize("release", [Linux618, Linux73])
@pytest.mark.parametrize(("pages", "flushes"), [(3, 3), (4, 0), (5, 0)])
def test_since_6_18_everything_is_flushed_for_that_many_pages_already(
    release: type[Release], pages: int, flushes: int
) -> None:
    """__flush_tlb_range_limit_excess() in arch/arm64/include/asm/tlbflush.h: pages >= MAX_DVM_OPS."""
    machine, kernel = boot("arm64", 3, 4, cpus=1, tracing=True, mitigation=release.on("arm64"))
    run(machine, ARM64.flush_tlb_kernel_range(kernel, BASE, BASE + (pages << 12)))
    by_page = [Tlbi("vaale1is", BASE + (page << 12)) for page in range(flushes)]
    assert [op for op in operations(machine) if isinstance(op, Tlbi)] == (by_page or [Tlbi("vmalle1is", 0)])


def test_the_text_of_a_dump_is_the_kernels() -> None:
    """Columns as note_page() and dump_prot() print them, in the order of pte_bits (6.12)."""
    rows = [
        DumpRow(BASE, BASE + 0x1000, Level.PTE, mk_leaf(1, PAGE_KERNEL)),
        DumpRow(BASE + 0x1000, BASE + 0x200000, Level.PTE, 0),
        DumpRow(BASE + 0x200000, BASE + 0x400000, Level.PMD, mk_leaf(512, PAGE_KERNEL_RO)),
        DumpRow(BASE + 0x400000, BASE + 0x40000000, Level.PMD, 0),
        DumpRow(BASE + 0x40000000, BASE + 0x80000000, Level.PUD, mk_leaf(1 << 18, PAGE_KERNEL_ROX)),
        DumpRow(BASE + 0x80000000, BASE + 0x8000000000, Level.PUD, 0),
        DumpRow(BASE + 0x8000000000, 1 << 64, Level.PGD, 0),
    ]
    assert ARM64.format_dump(rows) == (
        "---[ vmalloc() area ]---\n"
        "0xffff800000000000-0xffff800000001000           4K PTE       RW NX SHD AF            UXN    MEM/NORMAL\n"
        "0xffff800000001000-0xffff800000200000        2044K PTE\n"
        "0xffff800000200000-0xffff800000400000           2M PMD       ro NX SHD AF        BLK UXN    MEM/NORMAL\n"
        "0xffff800000400000-0xffff800040000000        1020M PMD\n"
        "0xffff800040000000-0xffff800080000000           1G PUD       ro x  SHD AF        BLK UXN    MEM/NORMAL\n"
        "0xffff800080000000-0xffff808000000000         510G PUD\n"
        "0xffff808000000000-0x0000000000000000      130560G PGD\n"
        "---[ vmalloc() end ]---\n"
    )


def test_with_two_levels_a_block_is_noted_as_a_pmd_and_a_hole_as_the_roots() -> None:
    """ptdump_pmd_entry() sees the folded entry, pte_hole() is told real_depth(): what 6.12 prints with 64K pages."""
    block, hole = (line(DumpRow(BASE, BASE + (512 << 20), Level.PGD, entry)) for entry in (mk_leaf(1, PAGE_KERNEL), 0))
    assert " PMD " in block and "PGD" not in block
    assert hole.endswith("512M PGD")


@pytest.mark.parametrize("level", list(Level))
@pytest.mark.parametrize("prot", [PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL | PROT_DEVICE, None])
def test_lines_have_the_kernels_widths(level: Level, prot: int | None) -> None:
    """Every attribute is a blank and a column of its width; only the last is as long as its name."""
    entry = 0 if prot is None else mk_leaf(1, prot)
    text = line(DumpRow(BASE, BASE + 0x1000, level, entry))
    match = LINE.fullmatch(text)
    assert match is not None
    assert match[1] == ("PMD" if prot is not None and level is Level.PGD else level.name)
    if prot is None:
        assert match[2] is None
        return
    attributes = match[2]
    widths = [1, 3, 2, 2, 3, 2, 2, 3, 3, 3, 2]
    columns = []
    for width in widths:
        assert attributes[0] == " "
        columns.append(attributes[1 : 1 + width])
        attributes = attributes[1 + width :]
    assert columns[2] == ("RW" if prot & PAGE_KERNEL else "ro")
    assert columns[3] == ("x " if prot == PAGE_KERNEL_EXEC else "NX")
    assert columns[8] == ("   " if level is Level.PTE else "BLK")
    assert attributes == (" DEVICE/nGnRE" if prot & PROT_DEVICE else " MEM/NORMAL")
