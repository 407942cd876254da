"""The engines: what each must find, and must not, within a number of runs."""

from __future__ import annotations

import importlib.util

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.replay import replay
from fuzzvm.kernel.errors import INVALID_WAIT_CONTEXT, IRQ_UNSAFE_LOCK, LOCK_ORDER
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.runs import engines
from fuzzvm.runs.engines import Budget, FuzzSearch
from fuzzvm.runs.minimise.minimiser import minimise
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import ReadKcore, Vmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.kernel.test_contexts import OneOrder, RawUnderSpinlock, SpinlockUnderRaw, TwoOrders

ENGINES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "atheris" and importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
        ),
    )
    for name in engines.names()
]


def search(engine: str, mitigation: str, runs: int, seed: int = 0, *, scenarios: tuple[str, ...] = ()) -> FuzzSearch:
    chosen = scenarios or tuple(shipped.shipped())
    systems = [System(shipped.get(name), registry.get(mitigation), "sc") for name in chosen]
    result = FuzzSearch(Budget(runs=runs))
    engines.get(engine).search(systems, seed, result)
    return result


def test_there_are_seven() -> None:
    assert engines.names() == ["atheris", "hypothesis", "pct", "pos", "random", "surw", "urw"]


@pytest.mark.always
@pytest.mark.parametrize("engine", ENGINES)
def test_finds_the_race(engine: str) -> None:
    result = search(engine, "none", 20_000)
    assert len(result.found) == 1
    assert result.found[0].execution.failure is not None
    assert result.found[0].execution.failure.error in ("use-after-free-read", "use-after-free-reused")


@pytest.mark.product
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mitigation", ["static-key", "mmap-lock-always", "config-off"])
def test_finds_nothing_where_nothing_is(engine: str, mitigation: str) -> None:
    scheme = registry.get(mitigation)
    safe = tuple(name for name, scenario in shipped.shipped().items() if scenario.expected(scheme) == "safe")
    result = search(engine, mitigation, 400, scenarios=safe)
    assert not result.found
    assert result.runs == 400


@pytest.mark.product
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("memory", ["sc", "arm64"])
def test_finds_a_flush_that_is_missing(engine: str, memory: str) -> None:
    scenario = shipped.get("tlb-promotion")
    systems = [System(scenario, registry.get("static-key"), memory, without=("flush-tlbi",))]
    result = FuzzSearch(Budget(runs=200))
    engines.get(engine).search(systems, 0, result)
    assert result.found
    assert result.found[0].execution.failure is not None
    assert result.found[0].execution.failure.error == "hardware-walk-of-freed-table"
    whole = FuzzSearch(Budget(runs=100))
    engines.get(engine).search([System(scenario, registry.get("static-key"), memory)], 0, whole)
    assert not whole.found


IN_A_SOFTIRQ = Scenario(
    arch="arm64",
    page_size="4K",
    levels=4,
    fanout=2,
    setup=(Vmap(page=0, nr_pages=2, max_page_shift="pte"),),
    cpus=((ReadKcore(page=0, nr_pages=1),), ()),
    softirqs=((), (ReadKcore(page=1, nr_pages=1),)),
)
"""One CPU takes a lock of 7.3 with softirqs on, the other in a softirq: neither waits."""


@pytest.mark.always
@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_finds_a_lock_that_is_safe_and_unsafe_though_nobody_waits(engine: str, memory: str) -> None:
    scheme = registry.get("linux-7.3")
    result = FuzzSearch(Budget(runs=50))
    engines.get(engine).search([System(IN_A_SOFTIRQ, scheme, memory)], 0, result)
    (found,) = result.found
    expect = Expectation.of(found.execution)
    assert expect.error == IRQ_UNSAFE_LOCK
    case = TestCase(IN_A_SOFTIRQ, "linux-7.3", memory, found.execution.schedule, expect)
    smallest = minimise(case, scheme).case
    assert smallest.expect.error == IRQ_UNSAFE_LOCK
    assert not replay(smallest, scheme).problem


@pytest.mark.parametrize("memory", ["sc", "arm64"])
@pytest.mark.parametrize(
    ("right", "wrong", "error"),
    [(OneOrder, TwoOrders, LOCK_ORDER), (RawUnderSpinlock, SpinlockUnderRaw, INVALID_WAIT_CONTEXT)],
)
def test_finds_locks_that_do_not_go_together_though_nobody_waits(
    right: type[Mitigation], wrong: type[Mitigation], error: str, memory: str
) -> None:
    promotion = shipped.get("pmd-promotion")
    systems = [System(promotion, right, memory), System(promotion, wrong, memory)]
    result = FuzzSearch(Budget(runs=100))
    engines.get("surw").search(systems, 0, result)
    (found,) = result.found
    assert found.task is systems[1]
    assert found.execution.failure is not None
    assert found.execution.failure.error == error


@pytest.mark.product
@pytest.mark.parametrize(
    "engine", [engine for engine in ENGINES if engine.values[0] in ("pct", "hypothesis", "atheris")]
)
def test_finds_what_needs_two_walkers(engine: str) -> None:
    assert search(engine, "static-key-enable", 60_000, scenarios=("two-walkers",)).found


@pytest.mark.product
@pytest.mark.parametrize("engine", ENGINES)
def test_one_walker_is_safe_behind_a_flag(engine: str) -> None:
    scheme = registry.get("static-key-enable")
    found = [name for name, one in shipped.shipped().items() if one.walkers == 1 and one.expected(scheme) == "safe"]
    one_walker = tuple(found)
    assert one_walker
    assert not search(engine, "static-key-enable", 600, scenarios=one_walker).found


@pytest.mark.product
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_does_the_same_runs(engine: str) -> None:
    first, second = (search(engine, "none", 5_000, seed=7) for _ in range(2))
    assert first.found[0].run == second.found[0].run
    assert first.found[0].execution.schedule == second.found[0].execution.schedule


@pytest.mark.parametrize("engine", ["random", "pct", "urw", "hypothesis"])
def test_keep_going_uses_the_whole_budget(engine: str) -> None:
    systems = [System(shipped.get("pmd-promotion"), registry.get("none"), "sc")]
    result = FuzzSearch(Budget(runs=600), keep_going=True)
    engines.get(engine).search(systems, 0, result)
    assert result.runs == 600
    kinds = [(f.execution.failure.error, f.execution.failure.function) for f in result.found if f.execution.failure]
    assert kinds
    assert len(kinds) == len(set(kinds))


def test_hypothesis_draws_nothing_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a batch takes time that the search does not have."""
    module = importlib.import_module("fuzzvm.runs.engines.hypothesis_engine")
    drawn = 0

    def counted(data: bytes) -> bytes:
        nonlocal drawn
        drawn += 1
        return data

    monkeypatch.setattr(module, "PLANS", module.PLANS.map(counted))
    runs = module.RUNS + 1
    assert search("hypothesis", "rcu-free", runs, scenarios=("pmd-promotion",)).runs == runs
    assert drawn == 2


def test_hypothesis_makes_other_runs_by_another_seed_from_the_first_run_on() -> None:
    """The first example of Hypothesis is zeros, whatever the seed."""
    module = importlib.import_module("fuzzvm.runs.engines.hypothesis_engine")
    system = System(shipped.get("pmd-promotion"), registry.get("none"), "sc")
    steps = set()
    for seed in range(6):
        found = FuzzSearch(Budget(runs=module.RUNS), keep_going=True)
        engines.get("hypothesis").search([system], seed, found)
        steps.add(found.steps)
    assert len(steps) > 3
