"""fuzzvm.kernel.pgtable: entries and geometry."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel import pgtable
from fuzzvm.kernel.pgtable import (
    PAGE_KERNEL,
    PAGE_KERNEL_EXEC,
    PAGE_KERNEL_RO,
    PAGE_KERNEL_ROX,
    PROT_DEVICE,
    Geometry,
    Level,
    StaticLabel,
    TableLabel,
    mk_leaf,
    mk_table,
    pgprot_wx,
    pxd_leaf,
    pxd_none,
    pxd_pfn,
    pxd_pgprot,
    pxd_pgtable,
    pxd_table,
)
from fuzzvm.machine.ops import address_of
from tests.support import geometry_of

PROTS = [PAGE_KERNEL, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, PAGE_KERNEL_EXEC, PAGE_KERNEL | PROT_DEVICE]
SHAPES = st.tuples(st.sampled_from([("arm64", 3), ("arm64", 4), ("x86_64", 4)]), st.integers(1, 9)).map(
    lambda shape: geometry_of(*shape[0], 1 << shape[1])
)


@given(st.integers(0, 1 << 40), st.sampled_from(PROTS))
def test_a_leaf_holds_frame_and_protection(pfn: int, prot: int) -> None:
    entry = mk_leaf(pfn, prot)
    assert pxd_leaf(entry)
    assert not pxd_table(entry)
    assert not pxd_none(entry)
    assert (pxd_pfn(entry), pxd_pgprot(entry)) == (pfn, prot)


@given(st.integers(0, 1 << 30))
def test_a_table_entry_holds_the_table(number: int) -> None:
    entry = mk_table(address_of(number))
    assert pxd_table(entry)
    assert not pxd_leaf(entry)
    assert not pxd_none(entry)
    assert pxd_pgtable(entry) == address_of(number)


def test_none_is_nothing_else() -> None:
    assert pxd_none(0)
    assert not pxd_table(0)
    assert not pxd_leaf(0)


def test_only_writable_and_executable_is_wx() -> None:
    assert [pgprot_wx(prot) for prot in PROTS] == [False, False, False, True, False]


@given(SHAPES)
def test_levels_nest(geometry: Geometry) -> None:
    real = [level for level in Level if not geometry.folded(level)]
    for upper, lower in itertools.pairwise(real):
        assert geometry.size(upper) == geometry.size(lower) * geometry.ptrs[lower]
    assert geometry.size(Level.PTE) == 1 << geometry.page_shift == 4096
    for level in Level:
        if geometry.folded(level):
            assert geometry.size(level) == geometry.size(level - 1)
            assert geometry.index(level, geometry.base) == 0


@given(SHAPES, st.data())
def test_an_address_is_the_sum_of_its_indices(geometry: Geometry, data: st.DataObject) -> None:
    addr = data.draw(st.integers(geometry.base, geometry.end - 1))
    start = geometry.table_start(Level.PGD, addr)
    assert start == geometry.table_start(Level.PGD, geometry.base), "the root is one table"
    rest = addr - start
    for level in Level:
        if not geometry.folded(level):
            assert rest // geometry.size(level) == geometry.index(level, addr)
            rest %= geometry.size(level)
            assert geometry.table_start(level, addr) == addr - geometry.index(level, addr) * geometry.size(level) - rest
    assert rest == addr % geometry.size(Level.PTE)


@given(SHAPES, st.sampled_from(Level), st.data())
def test_addr_end_is_the_next_boundary_or_the_end(geometry: Geometry, level: Level, data: st.DataObject) -> None:
    addr = data.draw(st.integers(geometry.base, geometry.end - 1))
    end = data.draw(st.integers(addr + 1, geometry.end))
    following = geometry.addr_end(level, addr, end)
    assert addr < following <= end
    assert following == end or geometry.aligned(level, following)
    assert following - addr <= geometry.size(level)


@pytest.mark.parametrize(
    ("arch", "levels", "folded", "shifts"),
    [
        ("arm64", 4, [Level.P4D], (39, 39, 30, 21, 12)),
        ("arm64", 3, [Level.P4D, Level.PUD], (30, 30, 30, 21, 12)),
        ("x86_64", 4, [Level.P4D], (39, 39, 30, 21, 12)),
    ],
)
def test_the_real_fan_out_is_the_architectures_own(
    arch: str, levels: int, folded: list[Level], shifts: tuple[int, ...]
) -> None:
    geometry = geometry_of(arch, levels, 512)
    assert [level for level in Level if geometry.folded(level)] == folded
    assert geometry.shifts == shifts
    assert geometry.end <= 1 << 64


def test_the_real_roots_of_kernel_space() -> None:
    """PAGE_OFFSET's half begins at entry 256 on arm64 with 48 bits; x86_64's vmalloc_base is in entry 402."""
    assert geometry_of("arm64", 4, 512).index(Level.PGD, 0xFFFF_8000_0000_0000) == 256
    assert geometry_of("x86_64", 4, 512).index(Level.PGD, 0xFFFF_C900_0000_0000) == 402


def test_five_levels_fold_nothing() -> None:
    geometry = Geometry.make(12, 5, 2, 1 << 40)
    assert [geometry.folded(level) for level in Level] == [False] * 5
    assert geometry.shifts == (16, 15, 14, 13, 12)


def test_labels_read_like_the_kernel() -> None:
    assert str(TableLabel(Level.PTE, 0xFFFF800000000000)) == "the PTE table of 0xffff800000000000"
    assert str(StaticLabel("init_mm.mmap_lock")) == "init_mm.mmap_lock"
    assert [level.name for level in Level] == ["PGD", "P4D", "PUD", "PMD", "PTE"]
    assert pgtable.Level(3) is Level.PMD
