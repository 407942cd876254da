"""What no scenario may do to the kernel's API in every order of its calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from fuzzvm.corpus.store import find
from fuzzvm.scenario import preconditions, shipped
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.preconditions import breach
from fuzzvm.scenario.scenario import Scenario

CORPUS = Path(__file__).parents[2] / "corpus"


def scenario(setup: list[str], *cpus: list[str], arch: str = "arm64") -> Scenario:
    return Scenario(
        arch,
        "4K",
        3 if arch == "arm64" else 4,
        4,
        tuple(map(parse_call, setup)),
        tuple(tuple(map(parse_call, c)) for c in cpus),
    )


@pytest.mark.parametrize("name", shipped.shipped())
def test_scenarios_that_ship_break_nothing(name: str) -> None:
    assert breach(shipped.get(name)) == ""


def test_no_test_case_of_the_corpus_breaks_anything() -> None:
    scenarios = {read(path).scenario.anonymous() for path in find([CORPUS / "regressions", CORPUS / "necessity"])}
    assert len(scenarios) > 10
    assert {breach(one) for one in scenarios} == {""}


@pytest.mark.parametrize(
    ("setup", "calls", "expected"),
    [
        (["vmap(page=0, nr_pages=2)"], ["vmap(page=1, nr_pages=1)"], "page 1 is mapped already"),
        (
            ["vmap(page=0, nr_pages=2)", "vmap(page=0, nr_pages=1)"],
            [],
            "setup, call 2, vmap(page=0, nr_pages=1): page 0",
        ),
        ([], ["vunmap(page=0, nr_pages=2)"], "none of the pages is mapped"),
        ([], ["vfree(area='a')"], "there is no area 'a'"),
        (["vmalloc(area='a', nr_pages=1)"], ["vfree(area='a')", "vfree(area='a')"], "there is no area 'a'"),
        (["vmap(page=0, nr_pages=1)"], ["set_memory_ro(page=0, nr_pages=2)"], "page 1 is not mapped"),
        (["vmap(page=0, nr_pages=1)"], ["set_memory_rox(page=1, nr_pages=1)"], "page 1 is not mapped"),
        # vmalloc hands out the lowest addresses, and knows nothing of what vmap has put there
        (["vmap(page=0, nr_pages=1)"], ["vmalloc(area='a', nr_pages=1)"], "map-over-mapping"),
    ],
)
def test_what_is_broken_is_named(setup: list[str], calls: list[str], expected: str) -> None:
    assert expected in breach(scenario(setup, calls))


@pytest.mark.parametrize(
    ("setup", "calls"),
    [
        (["vmap(page=0, nr_pages=2)", "vunmap(page=0, nr_pages=2)"], ["vmap(page=0, nr_pages=4)"]),
        # part of a range may be mapped: vunmap_range() takes what it finds
        (["vmap(page=0, nr_pages=2)"], ["vunmap(page=0, nr_pages=4)"]),
        (["vmalloc(area='a', nr_pages=1)"], ["vfree(area='a')", "vmalloc(area='a', nr_pages=1)", "vfree(area='a')"]),
        ([], ["vmap(page=0, nr_pages=2)", "set_memory_ro(page=0, nr_pages=2)", "cat_kernel_page_tables()"]),
    ],
)
def test_what_is_as_it_should_be(setup: list[str], calls: list[str]) -> None:
    assert breach(scenario(setup, calls)) == ""


def test_one_order_that_breaks_nothing_is_enough() -> None:
    mapped, unmaps, maps = ["vmap(page=0, nr_pages=2)"], ["vunmap(page=0, nr_pages=2)"], ["vmap(page=0, nr_pages=2)"]
    assert breach(scenario(mapped, maps, unmaps)) == ""
    assert breach(scenario(mapped, unmaps, maps)) == ""
    assert breach(scenario(mapped, maps, maps, unmaps)) != ""


def test_an_area_that_two_cpus_free_is_freed_twice_in_every_order() -> None:
    both = ["vfree(area='a')"]
    assert "is freed" in breach(scenario(["vmalloc(area='a', nr_pages=1)"], both, both))


def test_past_the_bound_nothing_is_said_to_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    one = scenario(["vmap(page=0, nr_pages=1)"], ["vmap(page=0, nr_pages=1)"])
    assert breach(one) != ""
    monkeypatch.setattr(preconditions, "MAX_CALLS_MADE", 0)
    assert breach(one) == ""
