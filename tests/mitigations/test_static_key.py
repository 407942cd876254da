"""fuzzvm.mitigations.static_key: each of its steps is needed where it stands.

Mutants are sought by every schedule with few pre-emptions, so that finding one is no matter of luck; what must be
safe is searched in the same way, and by seeded random schedules beyond.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fuzzvm.kernel.errors import LOCK_NOT_RELEASED, UNBALANCED_STATIC_KEY
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.execution import execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Fetch, InterruptAll, Rmw
from fuzzvm.mitigations.static_key import StaticKeyMitigation
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.mitigations import mutants
from tests.support import Follow, executions, find_failure, operations, random_failures

SMALL = Scenario(
    arch="arm64",
    page_size="4K",
    levels=3,
    fanout=2,
    setup=(Vmap(0, 2, "pte"), Vunmap(0, 2)),
    cpus=((Vmap(0, 2, "pmd"),), (CatKernelPageTables(),)),
    name="smallest",
)
"""The smallest promotion beside a walk."""

TWO_WALKERS = Scenario(
    arch="arm64",
    page_size="4K",
    levels=3,
    fanout=2,
    setup=SMALL.setup,
    cpus=(*SMALL.cpus, (CatKernelPageTables(),)),
    name="smallest-two-walkers",
)


def machines(scenario: Scenario | str, mitigation: type[Mitigation]) -> Callable[[], Machine]:
    found = shipped.get(scenario) if isinstance(scenario, str) else scenario
    return System(found, mitigation, "sc").machine


@pytest.mark.product
@pytest.mark.parametrize(
    ("mutant", "scenario", "error"),
    [
        (mutants.LockNeverTaken, SMALL, USE_AFTER_FREE_READ),
        (mutants.LockNeverTaken, "pmd-promotion", USE_AFTER_FREE_READ),
        (mutants.KeyCheckedBeforeClear, SMALL, USE_AFTER_FREE_READ),
        (mutants.LockDroppedBeforeClear, SMALL, USE_AFTER_FREE_READ),
        (mutants.KeyOffBeforeWalkEnds, SMALL, USE_AFTER_FREE_READ),
        (mutants.PlainFlag, TWO_WALKERS, USE_AFTER_FREE_READ),
        (mutants.KeyNeverOn, SMALL, USE_AFTER_FREE_READ),
        (mutants.KeyOnAfterFirstRead, SMALL, USE_AFTER_FREE_READ),
        (mutants.OneSiteUnpatched, "pud-promotion", USE_AFTER_FREE_READ),
        (mutants.TrylockInstead, SMALL, USE_AFTER_FREE_READ),
        (mutants.KeyLeftOn, SMALL, UNBALANCED_STATIC_KEY),
        (mutants.KeyOffTwice, SMALL, UNBALANCED_STATIC_KEY),
        (mutants.LockKept, SMALL, LOCK_NOT_RELEASED),
    ],
    ids=lambda value: getattr(value, "__name__", getattr(value, "name", None)),
)
def test_a_broken_step_is_caught(mutant: type[Mitigation], scenario: Scenario | str, error: str) -> None:
    failure = find_failure(machines(scenario, mutant), preemptions=2)
    assert failure is not None
    assert failure.error == error


SAFE = [
    StaticKeyMitigation,
    mutants.KeyOnUnderWriteLock,
    mutants.KeyOffUnderWriteLock,
    mutants.TablesFreedInTheOldOrder,
]


@pytest.mark.parametrize("mitigation", SAFE)
def test_what_is_harmless_is_safe_in_every_schedule_of_two_pre_emptions(mitigation: type[Mitigation]) -> None:
    assert find_failure(machines(SMALL, mitigation), preemptions=2) is None


@pytest.mark.slow
def test_the_scheme_is_safe_in_every_schedule_of_three_pre_emptions() -> None:
    failures = {execution.failure for execution in executions(machines(SMALL, StaticKeyMitigation), 3)}
    assert failures == {None}


@pytest.mark.product
@pytest.mark.parametrize("mitigation", SAFE)
@pytest.mark.parametrize(
    "scenario", ["pud-promotion", "two-promoters", "vmalloc-cycle", pytest.param(TWO_WALKERS, id=TWO_WALKERS.name)]
)
def test_what_is_harmless_is_safe_at_random(mitigation: type[Mitigation], scenario: Scenario | str) -> None:
    assert random_failures(machines(scenario, mitigation), runs=300) == set()


def test_a_plain_flag_is_enough_for_one_walker() -> None:
    assert find_failure(machines(SMALL, mutants.PlainFlag), preemptions=2) is None


def test_a_key_that_is_off_costs_one_fetch_a_free_and_no_lock() -> None:
    """With no walker: one fetch, and nothing on mmap_lock, for each of three tables that are freed at once or alone."""
    alone = Scenario("arm64", "4K", 4, 2, SMALL.setup, ((Vmap(0, 2, "pmd"),),))
    whole = Scenario("arm64", "4K", 4, 2, (Vmap(0, 4, "pte"), Vunmap(0, 4)), ((Vmap(0, 4, "pud"),),))
    for scenario, fetches in ((alone, 1), (whole, 1)):
        machine = System(scenario, StaticKeyMitigation, "sc").machine(tracing=True)
        assert execute(machine, Follow()).failure is None
        ops = operations(machine)
        assert sum(isinstance(op, Fetch) for op in ops) == fetches
        assert not any(isinstance(op, Rmw | InterruptAll) for op in ops)


def test_the_freeing_side_waits_where_a_walk_is_under_way() -> None:
    """In some schedule it takes mmap_lock, in others it does not: the key is what decides."""
    begin = machines(SMALL, StaticKeyMitigation)
    waits = set()
    for execution in executions(begin, 1):
        assert execution.failure is None
        waits.add(sum(step[0] == 0 for step in execution.schedule))
    assert len(waits) > 1
