"""Normal forms lose nothing and invent nothing: a state and its normal form are bisimilar, way by way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.needs import Assumed
from fuzzvm.exhaustive.search import search
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64 import outline
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.memory.arm64.comparisons import Places, Reach, carries_views
from fuzzvm.machine.ops import Barrier, Operation, Order
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.exhaustive.small_programs import PATCHES, RECIPES, WORD, Recipe, programs, small_task
from tests.exhaustive.two_regions import RECIPES as REGION_RECIPES
from tests.exhaustive.two_regions import RegionSystem

MOST = 600


class Whole(Arm64):
    """AArch64 memory that remembers everything."""

    def copy(self) -> Whole:
        other = super().copy()
        other.__class__ = Whole
        assert isinstance(other, Whole)
        return other

    def normalise(self, needs: Sequence[Needs]) -> None:
        pass


@pytest.fixture(autouse=True)
def _with_whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known = memory_models.get
    monkeypatch.setattr(memory_models, "get", lambda name: Whole if name == "whole" else known(name))
    yield


def pending(space: Space, state: int) -> list[Operation | None]:
    """Return the operation that each CPU executes next."""
    return [space.automata[lane.cpu].nodes[lane.local(state)].op for lane in space.lanes]


def bisimilar(normal: Space, raw: Space, most: int) -> bool:
    """Step states and their normal forms side by side, everywhere; return whether that came to an end."""
    found = normal.settled(lambda: search(normal, Limits(max_states=most), first_only=False))
    if not found.complete:
        return False
    assert isinstance(raw.start, int)
    assert isinstance(normal.start, int)
    seen = {(raw.start, normal.start)}
    todo = list(seen)
    while todo:
        state, image = todo.pop()
        assert pending(raw, state) == pending(normal, image)
        steps, images = raw.steps(state), normal.steps(image)
        assert [(who, way.choices, way.finding) for who, way in steps] == [
            (who, way.choices, way.finding) for who, way in images
        ]
        if not steps:
            assert raw.ended(state) == normal.ended(image)
        for (_, way), (_, image_way) in zip(steps, images, strict=True):
            pair = (state + way.delta, image + image_way.delta)
            if way.finding is None and pair not in seen:
                seen.add(pair)
                todo.append(pair)
        if len(seen) > most * 3:
            return False
    return True


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(RECIPES, 9))
def test_small_programs(lists: list[list[Recipe]]) -> None:
    bisimilar(Space(small_task("arm64", lists)), Space(small_task("whole", lists), forget=False), MOST)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(PATCHES, 9))
def test_small_programs_that_patch_code(lists: list[list[Recipe]]) -> None:
    bisimilar(Space(small_task("arm64", lists)), Space(small_task("whole", lists), forget=False), MOST)


def stale_after_a_flag() -> list[list[Recipe]]:
    """Return a reader that may see the flag and not the data, for want of a barrier."""
    stores: list[Recipe] = [("store", 0, 1, None), ("fence", 0, Barrier.DMB_ISHST, None), ("store", 1, 1, None)]
    return [stores, [("load", 1, None, None), ("load", 0, None, None)]]


def test_it_is_noticed_if_a_store_is_forgotten_that_can_still_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = stale_after_a_flag()
    assert bisimilar(Space(small_task("arm64", lists)), Space(small_task("whole", lists), forget=False), MOST)
    monkeypatch.setattr(outline, "_bound", lambda view, address: 1 << 30)
    with pytest.raises(AssertionError):
        bisimilar(Space(small_task("arm64", lists)), Space(small_task("whole", lists), forget=False), MOST)


def test_it_is_noticed_if_a_cpu_is_taken_to_read_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = stale_after_a_flag()
    nothing = Needs(*[frozenset()] * 6, stores=False, overtakes=False)
    monkeypatch.setattr(Assumed, "needs", lambda self, mask: nothing)
    with pytest.raises(AssertionError):
        bisimilar(Space(small_task("arm64", lists)), Space(small_task("whole", lists), forget=False), MOST)


def alike(lists: list[list[Recipe]], most: int = MOST) -> bool:
    """Compare programs that end with an atomic, so that some CPU may do nothing but load."""
    systems = [small_task(memory, lists, stored=False) for memory in ("arm64", "whole")]
    return bisimilar(Space(systems[0]), Space(systems[1], forget=False), most)


LOADS: st.SearchStrategy[Recipe] = st.tuples(
    st.just("load"), WORD, st.none(), st.sampled_from([None, None, None, Order.ACQUIRE])
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(RECIPES, 5), st.lists(st.one_of(LOADS, LOADS, LOADS, RECIPES), min_size=1, max_size=3))
def test_small_programs_beside_one_that_loads(lists: list[list[Recipe]], loads: list[Recipe]) -> None:
    alike([*lists[:2], loads])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(REGION_RECIPES, min_size=1, max_size=3), min_size=2, max_size=2), st.booleans())
def test_small_programs_on_page_tables(lists: list[list[Recipe]], stored: bool) -> None:
    systems = [RegionSystem(memory, lists, stored=stored) for memory in ("arm64", "whole")]
    bisimilar(Space(systems[0]), Space(systems[1], forget=False), MOST)


def store(word: int, value: int, order: Order | None = None) -> Recipe:
    return ("store", word, value, order)


def load(word: int, order: Order | None = None) -> Recipe:
    return ("load", word, None, order)


POINTER = 10
"""Added to a word's number: a pointer to it."""
IN_ORDER: Recipe = ("fence", 0, Barrier.DMB_ISHST, None)
LOADS_IN_ORDER: Recipe = ("fence", 0, Barrier.DMB_ISHLD, None)
LOADED_THROUGH_TWO_POINTERS = [
    [store(1, POINTER + 2), IN_ORDER, store(2, 1), IN_ORDER, store(0, POINTER + 1)],
    [load(0), load(1), load(2)],
]
LOADED_THROUGH_A_POINTER = [[store(2, 1), IN_ORDER, store(0, POINTER + 2)], [load(0), load(2)]]
ACQUIRED = [[store(2, 1), IN_ORDER, store(0, 1)], [load(0, Order.ACQUIRE), load(2)]]
BEHIND_A_BARRIER = [[store(2, 1), IN_ORDER, store(0, 1)], [load(0), LOADS_IN_ORDER, load(2)]]
THROUGH_AN_OWN_STORE = [
    [store(2, 1), IN_ORDER, store(0, POINTER + 1)],
    [load(0), store(1, POINTER + 2), load(1), load(2)],
]
RELEASED_BEFORE = [[store(1, 1)], [store(2, 1)], [store(3, 1, Order.RELEASE), load(0, Order.ACQUIRE), load(1), load(2)]]


def carries_by_loads_and_barriers(needs: Needs, *, pending: bool) -> bool:
    return pending or carries_views(needs._replace(stores=False), pending=False)


def compare_no_views(self: Places, points: Any, reach: Any, readable: Any, views: Any, learned: Any) -> None:
    _compare_within(self, points, reach, readable, (), learned)


def compare_without_acquires(self: Places, points: Any, reach: Reach, readable: Any, views: Any, learned: Any) -> None:
    ordering, reach.ordering = reach.ordering, frozenset()
    _compare_within(self, points, reach, readable, views, learned)
    reach.ordering = ordering


_compare_within = Places.compare_within
TOO_FEW_COMPARISONS: list[tuple[list[list[Recipe]], object, str, object]] = [
    (LOADED_THROUGH_A_POINTER, Reach, "objects", lambda self, number: frozenset()),
    (LOADED_THROUGH_TWO_POINTERS, Reach, "objects", lambda self, number: frozenset({number})),
    (BEHIND_A_BARRIER, outline, "carries_views", lambda needs, *, pending: False),
    (THROUGH_AN_OWN_STORE, outline, "carries_views", carries_by_loads_and_barriers),
    (ACQUIRED, Places, "compare_within", compare_without_acquires),
    (RELEASED_BEFORE, Places, "compare_within", compare_no_views),
]


@pytest.mark.parametrize(("lists", "where", "name", "wrong"), TOO_FEW_COMPARISONS)
def test_it_is_noticed_if_places_are_not_compared(
    lists: list[list[Recipe]], where: object, name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert alike(lists, 3000)
    monkeypatch.setattr(where, name, wrong)
    with pytest.raises(AssertionError):
        alike(lists, 3000)


def test_stores_that_nobody_compares_have_no_order() -> None:
    """Two CPUs store beside one that only loads: whichever was first, the states are one."""
    lists = [[store(0, 1)], [store(1, 1)], [load(0), load(1)]]
    counts = []
    for carries in (carries_views, lambda needs, *, pending: True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(outline, "carries_views", carries)
            space = Space(small_task("arm64", lists, stored=False))
            counts.append(space.settled(lambda space=space: search(space, Limits(), first_only=False)).states)  # type: ignore[misc]
    assert counts[0] < counts[1]


def test_it_is_noticed_if_loads_are_forgotten_that_a_store_may_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU loads from a table and stores; a free that follows from the store races with the load."""
    lists = [[("read", 0, 1), ("pte", 2, 1)], [("pmd", 0, 1), ("free", 0, 1)]]
    raw = Space(RegionSystem("whole", lists, stored=False), forget=False)
    assert bisimilar(Space(RegionSystem("arm64", lists, stored=False)), raw, MOST)
    needs = Assumed.needs
    monkeypatch.setattr(Assumed, "needs", lambda self, mask: needs(self, mask)._replace(overtakes=False))
    with pytest.raises(AssertionError):
        bisimilar(Space(RegionSystem("arm64", lists, stored=False)), raw, MOST)


@pytest.mark.parametrize("mitigation", ["none", "mmap-lock-always", "config-off"])
def test_kernel_code(mitigation: str) -> None:
    scheme, scenario = registry.get(mitigation), shipped.get("pmd-promotion")
    normal = Space(System(scenario, scheme, "arm64"))
    raw = Space(System(scenario, scheme, "whole"), forget=False)
    assert bisimilar(normal, raw, MOST)
