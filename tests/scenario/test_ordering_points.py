"""Ordering points: each one finds what it stands for, and nothing else is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzvm.exhaustive import Limits, verify
from fuzzvm.kernel import counters
from fuzzvm.kernel.errors import BROKEN_INSTRUCTION
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import (
    Barrier,
    CacheMaintenance,
    CacheOperation,
    Fence,
    InterruptAll,
    Operation,
    Order,
    Rmw,
    Steps,
)
from fuzzvm.mitigations import registry
from fuzzvm.scenario import ordering_points, shipped
from fuzzvm.scenario.system import System
from tests.support import Seeded

STATIC_KEY = registry.get("static-key")


class Alone:
    """A chooser that lets one CPU run to its end before the next, and memory settle at once."""

    def __init__(self, *cpus: int) -> None:
        self._cpus = cpus

    def agent(self, enabled: object, machine: Machine) -> int:
        return next(cpu for cpu in (*self._cpus, *enabled) if cpu in enabled)  # type: ignore[attr-defined, misc]

    def value(self, ways: int) -> int:
        return 0


def operations(*without: str, first: int = 0) -> list[tuple[str, Operation]]:
    """Return the operations of a run in which one CPU goes first, each with its innermost function."""
    system = System(shipped.get("pud-promotion"), STATIC_KEY, "sc", without=without)
    machine = system.machine(tracing=True)
    execute(machine, Alone(first, 1 - first))
    return [(step.stack[0], step.op) for step in machine.trace or () if step.op is not None]


def patch(*without: str) -> list[object]:
    """Return what patch_text does first, up to the store of the second site."""
    kinds: list[object] = []
    for function, op in operations(*without, first=1):
        if function == "patch_text":
            match op:
                case Fence(kind):
                    kinds.append(kind)
                case CacheMaintenance(operation):
                    kinds.append(operation)
                case _:
                    kinds.append("store")
    return kinds[: len(kinds) // 4]


WHOLE = [
    "store",
    CacheOperation.DC_CVAU,
    Barrier.DSB_ISH,
    CacheOperation.IC_IVAU,
    Barrier.DSB_ISH,
    Barrier.ISB,
]


@pytest.mark.parametrize(
    ("point", "index"),
    [
        (None, None),
        ("patch-store", 0),
        ("patch-dc", 1),
        ("patch-dsb-1", 2),
        ("patch-ic", 3),
        ("patch-dsb-2", 4),
        ("patch-isb", 5),
    ],
)
def test_a_patch_lacks_what_was_left_out(point: str | None, index: int | None) -> None:
    assert patch(*([point] if point else [])) == [what for at, what in enumerate(WHOLE) if at != index]


ELSEWHERE = {
    "unmap-flush-tlbi": "check-wx",
    "purge-flush-tlbi": "vmalloc-cycle",
    "walk-init-lock": "x86-other-mm",
    "collapse-lock": "x86-cpa-collapse",
    "attributes-lock": "x86-cpa-split",
    "lookup-lock": "pair-x86_64-collapse-pmd-text-poke",
    "ptdesc-set-kernel": "x86-cpa-split",
}
"""Points that pud-promotion has no part in, and a scenario that has."""

RCU = ("walk-rcu", "call-rcu", "grace-period")
PROMOTION = ("walk-init-lock", "promotion")


def scheme_of(point: str) -> str:
    """Return a scheme that has a point."""
    if point.startswith(RCU):
        return "rcu-free"
    if point in ("collapse-lock", "attributes-lock", "lookup-lock", "ptdesc-set-kernel"):
        return "linux-7.3"
    return "vmap-trylock+ptdump-locks-init-mm" if point.startswith(PROMOTION) else "static-key"


def uses(point: str, mitigation: str, scenario: str) -> bool:
    """Return whether a point finds something to leave out in some of 300 random runs."""
    (named,) = ordering_points.get([point])
    scheme = registry.get(mitigation)
    found = shipped.get(scenario)
    if point == "ptdesc-set-kernel" and found.arch == "x86_64":
        found = replace(found, iommu_sva=True)
    system = System(found, scheme, "sc", without=(point,))
    for seed in range(300):
        execute(system.machine(), Seeded(seed))
        if ordering_points.used(named, scheme, [system.rewrite]):
            return True
    return False


@pytest.mark.parametrize("point", ordering_points.names())
def test_every_point_is_used_by_a_scheme(point: str) -> None:
    places = {"x86_64": "x86-pud-promotion"} if point not in ordering_points.names("arm64") else {}
    assert uses(point, scheme_of(point), ELSEWHERE.get(point, places.get("x86_64", "pud-promotion")))


def points_met(mitigation: str | type[Mitigation], scenario: str, *without: str) -> set[str]:
    """Return the points of what a run executes and says, one CPU after the other."""
    scheme = registry.get(mitigation) if isinstance(mitigation, str) else mitigation
    machine = System(shipped.get(scenario), scheme, "sc", without=without).machine(tracing=True)
    execute(machine, Alone(1, 0))
    trace = machine.trace or []
    said = {note.point for step in trace for note in step.annotations}
    return (said | {step.op.point for step in trace if step.op is not None}) - {""}


def test_no_operation_has_a_name_that_nobody_asks_for() -> None:
    asked_for = {name for point in ordering_points.POINTS for name in point.effects} | counters.PATCHES
    for mitigation, scenario in (
        ("static-key", "pud-promotion"),
        ("static-key", "x86-pud-promotion"),
        ("rcu-free", "pmd-promotion"),
        ("deferred-free", "vmalloc-cycle"),
        ("vmap-trylock+ptdump-locks-init-mm", "x86-other-mm"),
        ("cpa-lock", "x86-cpa-collapse"),
        ("linux-7.3", "pair-x86_64-collapse-pmd-text-poke"),
        ("linux-7.3", "x86-cpa-split"),
    ):
        met = points_met(mitigation, scenario)
        assert met and met <= asked_for, mitigation


class HoldsItsOwn(Mitigation):
    """Takes the lock in each hook, and says nowhere what for."""

    name = "holds-its-own"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        yield from mmap_read_lock(k, k.init_mm)
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from mmap_write_lock(k, k.init_mm)
        yield from mmap_write_unlock(k, k.init_mm)

    def before_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        yield from mmap_read_unlock(k, k.init_mm)


@pytest.mark.parametrize(
    ("left_out", "names"),
    [
        ("walk-lock", {"walk-lock", "walk-unlock", "walk-assertion"}),
        ("walk-init-lock", {"walk-init-lock", "walk-init-unlock"}),
        ("promotion-lock", {"promotion-lock", "promotion-unlock"}),
        ("free-lock", {"free-lock", "free-unlock"}),
    ],
)
def test_a_lock_goes_by_the_hook_that_takes_it(left_out: str, names: set[str]) -> None:
    """Where a lock is not taken it is not released, whatever other locks the scheme takes in other hooks."""
    met = points_met(HoldsItsOwn, "pmd-promotion")
    assert names <= met
    assert points_met(HoldsItsOwn, "pmd-promotion", left_out) == met - names


def test_a_point_of_one_scheme_is_none_of_another() -> None:
    for point in ordering_points.names():
        if scheme_of(point) != "static-key":
            assert not uses(point, "static-key", "pud-promotion"), point
    for point in ("free-lock", "free-unlock-release", "walk-init-lock"):
        assert not uses(point, "vmap-trylock", "pud-promotion"), point


@pytest.mark.parametrize(
    ("point", "mitigation", "scenario"),
    [
        ("walk-rcu", "rcu-free", "pmd-promotion"),
        ("grace-period", "rcu-free", "pmd-promotion"),
        ("grace-period", "rcu-free", "two-walkers"),
        ("promotion-lock", "vmap-trylock", "pmd-promotion"),
        ("walk-lock", "vmap-trylock", "pmd-promotion"),
        ("walk-init-lock", "vmap-trylock+ptdump-locks-init-mm", "x86-other-mm"),
    ],
)
def test_what_a_scheme_rests_on_is_needed_under_sc_already(point: str, mitigation: str, scenario: str) -> None:
    found, scheme = shipped.get(scenario), registry.get(mitigation)
    assert verify(System(found, scheme, "sc")).verdict == "safe"
    verdict = verify(System(found, scheme, "sc", without=(point,)))
    assert verdict.failure is not None and verdict.failure.error == USE_AFTER_FREE_READ


@pytest.mark.parametrize(
    ("point", "scenario"),
    [("walk-rcu-acquire", "pud-promotion"), ("walk-rcu-release", "pmd-promotion")],
)
def test_what_rcu_orders_is_needed_under_arm64_alone(point: str, scenario: str) -> None:
    found, scheme = shipped.get(scenario), registry.get("rcu-free")
    assert verify(System(found, scheme, "sc", without=(point,))).verdict == "safe"
    system = System(found, scheme, "arm64", without=(point,))
    failures = (execute(system.machine(), Seeded(seed)).failure for seed in range(3000))
    assert next((failure.error for failure in failures if failure), "") == USE_AFTER_FREE_READ


def test_a_point_of_one_architecture_is_none_of_the_other() -> None:
    arm64, x86 = set(ordering_points.names("arm64")), set(ordering_points.names("x86_64"))
    assert {"patch-ic", "flush-isb"} <= arm64 - x86
    assert {"poke-syncs", "flush-ipi"} <= x86 - arm64
    assert {"walk-lock", "free-key-check"} <= arm64 & x86
    assert arm64 | x86 == set(ordering_points.names())


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], None),
        (["poke-sync-1"], "the first byte of one instruction and the second of another"),
        (["poke-sync-2"], "the first byte of one instruction and the second of another"),
        (["poke-sync-3"], "hits a breakpoint, and nothing is being patched"),
        (["poke-syncs"], "the first byte of one instruction and the second of another"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_each_ipi_of_a_patch_is_needed_where_a_fetch_may_be_stale(
    points: list[str], message: str | None, memory: str
) -> None:
    verdict = verify(System(shipped.get("x86-pmd-promotion"), STATIC_KEY, memory, without=points))
    assert verdict.complete
    if message is None or memory == "sc":
        assert verdict.failure is None
    else:
        assert verdict.failure is not None
        assert verdict.failure.error == BROKEN_INSTRUCTION
        assert message in verdict.failure.message


def test_the_ipi() -> None:
    assert any(type(op) is InterruptAll for _, op in operations(first=1))
    assert not any(type(op) is InterruptAll for _, op in operations("patch-ipi", first=1))


def test_a_relaxed_lock_is_that_lock_alone() -> None:
    relaxed = [(function, op) for function, op in operations("walk-lock-acquire", first=1) if type(op) is Rmw]
    orders = {function: op.order for function, op in relaxed if isinstance(op, Rmw)}
    assert orders["down_write"] is Order.PLAIN
    assert orders["down_read"] is Order.ACQUIRE
    assert orders["up_write"] is Order.RELEASE


@pytest.mark.parametrize("point", ["walk-key", "walk-lock", "free-key-check", "free-lock", "free-clear"])
def test_the_exhaustive_search_leaves_it_out_as_well(point: str) -> None:
    system = System(shipped.get("pmd-promotion"), STATIC_KEY, "sc", without=(point,))
    verdict = verify(system, Limits(max_states=100_000))
    assert verdict.verdict == "bug"


def test_weak_memory_has_no_part_in_sc() -> None:
    system = System(shipped.get("pmd-promotion"), STATIC_KEY, "sc", without=("patch-ic", "flush-dsbs", "patch-ipi"))
    assert verify(system).complete
    assert verify(system).verdict == "safe"


def test_nothing_left_out_is_no_rewrite() -> None:
    system = System(shipped.get("pmd-promotion"), STATIC_KEY, "arm64")
    assert system.rewrite is None
    assert ordering_points.strip_hooks(STATIC_KEY, ()) is STATIC_KEY


def test_an_unknown_point() -> None:
    with pytest.raises(KeyError):
        System(shipped.get("pmd-promotion"), STATIC_KEY, "sc", without=("patch-me",))
