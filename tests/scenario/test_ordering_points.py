"""Ordering points: each one finds what it stands for, and nothing else is left out."""

from __future__ import annotations

import pytest

from fuzzvm.explore.exhaustive import Limits, verify
from fuzzvm.kernel.errors import BROKEN_INSTRUCTION
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Barrier, CacheMaintenance, CacheOperation, Fence, InterruptAll, Operation, Order, Rmw
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


SCENARIOS = {"arm64": "pud-promotion", "x86_64": "x86-pud-promotion"}


@pytest.mark.parametrize(
    ("arch", "point"), [(arch, point) for arch in SCENARIOS for point in ordering_points.names(arch)]
)
def test_every_point_is_used_by_the_static_key_scheme(arch: str, point: str) -> None:
    (named,) = ordering_points.get([point])
    system = System(shipped.get(SCENARIOS[arch]), STATIC_KEY, "sc", without=(point,))
    for seed in range(300):
        execute(system.machine(), Seeded(seed))
        if ordering_points.used(named, STATIC_KEY, [system.rewrite]):
            return
    pytest.fail("nothing was left out")


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
