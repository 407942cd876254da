"""Reductions lose nothing where TLBs are watched under tso and arm64: hardware reads page tables at any time."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive.automaton import Node
from fuzzvm.exhaustive.reduced_weakly import Begun, WeakReduction
from fuzzvm.exhaustive.space import Entry, Lane
from fuzzvm.exhaustive.weak_footprint import WeakFootprints
from fuzzvm.machine.ops import Barrier, Order
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.exhaustive.reduction import both
from tests.exhaustive.small_tables import CHANGE, FLUSH, STEPS, Step, TableSystem

MOST = 20_000
POINTS = ["flush-dsb-ishst", "flush-tlbi", "flush-dsb-ish", "flush-isb", "flush-ipi"]
CELLS = [
    (mitigation, scenario, memory, point)
    for mitigation in ("static-key", "vmap-trylock")
    for scenario, memory in (("pmd-promotion", "arm64"), ("tlb-promotion", "tso"), ("tlb-x86-promotion", "tso"))
    for point in (None, *POINTS)
]


def watched(mitigation: str, scenario: str, memory: str, point: str | None) -> System:
    """Return a system whose TLBs are watched, with an ordering point switched off."""
    with_tlbs = replace(shipped.get(scenario), tlb=True)
    return System(with_tlbs, registry.get(mitigation), memory, without=() if point is None else (point,))


@pytest.mark.product
@pytest.mark.parametrize(("mitigation", "scenario", "memory", "point"), CELLS)
def test_kernel_code(mitigation: str, scenario: str, memory: str, point: str | None) -> None:
    assert both(watched(mitigation, scenario, memory, point), MOST)


PARTS = st.lists(st.one_of(STEPS.map(lambda step: [step]), st.just(FLUSH), st.just(CHANGE)), min_size=1, max_size=3)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([("arm64", "arm64"), ("arm64", "tso"), ("x86_64", "tso")]),
    st.lists(PARTS, min_size=2, max_size=3),
)
def test_small_programs(machine: tuple[str, str], lists: list[list[list[Step]]]) -> None:
    both(TableSystem(*machine, [[*chain.from_iterable(parts)] for parts in lists]), MOST)


REMAPPED_TOO_EARLY: list[list[Step]] = [
    [("set", 0, 0), ("fence", 0, Barrier.DSB_ISHST), ("store", 0, Order.RELEASE), *FLUSH],
    [("await", 0, None), ("set", 0, 2)],
]
INVALIDATED_TOO_EARLY: list[list[Step]] = [[("set", 0, 0), *FLUSH, ("set", 0, 2)], [("load", 1, Order.PLAIN)]]


def test_an_entry_that_is_cleared_and_flushed_may_be_set_to_another_page() -> None:
    assert both(TableSystem("arm64", "arm64", [CHANGE, [("load", 1, Order.PLAIN)]]), MOST)


def finds_nothing(lists: list[list[Step]]) -> None:
    """Assert that reductions lose the error of these programs."""
    with pytest.raises(AssertionError):
        both(TableSystem("arm64", "arm64", lists), MOST)


def test_it_is_noticed_if_invalidations_conflict_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert both(TableSystem("arm64", "arm64", REMAPPED_TOO_EARLY), MOST)
    make = WeakFootprints.__init__
    monkeypatch.setattr(WeakFootprints, "__init__", lambda self, *of, hardware: make(self, *of, hardware=False))
    finds_nothing(REMAPPED_TOO_EARLY)


def test_it_is_noticed_if_a_clear_is_put_before_its_invalidation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardware reads the entry again after the TLBI where no DSB before it makes the clear visible."""
    assert both(TableSystem("arm64", "arm64", INVALIDATED_TOO_EARLY), MOST)
    put_early = WeakReduction._put_early

    def without_tlbs(self: WeakReduction, lane: Lane, key: int, entry: Entry, begun: Begun) -> Entry:
        self._hardware = False
        return put_early(self, lane, key, entry, begun)

    monkeypatch.setattr(WeakReduction, "_put_early", without_tlbs)
    finds_nothing(INVALIDATED_TOO_EARLY)


def test_it_is_noticed_if_a_clear_may_not_come_after_its_invalidation(monkeypatch: pytest.MonkeyPatch) -> None:
    system = watched("static-key", "tlb-promotion", "arm64", "flush-dsb-ishst")
    assert both(system, MOST)
    idle = WeakFootprints.idle

    def without_tlbs(self: WeakFootprints, node: Node) -> bool:
        self._hardware = False
        found = idle(self, node)
        self._hardware = True
        return found

    monkeypatch.setattr(WeakFootprints, "idle", without_tlbs)
    with pytest.raises(AssertionError):
        both(system, MOST)
