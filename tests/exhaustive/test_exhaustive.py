"""Exhaustive search: documented verdicts, schedules that replay, minimality, bounds that are said."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import Limits, shortest_failure, verify
from fuzzvm.exhaustive.progress import may_cycle
from fuzzvm.exhaustive.reduced_search import foresee
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.shortest import shortest_run
from fuzzvm.exhaustive.some_run import some_run
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import DEADLOCK, NO_PROGRESS, REUSED_OBJECT, ProgramError
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.ops import Address, Load, Steps, Store
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Vmap, Vunmap
from fuzzvm.scenario.scale import scale_cells
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.system import verify_system
from tests.clock import slow_clock
from tests.exhaustive.context_bounded import Budget
from tests.exhaustive.context_bounded import shortest_failure as shortest_by_execution
from tests.exhaustive.reduction import reduce_at_once

LARGEST = ("rcu-free", "two-promoters")
"""A million and a half states: longer than all the other cells together; `fuzzvm verify` has it."""
CELLS = [
    (mitigation, scenario)
    for mitigation in registry.shipped()
    for scenario in shipped.shipped()
    if (mitigation, scenario) != LARGEST
]
LARGE = {("config-off", "two-promoters"), LARGEST}
"""Cells that take seconds; the others take a tenth of one."""
SMALL = ["pmd-promotion", "x86-pmd-promotion", "three-levels"]
LOOKS = ("fuzzvm.exhaustive.limits", "fuzzvm.exhaustive.deadline")
"""The modules of a search that look at the clock."""


def system_of(mitigation: str | type[Mitigation], scenario: str | Scenario) -> System:
    scheme = registry.get(mitigation) if isinstance(mitigation, str) else mitigation
    return System(shipped.get(scenario) if isinstance(scenario, str) else scenario, scheme, "sc")


@pytest.mark.always
@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario"), CELLS)
def test_shipped_cells_have_the_documented_verdict(mitigation: str, scenario: str) -> None:
    system = system_of(mitigation, scenario)
    verdict, _ = verify_system(system)
    assert verdict.complete
    # none is vacuous: what config-off gives up, it says
    assert verdict.verdict == system.scenario.expected(system.mitigation)
    if verdict.failure is None:
        assert verdict.schedule is None
        return
    assert verdict.schedule is not None
    chooser = Replay(verdict.schedule)
    assert execute(system.machine(), chooser).failure == verdict.failure
    chooser.finish()


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario"), [cell for cell in CELLS if cell not in LARGE])
def test_copied_machines_give_the_same_states_as_tuples(mitigation: str, scenario: str) -> None:
    system = system_of(mitigation, scenario)
    limits = Limits(max_states=3000)
    flat = search(Space(system), limits, first_only=False)
    stepped = search(Space(system, fast=False), limits, first_only=False)
    assert (flat.states, flat.transitions, flat.findings) == (stepped.states, stepped.transitions, stepped.findings)
    assert (flat.stopped, len(flat.ends)) == (stepped.stopped, len(stepped.ends))


@pytest.mark.parametrize("scenario", SMALL)
def test_shortest_means_what_trying_all_schedules_finds(scenario: str) -> None:
    system = system_of("none", scenario)
    verdict = verify(system)
    assert verdict.schedule is not None
    assert verdict.failure is not None
    most = context_switches(verdict.schedule)
    found = shortest_by_execution(
        system, verdict.failure, Budget(5_000_000), switches=most, steps=len(verdict.schedule) + 1
    )
    assert found.proven
    assert found.execution is not None
    assert context_switches(found.execution.schedule) == most
    assert found.execution.steps == len(verdict.schedule)


def test_shortest_failure_can_be_asked_for_one_error_and_function() -> None:
    system = system_of("none", "two-promoters")
    reused, complete = shortest_failure(system, error=REUSED_OBJECT, function="ptdump_pte_entry")
    assert complete
    assert reused is not None
    failure = execute(system.machine(), Replay(reused)).failure
    assert failure is not None
    assert (failure.error, failure.function) == (REUSED_OBJECT, "ptdump_pte_entry")
    assert shortest_failure(system, error="double-free") == (None, True)


def test_bounds_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_of("static-key", "two-walkers")
    for limits, word in ((Limits(max_states=100), "--max-states 100"), (Limits(max_memory=1), "memory limit")):
        verdict = verify(system, limits)
        assert (verdict.verdict, verdict.complete) == ("safe", False)
        assert word in verdict.stopped
    slow_clock(monkeypatch, *LOOKS)
    slow = verify(system_of("config-off", "two-promoters"), Limits(max_seconds=0.1))
    assert not slow.complete
    assert "--max-seconds 0.1" in slow.stopped


def test_preemptions_bound_forced_switches_are_free() -> None:
    system = system_of("none", "pmd-promotion")
    none = verify(system, preemptions=0)
    assert (none.verdict, none.complete) == ("safe", False)
    assert "--preemptions 0" in none.stopped
    one = verify(system, preemptions=1)
    assert one.verdict == "bug"
    everything = verify(system_of("static-key", "pmd-promotion"), preemptions=1000)
    assert (everything.verdict, everything.complete) == ("safe", True)


@pytest.mark.product
@pytest.mark.parametrize("seconds", [1, 10, 50])
def test_a_schedule_is_not_looked_for_past_the_time(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under arm64 the bug of this system is behind some thousand states, and its shortest schedule beyond."""
    system = System(shipped.get("two-promoters"), registry.get("deferred-free"), "arm64")
    slow_clock(monkeypatch, *LOOKS)
    verdict = verify(system, Limits(max_seconds=seconds))
    assert (verdict.complete, "--max-seconds" in verdict.stopped) == (False, True)


def test_some_run_stops_at_its_limits() -> None:
    space = Space(system_of("static-key", "two-walkers"))
    assert some_run(space, Limits()) is None
    failing = Space(system_of("static-key-enable", "two-walkers"))
    schedule = some_run(failing, Limits(max_states=1))
    assert schedule is not None
    assert execute(system_of("static-key-enable", "two-walkers").machine(), Replay(schedule)).failure is not None
    assert some_run(failing, Limits(max_seconds=0.0)) is None
    assert some_run(failing, Limits(max_memory=1)) is None


def test_a_bug_without_a_schedule_is_no_safe_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzzvm.exhaustive.stages.some_run", lambda space, limits: None)
    verdict = verify(system_of("static-key-enable", "two-walkers"), Limits(max_states=1000))
    assert (verdict.verdict, verdict.complete, verdict.schedule) == ("bug", False, None)
    assert verdict.failure is not None
    assert (verdict.failure.error, verdict.failure.function) == ("use-after-free-read", "ptdump_pte_entry")


class NestedLock(Mitigation):
    """Takes the read lock twice, which deadlocks behind a waiting writer."""

    name = "nested-lock"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        yield from mmap_read_lock(k, k.init_mm)

    def after_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)
        yield from mmap_read_unlock(k, k.init_mm)


def test_deadlocks_are_found_with_the_function_that_the_machine_names() -> None:
    failure = verify(system_of(NestedLock, "pmd-promotion")).failure
    assert failure is not None
    assert (failure.error, failure.function) == (DEADLOCK, "down_read")


class SpinsForEver(Mitigation):
    """Waits, in a loop of plain loads, for a word that nobody writes."""

    name = "spins-for-ever"
    word: Address

    def attach(self, boot: Boot) -> None:
        self.word = boot.word("never written")

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        seen = yield Load(self.word)
        while seen == 0:
            seen = yield Load(self.word)


class SpinsUntilUnlocked(SpinsForEver):
    """Retries a trylock in a loop: a cycle of states that every fair scheduler leaves."""

    name = "spins-until-unlocked"

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        locked = yield from mmap_read_trylock(k, k.init_mm)
        while not locked:
            locked = yield from mmap_read_trylock(k, k.init_mm)

    def after_free(self, k: Kernel, level: Level, token: None) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        yield from ()


@pytest.mark.parametrize("reduce", [True, False])
def test_a_run_that_cannot_end_is_no_progress_and_one_that_can_is_none(
    reduce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduce_at_once(monkeypatch)
    endless = verify(system_of(SpinsForEver, "pmd-promotion"), reduce=reduce)
    assert endless.failure is not None
    assert endless.failure.error == NO_PROGRESS
    fair = verify(system_of(SpinsUntilUnlocked, "pmd-promotion"), reduce=reduce)
    assert (fair.verdict, fair.complete) == ("safe", True)


class Counts(Mitigation):
    """Keeps a number in itself, which is no part of any state."""

    name = "counts"
    calls = 0

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[None]:
        self.calls += 1
        yield from ()


def test_a_mitigation_that_changes_itself_is_refused() -> None:
    with pytest.raises(ProgramError, match="attribute 'calls' changes during a run") as caught:
        verify(system_of(Counts, "pmd-promotion"))
    assert (caught.value.filename, caught.value.line) == (__file__, Counts.before_walk.__code__.co_firstlineno + 1)


class FailsAtOnce(Mitigation):
    """Writes to freed memory in the first step of a walk."""

    name = "fails-at-once"

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from super().free_table(k, table, level)
        yield Store(table, 0)


def test_a_failure_without_a_race_needs_no_switch() -> None:
    verdict = verify(system_of(FailsAtOnce, "pmd-promotion"))
    assert verdict.schedule is not None
    assert context_switches(verdict.schedule) == 0


def test_one_cpu_and_no_race() -> None:
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2))
    alone = Scenario("arm64", "4K", 4, 2, setup, ((Vmap(0, 2, "pmd"),),))
    verdict = verify(system_of("none", alone))
    assert (verdict.verdict, verdict.complete) == ("safe", True)


@pytest.mark.parametrize("kind", ["pages", "cpus", "walkers", "calls"])
def test_scale_scenarios_grow_by_one_number(kind: str) -> None:
    counts = [search(Space(system_of("static-key", scenario)), Limits()).states for scenario in scale_cells(kind, 3)]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize("scenario", SMALL)
def test_the_search_is_the_same_every_time(scenario: str) -> None:
    first = shortest_run(Space(system_of("none", scenario)), Limits())
    assert first == shortest_run(Space(system_of("none", scenario)), Limits())


def test_a_bug_found_within_a_bound_that_stops_the_proof_is_still_a_bug() -> None:
    system = system_of("static-key-enable", "two-walkers")
    verdict = verify(system, Limits(max_states=1000))
    assert (verdict.verdict, verdict.complete) == ("bug", False)
    assert "--max-states 1000 reached" in verdict.stopped
    assert verdict.schedule is not None
    assert execute(system.machine(), Replay(verdict.schedule)).failure == verdict.failure


def test_the_bound_of_a_first_look_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that may go round in circles is looked at without reduction as well, past what the search has seen."""
    system = System(shipped.get("x86-pmd-promotion"), registry.get("static-key"), "tso")
    space = Space(system)
    foresee(space, Limits())
    assert may_cycle(space)
    monkeypatch.setattr("fuzzvm.exhaustive.stages.SHALLOW", 1000)
    verdict = verify(system)
    assert verdict.states < 1000 < verify(system, reduce=False).states
    assert (verdict.verdict, verdict.complete, verdict.stopped) == ("safe", True, "")
