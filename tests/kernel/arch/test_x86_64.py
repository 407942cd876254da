"""fuzzvm.kernel.arch.x86_64: support, flushes and the dump's text; the order of frees is in test_order.py."""

from __future__ import annotations

import pytest

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.errors import MAP_OVER_MAPPING
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PROT_DEVICE,
    Level,
    TableLabel,
    mk_leaf,
)
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import InterruptAll, Store, Tlbi
from tests.support import boot, operations, run

X86 = architectures.get("x86_64")
BASE = 0xFFFF_C900_0000_0000


def test_blocks_are_possible_at_pud_and_pmd() -> None:
    _, k = boot("x86_64")
    supported = [X86.arch_vmap_p4d_supported(k), X86.arch_vmap_pud_supported(k), X86.arch_vmap_pmd_supported(k)]
    assert supported == [False, True, True]
    assert X86.memory == "tso"


@pytest.mark.parametrize("levels", [4, 5])
def test_a_p4d_has_no_table_to_free(levels: int) -> None:
    machine, kernel = boot("x86_64", levels)
    assert machine.boot(X86.p4d_free_pud_page(kernel, kernel.init_mm.pgd, kernel.geometry.base)) is False


def test_where_vmalloc_begins() -> None:
    """__VMALLOC_BASE_L4 and _L5 (Documentation/arch/x86/x86_64/mm.rst)."""
    assert X86.vmalloc_start_of(4) == BASE == 0xFFFFC90000000000
    assert X86.vmalloc_start_of(5) == 0xFFA0000000000000


def test_five_levels_have_a_p4d_of_their_own() -> None:
    machine, kernel = boot("x86_64", 5, 2, cpus=1)
    base = kernel.geometry.base
    assert base == 0xFFA0000000000000
    assert not kernel.geometry.folded(Level.P4D)
    # as large as a P4D entry, which is no block all the same
    size = kernel.geometry.size(Level.P4D)
    machine.boot(vmap_range(kernel, base, base + size, 0, PAGE_KERNEL, kernel.geometry.shifts[Level.P4D]))
    levels = [mapping.level for mapping in Oracles(machine, kernel).mappings()]
    assert levels == [Level.PUD] * kernel.geometry.ptrs[Level.PUD]
    tables = [a.label.level for a in machine.allocator.allocations if isinstance(a.label, TableLabel)]
    assert tables == [Level.PGD, Level.P4D, Level.PUD]


def test_an_entry_is_set_by_a_store() -> None:
    machine, kernel = boot("x86_64", cpus=1, tracing=True)
    run(machine, X86.set_pxd(kernel, kernel.init_mm.pgd, mk_leaf(3, PAGE_KERNEL)))
    assert operations(machine) == [Store(kernel.init_mm.pgd, mk_leaf(3, PAGE_KERNEL))]


@pytest.mark.parametrize("pages", [1, 33, 34])
def test_flush_of_a_range(pages: int) -> None:
    """tlb_single_page_flush_ceiling is 33 pages."""
    machine, kernel = boot("x86_64", cpus=1, tracing=True)
    run(machine, X86.flush_tlb_kernel_range(kernel, BASE, BASE + (pages << 12)))
    by_page = [Tlbi("invlpg", BASE + (page << 12)) for page in range(pages)]
    assert operations(machine) == [*(by_page if pages <= 33 else [Tlbi("mov cr4", 0)]), InterruptAll()]


def test_a_pud_promotion_over_a_mapped_pmd_block() -> None:
    machine, kernel = boot("x86_64", 4, 2)
    machine.boot(vmap_range(kernel, BASE, BASE + 0x2000, 0, PAGE_KERNEL, 13))
    with pytest.raises(ModelError) as caught:
        machine.boot(vmap_range(kernel, BASE, BASE + 0x4000, 0, PAGE_KERNEL, 14))
    assert caught.value.error == MAP_OVER_MAPPING


def test_the_text_of_a_dump_is_the_kernels() -> None:
    """Columns as note_page() and printk_prot() print them (6.12)."""
    rows = [
        DumpRow(BASE, BASE + 0x1000, Level.PTE, mk_leaf(1, PAGE_KERNEL)),
        DumpRow(BASE + 0x1000, BASE + 0x3000, Level.PTE, mk_leaf(1, PAGE_KERNEL_EXEC)),
        DumpRow(BASE + 0x3000, BASE + 0x4000, Level.PTE, mk_leaf(1, PAGE_KERNEL | PROT_DEVICE)),
        DumpRow(BASE + 0x4000, BASE + 0x200000, Level.PTE, 0),
        DumpRow(BASE + 0x200000, BASE + 0x400000, Level.PMD, mk_leaf(512, PAGE_KERNEL_RO)),
        DumpRow(BASE + 0x40000000, BASE + 0x80000000, Level.PUD, mk_leaf(1 << 18, PAGE_KERNEL_ROX)),
        DumpRow(BASE + 0x8000000000, 1 << 64, Level.PGD, 0),
    ]
    assert X86.format_dump(rows) == (
        "---[ vmalloc() Area ]---\n"
        "0xffffc90000000000-0xffffc90000001000           4K     RW                 GLB NX pte\n"
        "0xffffc90000001000-0xffffc90000003000           8K     RW                 GLB x  pte\n"
        "0xffffc90000003000-0xffffc90000004000           4K     RW     PCD         GLB NX pte\n"
        "0xffffc90000004000-0xffffc90000200000        2032K                               pte\n"
        "0xffffc90000200000-0xffffc90000400000           2M     ro         PSE     GLB NX pmd\n"
        "0xffffc90040000000-0xffffc90080000000           1G     ro         PSE     GLB x  pud\n"
        "0xffffc98000000000-0x0000000000000000       55808G                               pgd\n"
        "---[ Vmemmap ]---\n"
    )
