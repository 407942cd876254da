"""The mitigations that ship: each verdict that one claims, in the scenarios that ship.

A claimed bug is found by a search that is exhaustive within two pre-emptions; a claimed safety is searched at random,
and in every schedule of one pre-emption.
"""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.errors import LEAKED_TABLE
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.locking.rcu import synchronize_rcu
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.errors import DOUBLE_FREE, REUSED_OBJECT, USE_AFTER_FREE_READ
from fuzzvm.machine.execution import execute
from fuzzvm.machine.ops import Address, Free, Rmw, Steps, Store
from fuzzvm.mitigations.config_off import ConfigOff
from fuzzvm.mitigations.deferred_free import DeferredFree
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.ptdump_locks_init_mm import PtdumpLocksInitMm
from fuzzvm.mitigations.rcu_free import RcuFree
from fuzzvm.mitigations.registry import shipped
from fuzzvm.mitigations.static_key_enable import StaticKeyEnable
from fuzzvm.mitigations.vmap_trylock import VmapTrylock
from fuzzvm.scenario import shipped as scenarios
from fuzzvm.scenario.system import System
from tests.support import Seeded, boot, executions, find_failure, operations, random_failures, run

STALE = {USE_AFTER_FREE_READ, REUSED_OBJECT}
PAIRS = [(name, scenario) for name in shipped() for scenario in scenarios.shipped()]


@pytest.mark.product
@pytest.mark.parametrize(("name", "scenario"), PAIRS, ids=[f"{name}-{scenario}" for name, scenario in PAIRS])
def test_claimed_verdicts(name: str, scenario: str) -> None:
    mitigation = shipped()[name]
    found = scenarios.get(scenario)
    start = System(found, mitigation, "sc").machine
    expected = found.expected(mitigation)
    assert expected is not None, "what ships claims a verdict everywhere"
    if expected == "bug":
        failure = find_failure(start, preemptions=2)
        assert failure is not None
        assert failure.error in STALE
    else:
        assert random_failures(start, runs=60) == set()
        if len(found.cpus) == 2:
            assert {execution.failure for execution in executions(start, 1)} == {None}


def test_no_mitigation_changes_nothing() -> None:
    own = {name for name in vars(NoMitigation) if not name.startswith("__")}
    assert own == {"name", "summary", "one_walker", "two_walkers", "other_mm", "collapse"}


def test_config_off_maps_no_block_at_all() -> None:
    for scenario in scenarios.shipped().values():
        if any(call.collapses for calls in scenario.cpus for call in calls):
            continue
        system = System(scenario, ConfigOff, "sc")
        machine = system.machine(tracing=True)
        while not machine.done:
            machine.step(machine.enabled()[0], lambda ways: 0)
        assert machine.failure is None
        assert not any(
            isinstance(a.label, TableLabel) and a.label.level == Level.PTE and a.number in machine.allocator.dead
            for a in machine.allocator.allocations
        )


def test_mmap_lock_always_takes_the_lock_on_every_free() -> None:
    """One down_read and one up_read around each clear, flush and free, though nobody walks."""
    machine, kernel = boot("arm64", 4, 2, MmapLockAlways, cpus=1, tracing=True)
    base = kernel.geometry.base
    machine.boot(vmap_range(kernel, base, base + 0x1000, 0, PAGE_KERNEL, 12))
    pte = kernel.geometry.size(Level.PTE)
    machine.boot(vunmap_range(kernel, base, base + 0x1000))
    assert run(machine, vmap_range(kernel, base, base + 2 * pte, 0, PAGE_KERNEL, 13)) is None
    lock = kernel.init_mm.mmap_lock.address
    kinds = [type(op).__name__ for op in operations(machine) if not (isinstance(op, Rmw) and op.address != lock)]
    first = kinds.index("Rmw")
    assert kinds[first:] == [
        "Rmw",
        "Store",
        "Fence",
        "Tlbi",
        "Fence",
        "Fence",
        "Free",
        "Rmw",
        "Store",
        "Fence",
        "Fence",
    ]


@pytest.mark.parametrize("scenario", ["pmd-promotion", "pud-promotion", "check-wx", "three-levels"])
def test_a_flag_protects_one_walker(scenario: str) -> None:
    assert random_failures(System(scenarios.get(scenario), StaticKeyEnable, "sc").machine, runs=200) == set()


@pytest.mark.parametrize("mitigation", shipped().values(), ids=list(shipped()))
def test_what_ships_says_what_it_is(mitigation: type[Mitigation]) -> None:
    assert mitigation.summary
    assert "\n" not in mitigation.summary
    assert mitigation.__doc__
    assert mitigation.one_walker is not None
    assert mitigation.two_walkers is not None
    assert mitigation.collapse is not None
    assert mitigation.other_mm is not None


class _FreedTwice(RcuFree):
    name = "freed-twice"

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from super().free_table(k, table, level)
        yield from super().free_table(k, table, level)


class _ListedTwice(DeferredFree):
    name = "listed-twice"

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from super().free_table(k, table, level)
        yield from super().free_table(k, table, level)


class _FreedBeforeTheClear(RcuFree):
    """The grace period may be over before the entry is cleared."""

    name = "freed-before-the-clear"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from synchronize_rcu(k.cpu, self._rcu)

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield Free(table)


class _SectionEndsEarly(RcuFree):
    """The section is over before the walk reads its first entry."""

    name = "section-ends-early"

    def walk_locked(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from super().walk_locked(k, mm, token)
        yield from super().walk_unlocking(k, mm, token)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: None) -> Steps[None]:
        yield from ()


class _LostWork(DeferredFree):
    """Tables are put on the list and nobody is told."""

    name = "lost-work"

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield Store(self._work.list, (table,))


class _UnlockedTooSoon(VmapTrylock):
    """The lock is dropped before the table is freed."""

    name = "unlocked-too-soon"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from ()


class _GoesOnWithoutTheLock(VmapTrylock):
    """What a trylock says is not listened to."""

    name = "goes-on-without-the-lock"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        locked = yield from mmap_read_trylock(k, k.init_mm)
        if locked:
            yield from mmap_read_unlock(k, k.init_mm)
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from ()


@pytest.mark.parametrize(
    ("mutant", "error"),
    [
        (_FreedTwice, DOUBLE_FREE),
        (_ListedTwice, DOUBLE_FREE),
        (_FreedBeforeTheClear, USE_AFTER_FREE_READ),
        (_SectionEndsEarly, USE_AFTER_FREE_READ),
        (_LostWork, LEAKED_TABLE),
        (_UnlockedTooSoon, USE_AFTER_FREE_READ),
        (_GoesOnWithoutTheLock, USE_AFTER_FREE_READ),
    ],
)
def test_a_broken_step_of_a_newer_scheme_is_caught(mutant: type[Mitigation], error: str) -> None:
    verdict = verify(System(scenarios.get("pmd-promotion"), mutant, "sc"))
    assert verdict.failure is not None and verdict.failure.error == error


def test_a_promotion_that_does_not_get_the_lock_falls_back_to_small_pages() -> None:
    """In some schedules the range is mapped by a block, in others by pages, and either way it is mapped."""
    system = System(scenarios.get("pmd-promotion"), VmapTrylock, "sc")
    levels = set()
    for seed in range(200):
        machine = system.machine()
        assert execute(machine, Seeded(seed)).failure is None
        mapped = [(mapping.level, mapping.addr) for mapping in Oracles(machine, system.kernel).mappings()]
        levels.add(tuple(level for level, _ in mapped))
    assert levels == {(Level.PMD,), (Level.PTE, Level.PTE)}


def test_the_walk_of_another_mm_takes_two_locks_in_one_order() -> None:
    """Its own mm's first, init_mm's inside, and released the other way round (mm/ptdump.c)."""
    system = System(scenarios.get("x86-other-mm"), PtdumpLocksInitMm, "sc")
    machine = system.machine(tracing=True)
    while not machine.done:
        machine.step(1 if 1 in machine.enabled() else 0, lambda ways: 0)
    locks = {mm.mmap_lock.address: mm.name for mm in system.kernel.mms}
    taken = [
        (step.stack[0], locks[step.op.address])
        for step in machine.trace or ()
        if isinstance(step.op, Rmw) and step.op.address in locks
    ]
    assert taken == [
        ("down_write", "efi_mm"),
        ("down_write", "init_mm"),
        ("up_write", "init_mm"),
        ("up_write", "efi_mm"),
    ]
