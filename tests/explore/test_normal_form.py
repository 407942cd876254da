"""Normal forms lose nothing and invent nothing: a state and its normal form are bisimilar, way by way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from fuzzvm.explore.exhaustive.limits import Limits
from fuzzvm.explore.exhaustive.needs import Assumed
from fuzzvm.explore.exhaustive.search import search
from fuzzvm.explore.exhaustive.space import Space
from fuzzvm.machine import memory as memory_models
from fuzzvm.machine.memory import Needs
from fuzzvm.machine.memory.arm64.adapter import Arm64
from fuzzvm.machine.memory.arm64.normal_form import _Kept
from fuzzvm.machine.ops import Barrier, Operation
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.explore.small_programs import PATCHES, RECIPES, Recipe, programs, small_system

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
    bisimilar(Space(small_system("arm64", lists)), Space(small_system("whole", lists), forget=False), MOST)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(PATCHES, 9))
def test_small_programs_that_patch_code(lists: list[list[Recipe]]) -> None:
    bisimilar(Space(small_system("arm64", lists)), Space(small_system("whole", lists), forget=False), MOST)


def stale_after_a_flag() -> list[list[Recipe]]:
    """Return a reader that may see the flag and not the data, for want of a barrier."""
    stores: list[Recipe] = [("store", 0, 1, None), ("fence", 0, Barrier.DMB_ISHST, None), ("store", 1, 1, None)]
    return [stores, [("load", 1, None, None), ("load", 0, None, None)]]


def test_it_is_noticed_if_a_store_is_forgotten_that_can_still_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = stale_after_a_flag()
    assert bisimilar(Space(small_system("arm64", lists)), Space(small_system("whole", lists), forget=False), MOST)
    monkeypatch.setattr(_Kept, "_bound", lambda self, cpu, address: 1 << 30)
    with pytest.raises(AssertionError):
        bisimilar(Space(small_system("arm64", lists)), Space(small_system("whole", lists), forget=False), MOST)


def test_it_is_noticed_if_a_cpu_is_taken_to_read_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = stale_after_a_flag()
    nothing = Needs(*[frozenset()] * 5, overtakes=False)
    monkeypatch.setattr(Assumed, "needs", lambda self, mask: nothing)
    with pytest.raises(AssertionError):
        bisimilar(Space(small_system("arm64", lists)), Space(small_system("whole", lists), forget=False), MOST)


@pytest.mark.parametrize("mitigation", ["none", "mmap-lock-always", "config-off"])
def test_kernel_code(mitigation: str) -> None:
    scheme, scenario = registry.get(mitigation), shipped.get("pmd-promotion")
    normal = Space(System(scenario, scheme, "arm64"))
    raw = Space(System(scenario, scheme, "whole"), forget=False)
    assert bisimilar(normal, raw, MOST)
