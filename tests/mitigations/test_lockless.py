"""Hazard pointers, reference counts and sequence counters as mitigations: each is safe, and a bug when broken."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.execution import Chooser, execute
from fuzzvm.mitigations.rcu_free import RcuFree
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Call, CatKernelPageTables, Output, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.mitigations import lockless
from tests.support import Follow, Seeded

SCHEMES = (lockless.HazardPointers, lockless.References, lockless.WalksCount, lockless.PromotionsCount)
BROKEN = (
    lockless.LooksOnce,
    lockless.LetsGoTooEarly,
    lockless.WaitsBeforeTheClear,
    lockless.FreesWithReferences,
    lockless.NoRetry,
    lockless.EvenTooEarly,
)
CELLS = [
    ("pmd-promotion", "sc"),
    ("pud-promotion", "sc"),
    ("two-walkers", "sc"),
    ("x86-pud-promotion", "sc"),
    ("x86-pmd-promotion", "tso"),
    ("pmd-promotion", "arm64"),
]


def name_of(scheme: type[Mitigation]) -> str:
    return scheme.name


@pytest.mark.product
@pytest.mark.parametrize(("scenario", "memory"), CELLS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=name_of)
def test_each_is_safe(scheme: type[Mitigation], scenario: str, memory: str) -> None:
    verdict = verify(System(shipped.get(scenario), scheme, memory))
    assert verdict.complete and verdict.failure is None


@pytest.mark.parametrize("scheme", [lockless.HazardPointers, lockless.References], ids=name_of)
def test_walks_need_no_lock_then(scheme: type[Mitigation]) -> None:
    for scenario in ("pmd-promotion", "two-walkers", "x86-other-mm"):
        verdict = verify(System(shipped.get(scenario), scheme, "sc", without=("walk-lock",)))
        assert verdict.complete and verdict.failure is None, scenario


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize("scheme", BROKEN, ids=name_of)
def test_each_part_of_one_is_needed(scheme: type[Mitigation], memory: str) -> None:
    verdict = verify(System(shipped.get("pmd-promotion"), scheme, memory))
    assert verdict.failure is not None and verdict.failure.error == USE_AFTER_FREE_READ


@pytest.mark.parametrize("scheme", [lockless.Unfenced, lockless.WalksCountUnfenced], ids=name_of)
def test_a_barrier_is_needed_under_arm64_alone(scheme: type[Mitigation]) -> None:
    """On x86_64 the IPI of the flush does what the barrier is for: it comes between the clear and the free."""
    assert verify(System(shipped.get("pmd-promotion"), scheme, "sc")).verdict == "safe"
    assert verify(System(shipped.get("x86-pmd-promotion"), scheme, "tso")).verdict == "safe"
    verdict = verify(System(shipped.get("pmd-promotion"), scheme, "arm64"))
    assert verdict.failure is not None and verdict.failure.error == USE_AFTER_FREE_READ
    verdict = verify(System(shipped.get("x86-pmd-promotion"), scheme, "tso", without=("flush-ipi",)))
    assert verdict.failure is not None and verdict.failure.error == USE_AFTER_FREE_READ


# What a walk that is repeated is for

FIRST, SECOND = (Vmap(page, 2, "pmd") for page in (0, 2))


def scenario(*calls: Call) -> Scenario:
    setup = (Vmap(0, 4, "pte"), Vunmap(0, 4))
    return Scenario("arm64", "4K", 3, 2, setup, (calls, (CatKernelPageTables(),)))


def dump(scheme: type[Mitigation], made: Scenario, chooser: Chooser) -> str:
    """Return what the dump of a run prints."""
    machine = System(made, scheme, "sc").machine(tracing=True)
    assert execute(machine, chooser).failure is None
    notes = [note for step in machine.trace or () for note in step.annotations]
    (text,) = [note.text for note in notes if isinstance(note, Output)]
    return text


def test_a_walk_that_is_repeated_prints_what_there_was_at_one_moment() -> None:
    both = scenario(FIRST, SECOND)
    before = dump(RcuFree, both, Follow([1]))
    first, second, after = (dump(RcuFree, scenario(*calls), Follow([0])) for calls in ([FIRST], [SECOND], both.cpus[0]))
    assert len({before, first, second, after}) == 4
    once = {dump(RcuFree, both, Follow([1] * steps + [0])) for steps in range(15)}
    assert second in once, "it has read the first range before the promotions, and the second one after them"
    for chooser in [*[Follow([1] * steps + [0]) for steps in range(15)], *map(Seeded, range(300))]:
        assert dump(lockless.PromotionsCount, both, chooser) in (before, first, after)
