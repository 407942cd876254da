"""The mitigations that ship: each verdict that one claims, in the scenarios that ship.

A claimed bug is found by a search that is exhaustive within two pre-emptions; a claimed safety is searched at random,
and in every schedule of one pre-emption.
"""

from __future__ import annotations

import pytest

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level, TableLabel
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.machine.errors import REUSED_OBJECT, USE_AFTER_FREE_READ
from fuzzvm.machine.ops import Rmw
from fuzzvm.mitigations.config_off import ConfigOff
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.mitigations.registry import shipped
from fuzzvm.mitigations.static_key_enable import StaticKeyEnable
from fuzzvm.scenario import shipped as scenarios
from fuzzvm.scenario.system import System
from tests.support import boot, executions, find_failure, operations, random_failures, run

STALE = {USE_AFTER_FREE_READ, REUSED_OBJECT}
PAIRS = [(name, scenario) for name in shipped() for scenario in scenarios.shipped()]


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
    assert own == {"name", "summary", "one_walker", "two_walkers", "collapse"}


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
