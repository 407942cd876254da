"""A search that pauses and goes on sees what one sees that does not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzzvm.bench.flat_model import FlatTask
from fuzzvm.exhaustive.limits import Limits
from fuzzvm.exhaustive.search import Search, Searched, search
from fuzzvm.exhaustive.space import Space
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System


def paused(system: System, pauses: Iterable[int], *, first_only: bool) -> Searched:
    """Return what a search sees that pauses at each of the numbers of states."""
    one = Search(Space(system), Limits(), first_only=first_only)
    for pause in pauses:
        found = one.run(pause)
        if found is not None:
            return found
        assert len(set(one.sample(1 << 30))) >= pause
    found = one.run()
    assert found is not None
    return found


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["none", "static-key", "deferred-free"]),
    st.sampled_from(["pmd-promotion", "two-tables"]),
    st.lists(st.integers(1, 800), max_size=4).map(sorted),
    st.booleans(),
)
def test_pauses_change_nothing(mitigation: str, scenario: str, pauses: list[int], first_only: bool) -> None:
    system = System(shipped.get(scenario), registry.get(mitigation), "sc")
    assert paused(system, pauses, first_only=first_only) == search(Space(system), Limits(), first_only=first_only)


def test_compiled_code_goes_on_where_python_paused() -> None:
    system = FlatTask(16, 2)
    one = Search(Space(system), Limits(), hand_over=2000)
    assert one.run(1000) is None
    assert one.run() == search(Space(system), Limits(), hand_over=None)


@pytest.mark.parametrize(("size", "least", "most"), [(1, 1, 1), (10, 10, 20), (10_000, 500, 510)])
def test_a_sample_is_spread_over_what_was_visited(size: int, least: int, most: int) -> None:
    one = Search(Space(FlatTask(16, 1)), Limits())
    assert one.run(500) is None
    sample = one.sample(size)
    assert least <= len(sample) == len(set(sample)) <= most
