"""fuzzvm.kernel.pagewalk: what a walk reads, in which order, and the gap between an entry and what it leads to."""

from __future__ import annotations

from fuzzvm.kernel.errors import WALK_WITHOUT_LOCK
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel
from fuzzvm.kernel.ptdump_notes import WalkBegins, WalkEnds
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Load, Steps, object_of, offset_of
from tests.support import boot, operations, run


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
