"""Under tso and arm64 reductions lose nothing: the same verdicts, and the same states in which runs end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive import verify
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.reduced_search import foresee
from fuzzvm.exhaustive.reduced_weakly import WeakReduction
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.exhaustive.weak_footprint import WeakFootprints
from fuzzvm.kernel.oracles import Oracles
from fuzzvm.kernel.tables import Mapping
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.ops import Barrier, Order
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.exhaustive.reduction import both
from tests.exhaustive.small_programs import PATCHES, RECIPES, Recipe, programs, small_task

SMALL = ["pmd-promotion", "pud-promotion", "three-levels", "check-wx", "x86-pmd-promotion", "x86-pud-promotion"]
CELLS = [
    (mitigation, scenario, memory)
    for mitigation in registry.shipped()
    for scenario in SMALL
    for memory in (("tso",) if scenario.startswith("x86") else ("tso", "arm64"))
]
MOST = 5000


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario", "memory"), CELLS)
def test_kernel_code(mitigation: str, scenario: str, memory: str) -> None:
    both(System(shipped.get(scenario), registry.get(mitigation), memory), MOST)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["tso", "arm64"]), programs(RECIPES, 9))
def test_small_programs(memory: str, lists: list[list[Recipe]]) -> None:
    both(small_task(memory, lists), MOST)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["tso", "arm64"]), programs(PATCHES, 9))
def test_small_programs_that_patch_code(memory: str, lists: list[list[Recipe]]) -> None:
    both(small_task(memory, lists), MOST)


def calls() -> st.SearchStrategy[tuple[object, ...]]:
    page = st.sampled_from([0, 2])
    prot = st.sampled_from(["rw", "rw", "rwx"])
    vmap = st.builds(Vmap, page, st.sampled_from([1, 2]), st.sampled_from(["pte", "pmd"]), prot=prot)
    walk = st.sampled_from([CatKernelPageTables(), CheckWxPages()])
    return st.lists(st.one_of(vmap, st.builds(Vunmap, page, st.just(2)), walk), min_size=1, max_size=2).map(tuple)


@pytest.mark.always
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from([("arm64", "arm64"), ("arm64", "tso"), ("x86_64", "tso")]),
    st.lists(calls(), min_size=2, max_size=2),
    st.booleans(),
)
def test_any_scenario(mitigation: str, machine: tuple[str, str], cpus: list[tuple[object, ...]], tlb: bool) -> None:
    arch, memory = machine
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 1, "pte"))
    scenario = Scenario(arch, "4K", 4, 2, setup, tuple(cpus), tlb=tlb)  # type: ignore[arg-type]
    both(System(scenario, registry.get(mitigation), memory), MOST)


@st.composite
def own_ranges(draw: st.DrawFn) -> tuple[tuple[object, ...], ...]:
    """Calls that a kernel makes: each CPU maps and unmaps a range of its own, in turn, or dumps."""
    cpus = []
    for page in (0, 2):
        pages, level = draw(st.sampled_from([(2, "pte"), (2, "pmd"), (1, "pte")]))
        prot = draw(st.sampled_from(["rw", "rw", "rwx"]))
        uses = (Vmap(page, pages, level, prot=prot), Vunmap(page, pages))
        walks = (draw(st.sampled_from([CatKernelPageTables(), CheckWxPages()])),)
        cpus.append(draw(st.sampled_from([uses, uses[:1], walks, (*walks, *uses[:1])])))
    return tuple(cpus)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(registry.shipped())),
    st.sampled_from([("arm64", "arm64"), ("arm64", "tso"), ("x86_64", "tso")]),
    own_ranges(),
    st.booleans(),
)
def test_any_scenario_of_ranges_apart(
    mitigation: str, machine: tuple[str, str], cpus: tuple[tuple[object, ...], ...], tlb: bool
) -> None:
    arch, memory = machine
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 2, "pte"), Vunmap(2, 2))
    scenario = Scenario(arch, "4K", 4, 2, setup, cpus, tlb=tlb)  # type: ignore[arg-type]
    both(System(scenario, registry.get(mitigation), memory), MOST)


STORES_IN_ANY_ORDER: list[list[Recipe]] = [
    [("store", 0, 1, None), ("store", 1, 1, None)],
    [("load", 1, None, Order.ACQUIRE), ("load", 0, None, None)],
]
STALE_UNTIL_INTERRUPTED: list[list[Recipe]] = [
    [("store", 0, 1, None), ("fence", 0, Barrier.DMB_ISHST, None), ("store", 1, 1, None), ("kick", 0, None, None)],
    [("load", 1, None, None), ("load", 0, None, None)],
]


def test_what_a_cpu_stored_is_seen_by_whom_it_interrupts() -> None:
    """The store of the sender is in place before any CPU takes the interrupt, kept back until then or not."""
    stores: list[Recipe] = [("store", 0, 1, None), ("store", 1, 2, None), ("fence", 0, Barrier.DMB_ISHST, None)]
    sends: list[Recipe] = [("store", 2, 2, Order.RELEASE), ("kick", 2, None, None), ("store", 2, 11, None)]
    loads = [[*stores, ("load", 2, None, None)], [*sends, ("load", 1, None, Order.ACQUIRE)]]
    assert both(small_task("arm64", loads), MOST)


def loses(lists: list[list[Recipe]]) -> None:
    """Assert that reductions lose an end of these programs."""
    with pytest.raises(AssertionError):
        both(small_task("arm64", lists), MOST)


def test_it_is_noticed_if_stores_are_never_kept_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(small_task("arm64", STORES_IN_ANY_ORDER), MOST)
    monkeypatch.setattr(WeakFootprints, "idle", lambda self, node: True)
    loses(STORES_IN_ANY_ORDER)


def test_it_is_noticed_if_interrupts_conflict_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(small_task("arm64", STALE_UNTIL_INTERRUPTED), MOST)
    monkeypatch.setattr(WeakFootprints, "_stale", lambda self: [])
    monkeypatch.setattr(WeakFootprints, "branches", (0, 0))
    loses(STALE_UNTIL_INTERRUPTED)


def test_it_is_noticed_if_what_is_kept_back_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WeakReduction, "_begun_at", lambda self, number: ())
    with pytest.raises(AssertionError):
        both(small_task("arm64", STORES_IN_ANY_ORDER), MOST)


@pytest.mark.parametrize("mitigation", ["none", "deferred-free"])
@pytest.mark.parametrize("memory", ["tso", "arm64"])
def test_schedules_replay_on_a_machine(mitigation: str, memory: str) -> None:
    system = System(shipped.get("pmd-promotion"), registry.get(mitigation), memory)
    verdict = verify(system)
    assert (verdict.verdict, verdict.complete) == ("bug", True)
    assert verdict.schedule is not None
    chooser = Replay(verdict.schedule)
    assert execute(system.machine(), chooser).failure == verdict.failure
    chooser.finish()


def test_a_scheme_proven_under_arm64_is_so_without_reductions() -> None:
    for scenario in ("pmd-promotion", "three-levels"):
        system = System(shipped.get(scenario), registry.get("static-key"), "arm64")
        for reduce in (True, False):
            verdict = verify(system, reduce=reduce)
            assert (verdict.verdict, verdict.complete) == ("safe", True)


def test_what_walks_have_noted_changes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    system: Any = System(shipped.get("check-wx"), registry.get("static-key"), "arm64")
    found = []
    for without_text in (True, False):
        space = Space(system, without_text=without_text)
        foresee(space, Limits())
        whole = space.settled(lambda space=space: search(space, Limits(), first_only=False))  # type: ignore[misc]
        memories = [space.shared.memory(end & 0xFFFFFFFF) for end in whole.ends]  # type: ignore[attr-defined]
        assert all(isinstance(memory, Arm64) for memory in memories)
        found.append((set(whole.findings), {memory.state()[0][0] for memory in memories}))  # type: ignore[index]
    assert found[0] == found[1]


@pytest.fixture
def notes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks of which no W+X mapping is noted, so that those that are there all along are missed."""
    check = Oracles._check_noted

    def forgetful(self: Oracles, cpu: int, noted: Mapping) -> None:
        check(self, cpu, noted)
        self._walks[cpu] = replace(self._walks[cpu], wx_noted=frozenset())

    monkeypatch.setattr(Oracles, "_check_noted", forgetful)


@pytest.mark.parametrize("memory", ["tso", "arm64"])
def test_a_walk_begins_before_and_after_a_wx_mapping(memory: str, notes_nothing: None) -> None:
    """The second promotion's lock orders the first one's mapping before a walk that gets the lock after it."""
    setup = (Vmap(0, 2, "pte"), Vunmap(0, 2), Vmap(2, 2, "pte"), Vunmap(2, 2))
    maps = (Vmap(0, 2, "pmd", prot="rwx"), Vmap(2, 2, "pmd"))
    scenario = Scenario("arm64", "4K", 4, 2, setup, (maps, (CheckWxPages(),)))
    system = System(scenario, registry.get("mmap-lock-always"), memory)
    assert both(system, MOST)
    verdict = verify(system)
    assert verdict.failure is not None and verdict.failure.error == "wx-missed"
