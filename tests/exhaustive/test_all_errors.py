"""Every error with its own shortest run, against all schedules with few context switches, each of them executed."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import Limits, shortest_failure, verify
from fuzzvm.exhaustive.all_errors import all_errors, with_all_errors
from fuzzvm.exhaustive.shared import Finding
from fuzzvm.exhaustive.space import Space
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Boot, Kernel
from fuzzvm.kernel.mmap_lock import Mm, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import DEADLOCK, NO_PROGRESS, USE_AFTER_FREE_READ
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Barrier, Fence, Free, Load, Steps, Store, address_of, object_of
from fuzzvm.machine.schedule import context_switches
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.mmap_lock_always import MmapLockAlways
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

Cost = tuple[int, int]
SMALL = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (parse_call("vmap(page=0, nr_pages=2, max_page_shift='pte')"), parse_call("vunmap(page=0, nr_pages=2)")),
    ((parse_call("vmap(page=0, nr_pages=2, max_page_shift='pmd')"),), (parse_call("check_wx_pages()"),)),
)


class LocksTwice(MmapLockAlways):
    """The read lock inside itself: a writer that comes in between deadlocks with it."""

    name = "locks-twice"

    def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        yield from mmap_read_unlock(k, k.init_mm)


class WalksWithAReadLock(Mitigation):
    """A patch that lets walks share the lock, and forgets the assertion."""

    name = "walks-with-a-read-lock"

    def walk_locked(self, k: Kernel, mm: Mm, token: object) -> Steps[None]:
        yield from mmap_write_unlock(k, mm)
        yield from mmap_read_lock(k, mm)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: object) -> Steps[None]:
        yield from mmap_read_unlock(k, mm)
        yield from mmap_write_lock(k, mm)


class ChangesTheAssertion(WalksWithAReadLock):
    name = "changes-the-assertion"
    walk_assertion = "read"


class DoubleFree(Mitigation):
    """Frees a table twice, which the walk may notice before the second time."""

    name = "double-free"

    def after_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)
        yield from mmap_read_unlock(k, k.init_mm)
        yield Free(TABLE_OF_SMALL)


class LateAfterAPromotion(Mitigation):
    """The walk frees what a promotion has freed; later, where it saw that there was one.

    So there is a run to that error with one context switch, and a shorter one with two, whose last step is the second.
    """

    name = "late-after-a-promotion"

    def attach(self, boot: Boot) -> None:
        self.promoting = boot.word("promoting")

    def before_clear(self, k: Kernel, level: Level) -> Steps[None]:
        yield Store(self.promoting, 1)

    def walk_unlocking(self, k: Kernel, mm: Mm, token: object) -> Steps[None]:
        promoting = yield Load(self.promoting)
        left = 20 if promoting else 0
        while left:
            yield Fence(Barrier.ISB)
            left -= 1
        # the word is one object more before it
        yield Free(address_of(object_of(TABLE_OF_SMALL) + 1))


TABLE_OF_SMALL = System(SMALL, registry.get("none"), "sc").booted().allocator.allocations[-1].address
"""The PTE table that is there from boot."""
SYSTEMS = [
    (SMALL, registry.get("none")),
    (SMALL, LocksTwice),
    (SMALL, WalksWithAReadLock),
    (SMALL, ChangesTheAssertion),
    (SMALL, DoubleFree),
    (SMALL, LateAfterAPromotion),
    (shipped.get("pud-promotion"), registry.get("none")),
    (SMALL, registry.get("static-key")),
]
IDS = [f"{scheme.name}-{scenario.name or 'small'}" for scenario, scheme in SYSTEMS]


def by_execution(system: System, switches: int) -> dict[Finding, Cost]:
    """Return the least cost of a run to each error, of all runs with up to so many context switches."""
    best: dict[Finding, Cost] = {}
    todo: list[list[tuple[int, int]]] = [[]]
    while todo:
        bursts = todo.pop()
        for agent in range(system.cpus):
            if bursts and bursts[-1][0] == agent:
                continue
            machine = after(system, bursts)
            done = sum(steps for _, steps in bursts)
            steps = 0
            while agent in machine.enabled():
                machine.step(agent, lambda ways: 0)
                steps += 1
                if machine.enabled() and len(bursts) < switches:
                    todo.append([*bursts, (agent, steps)])
            if steps and not machine.done and not machine.enabled():
                machine.stuck()
            if steps and machine.failure is not None:
                cost = (len(bursts), done + steps)
                finding = Finding.of(machine.failure)
                best[finding] = min(cost, best.get(finding, cost))
    return best


def after(system: System, bursts: list[tuple[int, int]]) -> Machine:
    machine = system.machine()
    for agent, steps in bursts:
        for _ in range(steps):
            machine.step(agent, lambda ways: 0)
    return machine


@pytest.mark.parametrize(("scenario", "scheme"), SYSTEMS, ids=IDS)
def test_each_error_has_the_run_that_trying_all_of_them_finds(scenario: Scenario, scheme: type[Mitigation]) -> None:
    system = System(scenario, scheme, "sc")
    found = all_errors(Space(system), Limits())
    assert not found.stopped and all(run.minimal for run in found.runs)
    costs = {run.finding: (context_switches(run.schedule), len(run.schedule)) for run in found.runs}
    assert len(costs) == len(found.runs)
    assert list(costs.values()) == sorted(costs.values()), "those with shorter runs come first"
    most = 2
    assert {finding: cost for finding, cost in costs.items() if cost[0] <= most} == by_execution(system, most)
    for run in found.runs:
        failure = execute(system.machine(), Replay(run.schedule)).failure
        assert failure is not None and Finding.of(failure) == run.finding


def test_the_systems_above_have_several_errors() -> None:
    counts = [len(all_errors(Space(System(scenario, scheme, "sc")), Limits()).runs) for scenario, scheme in SYSTEMS]
    assert counts[-1] == 0
    assert sum(count > 1 for count in counts) == 3


@pytest.mark.parametrize(("mitigation", "scenario"), [("none", "x86-pud-promotion"), ("none", "pud-promotion")])
@pytest.mark.parametrize("memory", ["sc", "tso", "arm64"])
def test_each_error_is_as_short_as_one_asked_for_by_itself(mitigation: str, scenario: str, memory: str) -> None:
    system = System(shipped.get(scenario), registry.get(mitigation), memory)
    verdict = with_all_errors(system, verify(system), Limits())
    assert len(verdict.errors) > 1 and verdict.errors_stopped == ""
    for run in verdict.errors:
        alone, proven = shortest_failure(system, error=run.failure.error, function=run.failure.function)
        assert alone is not None and proven and run.minimal
        assert (context_switches(alone), len(alone)) == (context_switches(run.schedule), len(run.schedule))


def test_an_assertion_hides_what_comes_after_it_until_the_scheme_says_that_it_changes_it() -> None:
    hides = all_errors(Space(System(SMALL, WalksWithAReadLock, "sc")), Limits())
    assert [run.finding.error for run in hides.runs] == ["walk-without-lock"]
    says = all_errors(Space(System(SMALL, ChangesTheAssertion, "sc")), Limits())
    assert USE_AFTER_FREE_READ in [run.finding.error for run in says.runs]
    assert "walk-without-lock" not in [run.finding.error for run in says.runs]


def test_a_bound_is_said_and_what_is_minimal_then_is_minimal() -> None:
    system = System(SMALL, LateAfterAPromotion, "sc")
    whole = {run.finding: run.schedule for run in all_errors(Space(system), Limits()).runs}
    states = verify(System(SMALL, registry.get("static-key"), "sc")).states
    seen = longer = 0
    for most in range(1, 2 * states, 7):
        cut = all_errors(Space(system), Limits(max_states=most))
        assert cut.stopped in (f"--max-states {most} reached", "")
        for run in cut.runs:
            seen += 1
            cost, least = ((context_switches(s), len(s)) for s in (run.schedule, whole[run.finding]))
            longer += cost > least
            assert cost == least if run.minimal else cost >= least
        if not cut.stopped:
            break
    assert seen and longer and not cut.stopped


def test_what_the_verdict_has_found_is_there_whatever_a_bound_leaves() -> None:
    system = System(SMALL, registry.get("none"), "sc")
    verdict = with_all_errors(system, verify(system), Limits(max_states=1))
    assert verdict.errors_stopped == "--max-states 1 reached"
    (run,) = verdict.errors
    assert (run.failure, run.schedule, run.minimal) == (verdict.failure, verdict.schedule, True)


def test_a_verdict_without_a_bug_stays_as_it_is() -> None:
    system = System(SMALL, registry.get("static-key"), "sc")
    verdict = verify(system)
    assert with_all_errors(system, verdict, Limits()) is verdict


def test_runs_that_never_end_are_an_error_beside_others() -> None:
    class SpinsAfterwards(WalksWithAReadLock):
        """Where no walk has failed its assertion before, the free waits for ever for a word that nobody sets."""

        name = "spins-afterwards"

        def attach(self, boot: Boot) -> None:
            self.word = boot.word("never set")

        def before_free(self, k: Kernel, level: Level, token: object) -> Steps[None]:
            while True:
                value = yield Load(self.word)
                if value:
                    break

    found = all_errors(Space(System(SMALL, SpinsAfterwards, "sc")), Limits())
    errors = {run.finding.error: run.minimal for run in found.runs}
    assert errors == {"walk-without-lock": True}, "the walk can always come to its assertion, and a run ends there"
    alone = Scenario(SMALL.arch, SMALL.page_size, 3, 2, SMALL.setup, SMALL.cpus[:1])
    found = all_errors(Space(System(alone, SpinsAfterwards, "sc")), Limits())
    assert [(run.finding.error, run.minimal) for run in found.runs] == [(NO_PROGRESS, False)]


def test_deadlocks_are_errors() -> None:
    found = all_errors(Space(System(SMALL, LocksTwice, "sc")), Limits())
    assert DEADLOCK in [run.finding.error for run in found.runs]
