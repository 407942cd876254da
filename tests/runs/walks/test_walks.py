"""Runs as walks: choice for choice those that a machine makes, with and without compiled code."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from fuzzvm.exhaustive.search import has_compiled
from fuzzvm.exhaustive.verdict import DisagreementError
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.execution import Chooser, Execution, execute
from fuzzvm.machine.ops import Address, Steps
from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.coverage import Covering, InterleavingCoverage
from fuzzvm.runs.happened import Happened
from fuzzvm.runs.plans.orders import FollowOrders, Orders
from fuzzvm.runs.plans.plan import Plan
from fuzzvm.runs.walks import runs as walks
from fuzzvm.runs.walks.runs import Runs
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

needs_compiled = pytest.mark.skipif(not has_compiled(), reason="the extra `fast` is not installed")
CASES = [
    ("two-walkers", "static-key-enable"),
    ("pmd-promotion", "none"),
    ("vmalloc-cycle", "deferred-free"),
    ("tlb-promotion", "mmap-lock-always"),
    ("x86-cpa-collapse", "none"),
]


def system_of(scenario: str, scheme: str, memory: str = "sc") -> System:
    return System(shipped.get(scenario), registry.get(scheme), memory)


def strategy(name: str, seed: int, cpus: int) -> Callable[[Callable[[Chooser], Execution]], Execution]:
    """Return what makes the next run of a strategy, given what executes it."""
    made: Any = engines.get(name)
    chooser = made.strategy(Random(seed))

    def run(executes: Callable[[Chooser], Execution]) -> Execution:
        chooser.begin(0, cpus)
        execution = executes(chooser)
        chooser.end(execution)
        return execution

    return run


def plans(seed: int) -> Callable[[Callable[[Chooser], Execution]], Execution]:
    """Return what makes the next run by a drawn plan, given what executes it."""
    orders, random = Orders(), Random(seed)

    def run(executes: Callable[[Chooser], Execution]) -> Execution:
        chooser = FollowOrders(orders.draw(random), orders)
        execution = executes(chooser)
        chooser.end()
        return execution

    return run


def maker(engine: str, seed: int, cpus: int) -> Callable[[Callable[[Chooser], Execution]], Execution]:
    return plans(seed) if engine == "plans" else strategy(engine, seed, cpus)


def same_runs(system: System, engine: str, seed: int, count: int) -> list[Execution]:
    """Return some runs, which were the same as walks and on a machine: schedule, failure, and what happened."""
    on_machine, walked = Happened(), Happened()
    runs = Runs(walked)
    one, other = maker(engine, seed, system.cpus), maker(engine, seed, system.cpus)
    made = []
    for number in range(count):
        wanted = one(lambda chooser: execute(on_machine.machine(system), chooser))
        got = other(lambda chooser: runs.execute(system, chooser))
        assert got == wanted, f"run {number}"
        on_machine.ended(system)
        walked.ended(system)
        assert walked.of(system).first == on_machine.of(system).first, f"run {number}"
        made.append(got)
    return made


@pytest.mark.product
@pytest.mark.parametrize("engine", ["random", "pct", "pos", "surw", "urw", "plans"])
@pytest.mark.parametrize("case", CASES)
def test_walks_are_what_a_machine_does(case: tuple[str, str], engine: str) -> None:
    same_runs(system_of(*case), engine, seed=len(case[1]), count=40)


@needs_compiled
@pytest.mark.product
@pytest.mark.parametrize("engine", ["pos", "plans"])
@pytest.mark.parametrize("case", CASES)
def test_compiled_walks_are_what_a_machine_does(
    case: tuple[str, str], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some runs are made before compiled code goes on, and those after it learn of races as those before."""
    monkeypatch.setattr(walks, "COMPILED_AFTER", 10)
    same_runs(system_of(*case), engine, seed=7, count=120)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiled)])
def test_errors_are_found_and_are_those_of_a_machine(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walks, "COMPILED_AFTER", 0 if compiled else 1000)
    for engine in ("pos", "plans"):
        found = [run.failure for run in same_runs(system_of("pmd-promotion", "none"), engine, 1, 60) if run.failure]
        assert {failure.error for failure in found} >= {"use-after-free-read"}


def test_a_machine_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_of("pmd-promotion", "rcu-free")
    monkeypatch.setattr("fuzzvm.runs.walks.walker.Walker.ends", lambda self, state: False)
    with pytest.raises(DisagreementError, match="a machine says: it goes well"):
        strategy("pos", 0, system.cpus)(lambda chooser: Runs(Happened()).execute(system, chooser))


class _Lists(Mitigation):
    """Keeps a list in a variable of a hook: no local state has a key from there on."""

    name = "of-the-test"
    summary = "for a test"

    def free_table(self, k: Kernel, level: Level, table: Address) -> Steps[None]:
        seen = [table]
        yield from super().free_table(k, level, table)
        seen.append(table)


class _Counts(Mitigation):
    """Counts in itself, which no local state has."""

    name = "of-the-test"
    summary = "for a test"
    freed = 0

    def free_table(self, k: Kernel, level: Level, table: Address) -> Steps[None]:
        self.freed += 1
        yield from super().free_table(k, level, table)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiled)])
@pytest.mark.parametrize("scheme", [_Lists, _Counts])
@pytest.mark.parametrize("engine", ["surw", "pos", "plans"])
def test_what_has_no_states_goes_on_on_a_machine(
    scheme: type[Mitigation], engine: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the run in which it shows, and with the same choices."""
    monkeypatch.setattr(walks, "COMPILED_AFTER", 0 if compiled else 1000)
    seen = []
    monkeypatch.setattr(walks, "execute", lambda *arguments: seen.append(1) or execute(*arguments))
    same_runs(System(shipped.get("pmd-promotion"), scheme, "sc"), engine, seed=3, count=12)
    assert len(seen) >= 10


@pytest.mark.parametrize("memory", ["tso", "arm64"])
def test_where_memory_is_weak_runs_are_those_of_a_machine(memory: str) -> None:
    same_runs(system_of("pmd-promotion", "rcu-free", memory), "pos", seed=0, count=10)


@pytest.mark.product
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiled)])
@pytest.mark.parametrize("engine", ["surw", "pos", "plans"])
@pytest.mark.parametrize("case", CASES)
def test_coverage_of_walks_is_that_of_a_machine(
    case: tuple[str, str], engine: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "COMPILED_AFTER", 5 if compiled else 1000)
    system = system_of(*case)
    on_machine, walked = InterleavingCoverage(), InterleavingCoverage()
    runs = Runs(Happened())
    one, other = (maker(engine, 5, system.cpus) for _ in range(2))
    for _ in range(20):
        one(lambda chooser: execute(system.machine(), Covering(chooser, on_machine)))
        other(lambda chooser: runs.execute(system, chooser, walked))
        assert on_machine.current == walked.current
    assert len(on_machine) == len(walked) > 0


def test_a_plan_of_bursts_walks_as_on_a_machine() -> None:
    system = system_of("pmd-promotion", "none")
    orders, again = Orders(), Orders()
    runs = Runs(Happened())
    for seed in range(30):
        random = Random(seed)
        plan = Plan(tuple((random.randrange(3), random.randrange(1, 9)) for _ in range(random.randrange(6))))
        wanted = execute(system.machine(), FollowOrders(plan, orders))
        assert runs.execute(system, FollowOrders(plan, again)) == wanted


@needs_compiled
def test_random_numbers_that_were_lent_come_next_all_the_same() -> None:
    from fuzzvm.runs.walks.compiled import BLOCK, Lent

    plain = Random(4)
    lent = Lent.of(Random(4))
    for used in (3, BLOCK, 0, 17):
        lent.lend()
        assert lent.block[:used].tolist() == [plain.random() for _ in range(used)]
        lent.used = used
        assert lent.randrange(1000) == plain.randrange(1000)
        assert lent.random() == plain.random()
