"""fuzzvm.kernel.oracles and errors: every error is found where it is made, and only there.

Each case has a program that does wrong in one way, and its twin that does not: a check that cannot fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from fuzzvm.kernel.errors import (
    BAD_TABLE_POINTER,
    BROKEN_INSTRUCTION,
    DESCRIPTIONS,
    FREE_OF_LINKED_TABLE,
    HARDWARE_WALK_OF_FREED_TABLE,
    INVALID_WAIT_CONTEXT,
    INVENTED_MAPPING,
    IOMMU_WALK_OF_FREED_TABLE,
    IRQ_UNSAFE_LOCK,
    LEAKED_TABLE,
    LOCK_NOT_RELEASED,
    LOCK_ORDER,
    MAP_OVER_MAPPING,
    MISSING_DESTRUCTOR,
    PARTIAL_UNMAP,
    SLEEP_IN_ATOMIC,
    STALE_TRANSLATION,
    TLB_CONFLICT,
    UNBALANCED_STATIC_KEY,
    UNLOCK_WITHOUT_LOCK,
    WALK_WITHOUT_LOCK,
    WX_MISSED,
)
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.jump_label import NOP, StaticKey, static_branch_dec, static_branch_inc, static_branch_unlikely
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.locking.exclusive import mutex_lock, mutex_unlock, spin_lock, spin_unlock
from fuzzvm.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pagewalk import walk_page_range
from fuzzvm.kernel.pagewalk_rereads import read_pmd
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, Level, TableLabel, mk_leaf, mk_table, pxd_pgtable
from fuzzvm.kernel.ptdump import ptdump_check_wx, ptdump_walk
from fuzzvm.kernel.ptdump_notes import MappingNoted, WalkBegins, WalkEnds
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.errors import (
    DEADLOCK,
    DOUBLE_FREE,
    NO_PROGRESS,
    REUSED_OBJECT,
    USE_AFTER_FREE_READ,
    USE_AFTER_FREE_WRITE,
    Failure,
)
from fuzzvm.machine.ops import Address, Alloc, Free, Load, Rmw, Steps, Store
from fuzzvm.mitigations.none import NoMitigation
from tests.support import boot, geometry_of, run

Program = Callable[[Kernel], Steps[Any]]
PAGE = 4096
PTE_LABEL = TableLabel(Level.PTE, 0xFFFF_8000_0000_0000)


@dataclass(frozen=True)
class Case:
    """An error and programs that make it, one a CPU; `agents` are the first steps of the schedule.

    `right` are the programs that do the same without the error. `setup` runs before, on a kernel with the mitigation.
    """

    error: str
    name: str
    wrong: list[Program]
    right: list[Program]
    message: str = ""
    agents: list[int] = field(default_factory=list)
    setup: Program | None = None
    mitigation: type[Mitigation] = NoMitigation
    right_mitigation: type[Mitigation] = NoMitigation
    cont_ptes: int = 1


def sequence(*steps: Program) -> Program:
    """Return the program that runs programs one after the other."""

    def program(k: Kernel) -> Steps[None]:
        for step in steps:
            yield from step(k)

    return program


def page(k: Kernel, number: int) -> int:
    return k.geometry.base + number * PAGE


def map_pages(first: int, count: int, shift: int = 12, prot: int = PAGE_KERNEL) -> Program:
    return lambda k: vmap_range(k, page(k, first), page(k, first + count), first * PAGE, prot, shift)


def unmap_pages(first: int, count: int) -> Program:
    return lambda k: vunmap_range(k, page(k, first), page(k, first + count))


def sem(take: Callable[..., Steps[None]], name: str = "mmap_lock") -> Program:
    return lambda k: take(k.cpu, k.mem_hotplug_lock if name == "mem_hotplug_lock" else k.init_mm.mmap_lock)


def lock(take: Callable[..., Steps[None]], name: str) -> Program:
    return lambda k: take(k.cpu, getattr(k, name))


# Stale pointers


def stale(*, reuse: bool, access: str, alive: bool) -> Program:
    """Allocate a table and free it; access it while it is alive, or after its end (and its frame's next beginning)."""

    def act(table: Address) -> Steps[None]:
        if access == "read":
            yield Load(table)
        elif access == "write":
            yield Store(table, 0)
        elif access == "rmw":
            yield Rmw(table, lambda old: old)
        else:
            yield Free(table)

    def program(k: Kernel) -> Steps[None]:
        table = yield Alloc(2, PTE_LABEL)
        if alive and access == "free":
            yield from act(table)
            return
        if alive:
            yield from act(table)
        yield Free(table)
        owner = None
        if reuse:
            owner = yield Alloc(2, TableLabel(Level.PMD, PTE_LABEL.va))
            assert owner is not None
        if not alive:
            yield from act(table)
        if owner is not None:
            yield Free(owner)

    return program


def stale_case(error: str, access: str, *, reuse: bool = False) -> Case:
    wrong, right = (stale(reuse=reuse, access=access, alive=alive) for alive in (False, True))
    return Case(error, f"{access}{' of a reused page' if reuse else ''}", [wrong], [right])


# Tables


def free_pte_table(*, clear: bool) -> Program:
    """Free the PTE table of page 0, with or without clearing the PMD that points to it."""

    def program(k: Kernel) -> Steps[None]:
        pud = yield Load(k.init_mm.pgd)
        pmdp = pxd_pgtable(pud)
        pmd = yield Load(pmdp)
        if clear:
            yield Store(pmdp, 0)
        yield Free(pxd_pgtable(pmd))

    return program


class NeverFrees(NoMitigation):
    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from ()


# Locks


class DropsTheLock(NoMitigation):
    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from mmap_write_unlock(k, mm)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        yield from mmap_write_lock(k, mm)


class KeepsTheReadLock(NoMitigation):
    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)


class Key(NoMitigation):
    key: StaticKey

    def attach(self, boot: Boot) -> None:
        self.key = boot.static_key("key", ("site",))


def put_block_over_table(pfn: int, prot: int) -> Program:
    def program(k: Kernel) -> Steps[None]:
        pgd = yield Load(k.init_mm.pgd)
        pmd = yield Load(pxd_pgtable(pgd))
        yield Store(pxd_pgtable(pgd), mk_leaf(pfn, prot))
        yield Free(pxd_pgtable(pmd))

    return program


def reads_pmd(k: Kernel) -> Steps[None]:
    pgd = yield Load(k.init_mm.pgd)
    yield from read_pmd(k, pxd_pgtable(pgd), page(k, 0), page(k, 1), ())


def unlink(k: Kernel) -> Steps[None]:
    pgd = yield Load(k.init_mm.pgd)
    pmd = yield Load(pxd_pgtable(pgd))
    yield Store(pxd_pgtable(pgd), 0)
    yield Store(pxd_pgtable(pgd), pmd)


def patched_with(instruction: int) -> Program:
    def program(k: Kernel) -> Steps[None]:
        (key,) = k.static_keys
        function, site = key.sites[0]
        yield Store(site, instruction)
        yield from static_branch_unlikely(k, key, function)

    return program


def inc(k: Kernel) -> Steps[None]:
    yield from static_branch_inc(k, k.static_keys[0])


def dec(k: Kernel) -> Steps[None]:
    yield from static_branch_dec(k, k.static_keys[0])


# Walks


def walk(first: int, last: int, before_reading: Program | None = None) -> Program:
    """Walk from one page to another, saying that this is all of a walk."""

    def program(k: Kernel) -> Steps[None]:
        yield from mmap_write_lock(k, k.init_mm)
        yield WalkBegins()
        if before_reading is not None:
            yield from before_reading(k)
        yield from walk_page_range(k, k.init_mm, page(k, first), page(k, last))
        yield WalkEnds()
        yield from mmap_write_unlock(k, k.init_mm)

    return program


def note(level: Level, number: int, entry: int, before_noting: Program | None = None) -> Program:
    """Say that a walk found an entry for a page."""

    def program(k: Kernel) -> Steps[None]:
        yield WalkBegins()
        if before_noting is not None:
            yield from before_noting(k)
        yield Load(k.init_mm.pgd)
        yield MappingNoted(level, page(k, number), entry)
        yield WalkEnds()

    return program


RWX = map_pages(2, 1, prot=PAGE_KERNEL_EXEC)
MAPPED = mk_leaf(0, PAGE_KERNEL)

CASES = [
    stale_case(USE_AFTER_FREE_READ, "read"),
    stale_case(USE_AFTER_FREE_WRITE, "write"),
    stale_case(USE_AFTER_FREE_WRITE, "rmw"),
    stale_case(REUSED_OBJECT, "read", reuse=True),
    stale_case(REUSED_OBJECT, "write", reuse=True),
    stale_case(DOUBLE_FREE, "free"),
    stale_case(DOUBLE_FREE, "free", reuse=True),
    Case(
        FREE_OF_LINKED_TABLE,
        "entry not cleared",
        [free_pte_table(clear=False)],
        [free_pte_table(clear=True)],
        "the PTE table of 0xffff800000000000 is freed while an entry points to it",
        setup=sequence(map_pages(0, 1), unmap_pages(0, 1)),
    ),
    Case(
        LEAKED_TABLE,
        "never freed",
        [map_pages(0, 2, 13)],
        [map_pages(0, 2, 13)],
        "the PTE table of 0xffff800000000000 is allocated and no entry leads to it",
        setup=sequence(map_pages(0, 1), unmap_pages(0, 1)),
        mitigation=NeverFrees,
    ),
    Case(
        DEADLOCK,
        "opposite orders",
        [
            sequence(sem(down_write), sem(down_write, "mem_hotplug_lock")),
            sequence(sem(down_write, "mem_hotplug_lock"), sem(down_write)),
        ],
        [
            sequence(
                sem(down_write), sem(down_write, "mem_hotplug_lock"), sem(up_write, "mem_hotplug_lock"), sem(up_write)
            )
        ]
        * 2,
        "CPU 0 in down_write waits for CPU 1, CPU 1 in down_write waits for CPU 0",
        agents=[0, 1],
    ),
    Case(
        DEADLOCK,
        "nested read behind a writer",
        [
            sequence(sem(down_read), sem(down_read), sem(up_read), sem(up_read)),
            sequence(sem(down_write), sem(up_write)),
        ],
        [sequence(sem(down_read), sem(up_read)), sequence(sem(down_write), sem(up_write))],
        "CPU 0 in down_read waits for CPU 1, CPU 1 in down_write waits for CPU 0",
        agents=[0, 1],
    ),
    Case(
        NO_PROGRESS,
        "the owner has returned",
        [lock(mutex_lock, "jump_label_mutex"), lock(mutex_lock, "jump_label_mutex")],
        [sequence(lock(mutex_lock, "jump_label_mutex"), lock(mutex_unlock, "jump_label_mutex"))] * 2,
    ),
    Case(UNLOCK_WITHOUT_LOCK, "up_read", [sem(up_read)], [sequence(sem(down_read), sem(up_read))]),
    Case(UNLOCK_WITHOUT_LOCK, "up_write", [sem(up_write)], [sequence(sem(down_write), sem(up_write))]),
    Case(
        UNLOCK_WITHOUT_LOCK,
        "spin_unlock",
        [lock(spin_unlock, "page_table_lock")],
        [sequence(lock(spin_lock, "page_table_lock"), lock(spin_unlock, "page_table_lock"))],
    ),
    *[
        Case(
            LOCK_NOT_RELEASED,
            name,
            [sem(down_read, name)],
            [sequence(sem(down_read, name), sem(up_read, name))],
            f"{'init_mm.' * (name == 'mmap_lock')}{name} is still held",
        )
        for name in ("mmap_lock", "mem_hotplug_lock")
    ],
    *[
        Case(
            LOCK_NOT_RELEASED,
            name,
            [lock(mutex_lock, name)],
            [sequence(lock(mutex_lock, name), lock(mutex_unlock, name))],
            f"{'init_mm.' * (name == 'page_table_lock')}{name} is still held",
        )
        for name in ("page_table_lock", "jump_label_mutex", "vmap_purge_lock")
    ],
    Case(
        LOCK_NOT_RELEASED,
        "by a mitigation",
        [map_pages(0, 2, 13)],
        [map_pages(0, 2, 13)],
        setup=sequence(map_pages(0, 1), unmap_pages(0, 1)),
        mitigation=KeepsTheReadLock,
    ),
    Case(
        WALK_WITHOUT_LOCK,
        "dropped by a mitigation",
        [ptdump_check_wx],
        [ptdump_check_wx],
        "CPU 0 walks page tables without init_mm.mmap_lock held for writing",
        mitigation=DropsTheLock,
    ),
    Case(
        WALK_WITHOUT_LOCK,
        "held by another CPU",
        [sem(down_write), lambda k: walk_page_range(k, k.init_mm, page(k, 0), page(k, 1))],
        [sequence(sem(down_write), sem(up_write)), walk(0, 1)],
        "CPU 1 walks page tables without init_mm.mmap_lock held for writing",
    ),
    Case(UNBALANCED_STATIC_KEY, "off too often", [dec], [sequence(inc, dec)], mitigation=Key, right_mitigation=Key),
    Case(
        UNBALANCED_STATIC_KEY,
        "left on",
        [inc],
        [sequence(inc, dec)],
        "key is left at 1",
        mitigation=Key,
        right_mitigation=Key,
    ),
    Case(
        WX_MISSED,
        "walk of too little",
        [walk(0, 2)],
        [walk(0, 4)],
        "W+X mapping at 0xffff800000002000 was there all along and was not reported",
        setup=RWX,
    ),
    Case(
        INVENTED_MAPPING,
        "never there",
        [note(Level.PTE, 0, mk_leaf(9, PAGE_KERNEL))],
        [note(Level.PTE, 0, MAPPED)],
        "PTE mapping of 0xffff800000000000 was there at no time during the walk",
        setup=map_pages(0, 1),
    ),
    Case(
        INVENTED_MAPPING,
        "at another level",
        [note(Level.PMD, 0, MAPPED)],
        [note(Level.PTE, 0, MAPPED)],
        setup=map_pages(0, 1),
    ),
    Case(
        INVENTED_MAPPING,
        "no mapping at all",
        [note(Level.PTE, 0, mk_table(1 << 20))],
        [note(Level.PTE, 0, MAPPED)],
        setup=map_pages(0, 1),
    ),
    Case(
        INVENTED_MAPPING,
        "unmapped before the walk, and not during it",
        [sequence(unmap_pages(0, 1), note(Level.PTE, 0, MAPPED))],
        [note(Level.PTE, 0, MAPPED, unmap_pages(0, 1))],
        setup=map_pages(0, 1),
    ),
    Case(
        MAP_OVER_MAPPING,
        "a page",
        [map_pages(0, 1)],
        [sequence(unmap_pages(0, 1), map_pages(0, 1))],
        "0xffff800000000000 is mapped already",
        setup=map_pages(0, 1),
    ),
    Case(
        MAP_OVER_MAPPING,
        "a block in the place of pages that are protected otherwise",
        [put_block_over_table(0, PAGE_KERNEL_EXEC)],
        [put_block_over_table(0, PAGE_KERNEL)],
        "is freed while 0xffff800000000000 is mapped through it",
        setup=map_pages(0, 2),
    ),
    Case(
        MAP_OVER_MAPPING,
        "a block in the place of pages of other memory",
        [put_block_over_table(2, PAGE_KERNEL)],
        [put_block_over_table(0, PAGE_KERNEL)],
        "is freed while 0xffff800000000000 is mapped through it",
        setup=map_pages(0, 2),
    ),
    Case(
        BAD_TABLE_POINTER,
        "an entry cleared between two reads of it",
        [reads_pmd, unlink],
        [reads_pmd, unlink],
        "the entry of 0xffff800000000000 is none by now and is read through",
        agents=[0, 0, 0, 0, 1, 1, 1, 0],
        setup=map_pages(0, 1),
    ),
    Case(
        BROKEN_INSTRUCTION,
        "an instruction that patching never leaves",
        [patched_with(0xCC)],
        [patched_with(NOP)],
        "has fetched 0xcc",
        mitigation=Key,
        right_mitigation=Key,
    ),
    Case(
        MAP_OVER_MAPPING,
        "a page in a block",
        [map_pages(1, 1)],
        [sequence(unmap_pages(0, 2), map_pages(1, 1))],
        "0xffff800000001000 lies in a block that is mapped",
        setup=map_pages(0, 2, 13),
    ),
    Case(
        MAP_OVER_MAPPING,
        "a block over a block",
        [map_pages(0, 2, 13)],
        [sequence(unmap_pages(0, 2), map_pages(0, 2, 13))],
        "0xffff800000000000 is mapped by a block already",
        setup=map_pages(0, 2, 13),
    ),
    Case(
        MAP_OVER_MAPPING,
        "a block over pages",
        [map_pages(0, 2, 13)],
        [sequence(unmap_pages(0, 2), map_pages(0, 2, 13))],
        setup=map_pages(0, 2),
    ),
    *[
        Case(
            PARTIAL_UNMAP,
            name,
            [unmap_pages(first, 1)],
            [unmap_pages(0, 2)],
            message,
            setup=map_pages(0, 2, 13),
            cont_ptes=2,
        )
        for name, first, message in (
            ("the end of a block is left", 0, "the contiguous block of 0xffff800000000000 ends after"),
            ("the beginning of a block is left", 1, "0xffff800000001000 is inside a contiguous block"),
        )
    ],
]


def outcome(case: Case, *, right: bool) -> Failure | None:
    programs = case.right if right else case.wrong
    mitigation = case.right_mitigation if right else case.mitigation
    # a fan-out of 4 where there are contiguous blocks, so that two pages are a block of PTEs and not a PMD block
    geometry = geometry_of("arm64", 3, 2 * case.cont_ptes, cont_ptes=case.cont_ptes)
    machine, kernel = boot(mitigation=mitigation, cpus=len(programs), geometry=geometry)
    if case.setup is not None:
        machine.boot(case.setup(kernel))
    agents = case.agents if not right else case.agents[:1]
    return run(machine, *[program(kernel.on(cpu)) for cpu, program in enumerate(programs)], agents=agents)


@pytest.mark.parametrize("case", CASES, ids=[f"{case.error}: {case.name}" for case in CASES])
def test_an_error_is_found_and_its_twin_is_clean(case: Case) -> None:
    failure = outcome(case, right=False)
    assert failure is not None
    assert failure.error == case.error
    assert case.message in failure.message
    assert "\n" not in failure.message
    assert outcome(case, right=True) is None


OF_HARDWARE = {HARDWARE_WALK_OF_FREED_TABLE, TLB_CONFLICT, STALE_TRANSLATION}
"""The errors that are found where TLBs are watched: tests/kernel/test_tlb.py has a case of each."""

OF_CONTEXT = {SLEEP_IN_ATOMIC, INVALID_WAIT_CONTEXT, LOCK_ORDER, IRQ_UNSAFE_LOCK}
"""The errors that programs find of themselves: test_contexts.py and test_interrupted.py have a case of each."""

OF_FREERS = {MISSING_DESTRUCTOR, IOMMU_WALK_OF_FREED_TABLE}
"""tests/kernel/test_memory_hotplug.py and test_iommu_sva.py have a case of each."""


def test_every_error_has_a_case() -> None:
    assert {case.error for case in CASES} | OF_HARDWARE | OF_CONTEXT | OF_FREERS == set(DESCRIPTIONS)


def test_descriptions_are_one_line_each_under_kebab_case_ids() -> None:
    for error, description in DESCRIPTIONS.items():
        assert error == error.lower()
        assert set(error) <= set("abcdefghijklmnopqrstuvwxyz-")
        assert description
        assert "\n" not in description


# What a walk may miss, and what it may not


def test_what_is_unmapped_during_a_walk_may_be_missed() -> None:
    machine, kernel = boot("arm64", 3, 2, cpus=1)
    machine.boot(RWX(kernel))
    assert run(machine, walk(0, 1, unmap_pages(2, 1))(kernel)) is None


def test_what_is_mapped_during_a_walk_may_be_missed() -> None:
    machine, kernel = boot("arm64", 3, 2, cpus=1)
    assert run(machine, walk(0, 1, RWX)(kernel)) is None


def test_a_block_that_replaces_a_table_takes_the_tables_mappings_away() -> None:
    """A W+X page under a table that is cleared is no longer there; a walk under way is not blamed for missing it."""
    machine, kernel = boot("arm64", 3, 2, cpus=1)
    machine.boot(RWX(kernel))

    def clear(k: Kernel) -> Steps[None]:
        yield Store(k.init_mm.pgd, 0)

    def restore(k: Kernel) -> Steps[None]:
        pgd = yield Load(k.init_mm.pgd)
        assert pgd == 0

    assert machine.boot(sequence(walk(0, 1, sequence(clear, restore)))(kernel)) is None


def test_two_walks_at_a_time_are_told_apart() -> None:
    """The walk that reports the mapping does not cover for the one that does not."""

    def unlocked(noting: bool) -> Program:
        def program(k: Kernel) -> Steps[None]:
            yield Load(k.init_mm.pgd)
            yield WalkBegins()
            yield Load(k.init_mm.pgd)
            if noting:
                yield MappingNoted(Level.PTE, page(k, 2), mk_leaf(2, PAGE_KERNEL_EXEC))
            yield WalkEnds()

        return program

    for noting in ([True, True], [True, False], [False, True]):
        machine, kernel = boot("arm64", 3, 2, cpus=2)
        machine.boot(RWX(kernel))
        programs = [unlocked(says)(kernel.on(cpu)) for cpu, says in enumerate(noting)]
        failure = run(machine, *programs, agents=[0, 1, 0, 1])
        if all(noting):
            assert failure is None
        else:
            assert failure is not None
            assert (failure.error, failure.cpu) == (WX_MISSED, noting.index(False))


def test_what_an_attempt_that_was_dropped_noted_is_not_reported() -> None:
    def walk(k: Kernel, noted_last: bool) -> Steps[None]:
        noted = MappingNoted(Level.PTE, k.geometry.base, mk_leaf(0, PAGE_KERNEL_EXEC))
        yield WalkBegins()
        yield noted
        yield WalkBegins()
        if noted_last:
            yield noted
        yield WalkEnds()

    for noted_last in (True, False):
        machine, kernel = boot("arm64", 3, 2, cpus=1)
        base = kernel.geometry.base
        machine.boot(vmap_range(kernel, base, base + 0x1000, 0, PAGE_KERNEL_EXEC, 12))
        failure = run(machine, walk(kernel, noted_last))
        assert (failure and failure.error) == (None if noted_last else WX_MISSED)


def test_a_semaphore_of_a_mitigation_is_released_as_well() -> None:
    class Keeps(Mitigation):
        def attach(self, boot: Boot) -> None:
            self.sem = boot.rwsem("its_own")

        def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
            yield from down_read(k.cpu, self.sem)

    machine, kernel = boot("arm64", 3, 2, Keeps, cpus=1)
    failure = run(machine, ptdump_walk(kernel, kernel.init_mm))
    assert failure is not None
    assert (failure.error, failure.message) == (LOCK_NOT_RELEASED, "its_own is still held")


def test_locks_of_a_kernel_with_a_failed_walk_are_not_blamed() -> None:
    """The first error ends the run: what it leaves behind is not reported on top."""
    machine, kernel = boot("arm64", 3, 2, Key, cpus=1)
    failure = run(machine, sequence(inc, sem(down_read), lock(spin_lock, "page_table_lock"), sem(up_write))(kernel))
    assert failure is not None
    assert failure.error == UNLOCK_WITHOUT_LOCK
    machine, kernel = boot("arm64", 3, 2, cpus=1)
    assert run(machine, sequence(mmap_read_lock_twice, sem(up_read), sem(up_read))(kernel)) is None


def mmap_read_lock_twice(k: Kernel) -> Steps[None]:
    yield from mmap_read_lock(k, k.init_mm)
    yield from mmap_read_lock(k, k.init_mm)
    yield from mmap_read_unlock(k, k.init_mm)
    yield from mmap_read_lock(k, k.init_mm)
