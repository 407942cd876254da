"""fuzzvm.kernel.pagewalk: what a walk reads, in which order, and the gap between an entry and what it leads to."""

from __future__ import annotations

from typing import Any

import pytest

from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.arch import DumpRow
from fuzzvm.kernel.errors import BAD_TABLE_POINTER, WALK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel, boot_kernel
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pagewalk_rereads import read_pmd, read_pud
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel, mk_leaf, pxd_pgtable
from fuzzvm.kernel.ptdump import ptdump_walk
from fuzzvm.kernel.ptdump_notes import WalkBegins, WalkEnds
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.errors import Failure
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.memory.sc import SequentialConsistency
from fuzzvm.machine.ops import Load, Steps, Store, object_of, offset_of
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.stacked import stack
from tests.support import boot, geometry_of, operations, run


def walk(k: Kernel) -> Steps[None]:
    yield from mmap_write_lock(k, k.init_mm)
    yield WalkBegins()
    yield from walk_page_range(k, k.init_mm, k.geometry.base, k.geometry.end)
    yield WalkEnds()
    yield from mmap_write_unlock(k, k.init_mm)


def reads(machine: Machine) -> list[tuple[str, int]]:
    """Return level and index of every entry that was read, in order."""
    found = []
    for op in operations(machine):
        if isinstance(op, Load):
            allocation = machine.allocator.lookup(op.address)
            assert allocation is not None
            assert isinstance(allocation.label, TableLabel)
            assert allocation.number == object_of(op.address)
            found.append((allocation.label.level.name, offset_of(op.address)))
    return found


def test_every_entry_is_read_once_from_the_root_down() -> None:
    machine, kernel = boot("arm64", 4, 2, cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x3000, 0, PAGE_KERNEL, 64))
    assert run(machine, walk(kernel)) is None
    assert reads(machine) == [
        ("PGD", 0),
        ("PUD", 0),
        ("PMD", 0),  # a block
        ("PMD", 1),
        ("PTE", 0),
        ("PTE", 1),
        ("PUD", 1),
        ("PGD", 1),
    ]


def test_a_folded_level_is_not_read() -> None:
    machine, kernel = boot("arm64", 3, 2, cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x1000, 0, PAGE_KERNEL, 12))
    assert run(machine, walk(kernel)) is None
    assert reads(machine) == [("PGD", 0), ("PMD", 0), ("PTE", 0), ("PTE", 1), ("PMD", 1), ("PGD", 1)]


def test_the_lock_must_be_held_for_writing() -> None:
    def for_reading(k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        yield from walk_page_range(k, k.init_mm, k.geometry.base, k.geometry.end)
        yield from mmap_read_unlock(k, k.init_mm)

    machine, kernel = boot("arm64", 3, 2, cpus=1)
    failure = run(machine, for_reading(kernel))
    assert failure is not None
    assert (failure.error, failure.function) == (WALK_WITHOUT_LOCK, "walk_page_range")


@pytest.mark.parametrize(
    ("assertion", "lock", "holds"),
    [
        ("write", mmap_write_lock, True),
        ("read", mmap_write_lock, True),
        ("none", mmap_write_lock, True),
        ("write", mmap_read_lock, False),
        ("read", mmap_read_lock, True),
        ("none", mmap_read_lock, True),
        ("write", None, False),
        ("read", None, False),
        ("none", None, True),
    ],
)
@pytest.mark.parametrize("stacked", [False, True])
def test_a_scheme_says_what_the_walk_asserts(assertion: str, lock: Any, holds: bool, stacked: bool) -> None:
    class Asserts(NoMitigation):
        name = "asserts"
        walk_assertion = assertion  # type: ignore[assignment]

    def walks(k: Kernel) -> Steps[None]:
        if lock is not None:
            yield from lock(k, k.init_mm)
        yield WalkBegins()
        yield from walk_page_range(k, k.init_mm, k.geometry.base, k.geometry.end)
        yield WalkEnds()
        if lock is not None:
            unlock = mmap_write_unlock if lock is mmap_write_lock else mmap_read_unlock
            yield from unlock(k, k.init_mm)

    scheme = stack([NoMitigation, Asserts, NoMitigation], "several") if stacked else Asserts
    machine, kernel = boot("arm64", 3, 2, scheme, cpus=1)
    failure = run(machine, walks(kernel))
    if holds:
        assert failure is None
    else:
        assert failure is not None
        assert (failure.error, failure.function) == (WALK_WITHOUT_LOCK, "walk_page_range")


def test_levels_of_what_is_noted() -> None:
    machine, kernel = boot("arm64", 4, 2)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x7000, 0, PAGE_KERNEL, 64))

    def dump(k: Kernel) -> Steps[list[Level]]:
        yield from mmap_write_lock(k, k.init_mm)
        yield WalkBegins()
        rows = yield from walk_page_range(k, k.init_mm, base, k.geometry.end)
        yield WalkEnds()
        yield from mmap_write_unlock(k, k.init_mm)
        return [row.level for row in rows]

    assert machine.boot(dump(kernel)) == [Level.PUD, Level.PMD, Level.PTE, Level.PTE, Level.PGD]


# Every read that the kernel makes


def boot_rereading(*, tracing: bool = False) -> tuple[Machine, Kernel]:
    machine = Machine(SequentialConsistency(2), tracing=tracing)
    geometry = geometry_of("arm64", 4, 2)
    kernel = boot_kernel(machine, architectures.get("arm64"), geometry, NoMitigation(), walk_rereads=True)
    machine.observer = Oracles(machine, kernel)
    return machine, kernel


def test_upper_entries_are_read_as_often_as_the_kernel_reads_them() -> None:
    """mm/pagewalk.c and mm/ptdump.c: a hole once, a block twice, a PUD to a table five times, a PMD to one four."""
    machine, kernel = boot_rereading(tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x3000, 0, PAGE_KERNEL, 13))
    assert run(machine, walk(kernel)) is None
    assert reads(machine) == [
        ("PGD", 0),
        *[("PUD", 0)] * 5,
        *[("PMD", 0)] * 2,
        *[("PMD", 1)] * 4,
        ("PTE", 0),
        ("PTE", 1),
        ("PUD", 1),
        ("PGD", 1),
    ]


@pytest.mark.parametrize("shift", [12, 13, 14])
def test_rows_are_the_same_where_nobody_changes_anything(shift: int) -> None:
    texts = []
    for rereads in (False, True):
        machine, kernel = boot_rereading() if rereads else boot("arm64", 4, 2)
        base = kernel.geometry.base
        machine.boot(vmap_range(kernel, base, base + 0x7000, 0, PAGE_KERNEL, shift))
        texts.append(machine.boot(ptdump_walk(kernel, kernel.init_mm)))
    assert texts[0] == texts[1]


Found = tuple[tuple[DumpRow, ...], int]


def read_beside(level: Level, steps: int, entry: int) -> tuple[Failure | None, Found | None]:
    """Read an entry that leads to a table; another CPU replaces it after that many of the reads."""
    machine, kernel = boot_rereading()
    base, geometry = kernel.geometry.base, kernel.geometry
    machine.boot(vmap_range(kernel, base, base + 0x1000, 0, PAGE_KERNEL, 12))
    pudp = next(a.address for a in machine.allocator.allocations if a.label == TableLabel(Level.PUD, base))
    pud = machine.memory.peek(pudp)
    assert isinstance(pud, int)
    entryp = pudp if level == Level.PUD else pxd_pgtable(pud)
    found: list[Found] = []

    def reader(k: Kernel) -> Steps[None]:
        yield from mmap_write_lock(k, k.init_mm)
        yield WalkBegins()
        read = read_pud if level == Level.PUD else read_pmd
        rows = (DumpRow(base - 0x1000, base, level, 0),)
        found.append((yield from read(k, entryp, base, base + geometry.size(level), rows)))
        yield WalkEnds()
        yield from mmap_write_unlock(k, k.init_mm)

    def writer() -> Steps[None]:
        yield Store(entryp, entry)

    failure = run(machine, reader(kernel), writer(), agents=[0] * (1 + steps) + [1])
    return failure, found[0] if found else None


@pytest.mark.parametrize(("level", "reads_of_a_table"), [(Level.PUD, 5), (Level.PMD, 4)])
@pytest.mark.parametrize("entry", [0, mk_leaf(0, PAGE_KERNEL)], ids=["cleared", "made a block"])
def test_an_entry_that_changes_between_two_reads(level: Level, reads_of_a_table: int, entry: int) -> None:
    """Seen before the last read, it is a hole, a block or nothing; seen at the last read, it is read through."""
    noted = []
    for steps in range(reads_of_a_table):
        failure, found = read_beside(level, steps, entry)
        if failure is not None and failure.error == BAD_TABLE_POINTER:
            assert steps == reads_of_a_table - 1
            assert failure.function == ("pmd_offset" if level == Level.PUD else "pte_offset_kernel")
            return
        assert found is not None
        rows, table = found
        assert table == 0
        noted.append(rows[-1].entry)
        assert rows[-1].end > kernel_base()
    pytest.fail(f"never read through: {noted}")


def kernel_base() -> int:
    return architectures.get("arm64").vmalloc_start
