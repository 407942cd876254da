"""fuzzvm.scenario.scenario: scenarios as plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations import registry
from fuzzvm.scenario.calls import CatKernelPageTables, CatPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import MAX_BOOT_PAGES, MAX_CALLS, MAX_CPUS, Scenario

GOOD: dict[str, Any] = {
    "arch": "arm64",
    "page_size": "4K",
    "levels": 3,
    "fanout": 4,
    "setup": ["vmap(page=0, nr_pages=4, max_page_shift='pte')"],
    "cpus": [["vunmap(page=0, nr_pages=4)"], ["check_wx_pages()"]],
}


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    arch, levels = draw(st.sampled_from([("arm64", 3), ("arm64", 4), ("x86_64", 4)]))
    fanout = draw(st.sampled_from([2, 4, 8, 512]))
    top = min(fanout**levels, 1 << 8)

    @st.composite
    def vmaps(draw: st.DrawFn) -> Vmap:
        page = draw(st.integers(0, top - 1))
        return Vmap(page, draw(st.integers(1, min(top - page, 16))), draw(st.sampled_from(["pte", "pmd", "pud"])))

    calls = st.lists(st.one_of(vmaps(), st.sampled_from([CheckWxPages(), CatKernelPageTables()])), max_size=4).map(
        tuple
    )
    return Scenario(
        arch,
        "4K",
        levels,
        fanout,
        draw(calls),
        tuple(draw(st.lists(calls, min_size=1, max_size=MAX_CPUS))),
        draw(st.text(max_size=10).filter(str.isprintable)),
        draw(st.text(max_size=10).filter(str.isprintable)),
        tlb=draw(st.booleans()),
    )


@given(scenarios())
def test_data_round_trips(scenario: Scenario) -> None:
    data = scenario.to_data()
    assert Scenario.from_data(data) == scenario
    assert Scenario.from_data(json.loads(json.dumps(data))) == scenario


def test_data_is_plain() -> None:
    assert Scenario.from_data(GOOD).to_data() == GOOD
    assert Scenario.from_data(GOOD | {"tlb": True}).to_data() == GOOD | {"tlb": True}
    assert Scenario.from_data(GOOD | {"tlb": False}).to_data() == GOOD
    without = {key: value for key, value in GOOD.items() if key != "setup"}
    assert Scenario.from_data(without).setup == ()


def changed(**changes: Any) -> dict[str, Any]:
    return GOOD | changes


@pytest.mark.parametrize(
    ("data", "message", "key"),
    [
        ({k: v for k, v in GOOD.items() if k != "arch"}, "a scenario needs 'arch'", None),
        ({k: v for k, v in GOOD.items() if k != "fanout"}, "a scenario needs 'fanout'", None),
        ({k: v for k, v in GOOD.items() if k != "cpus"}, "a scenario needs 'cpus'", None),
        ({}, "a scenario needs 'arch'", None),
        (changed(extra=1), "unknown key 'extra' in a scenario", "extra"),
        (changed(arch="sparc"), "no architecture 'sparc'; there are arm64, x86_64", "arch"),
        (changed(cpus=[["cat_page_tables(mm='efi_mm')"]]), "efi_mm shares no page tables with the kernel", "cpus"),
        (changed(arch=3), "arch must be str, not 3", "arch"),
        (changed(page_size="8K"), "page_size must be one of 4K", "page_size"),
        (changed(levels=6), "levels must be one of 3, 4, 5 on arm64 with 4K pages, not 6", "levels"),
        (changed(page_size="64K", levels=4), "levels must be one of 2, 3 on arm64 with 64K pages, not 4", "levels"),
        (changed(arch="x86_64", levels=4, cont_ptes=2), "x86_64 has no contiguous blocks", "cont_ptes"),
        (changed(cont_ptes=3), "cont_ptes must be a power of two below the fanout, or 0, not 3", "cont_ptes"),
        (changed(cont_ptes=4), "cont_ptes must be a power of two below the fanout, or 0, not 4", "cont_ptes"),
        (changed(cont_ptes=-2), "cont_ptes must be a power of two below the fanout, or 0, not -2", "cont_ptes"),
        (changed(cont_ptes=True), "cont_ptes must be int, not True", "cont_ptes"),
        (changed(lazy_mmu=1), "lazy_mmu must be bool, not 1", "lazy_mmu"),
        (changed(page_size="16K", fanout=4096), "fanout must be a power of two from 2 to 2048, not 4096", "fanout"),
        (changed(levels="3"), "levels must be int, not '3'", "levels"),
        (changed(levels=True), "levels must be int, not True", "levels"),
        (changed(fanout=3), "fanout must be a power of two from 2 to 512, not 3", "fanout"),
        (changed(fanout=1), "fanout must be a power of two", "fanout"),
        (changed(fanout=0), "fanout must be a power of two", "fanout"),
        (changed(fanout=-2), "fanout must be a power of two", "fanout"),
        (changed(fanout=1024), "fanout must be a power of two", "fanout"),
        (changed(tlb=1), "tlb must be bool, not 1", "tlb"),
        (changed(name=1), "name must be str, not 1", "name"),
        (changed(cpus=[]), f"1 to {MAX_CPUS} CPUs are possible, not 0", "cpus"),
        (changed(cpus=[[]] * (MAX_CPUS + 1)), f"1 to {MAX_CPUS} CPUs are possible, not {MAX_CPUS + 1}", "cpus"),
        (changed(cpus="check_wx_pages()"), "cpus must be a list of lists of calls", "cpus"),
        (changed(cpus=["check_wx_pages()"]), "cpus must be a list of lists of calls", "cpus"),
        (changed(cpus=[[1]]), "CPU 0, cpus must be a list of calls as strings", "cpus"),
        (changed(setup="vmap()"), "setup must be a list of calls as strings", "setup"),
        (changed(setup=[None]), "setup must be a list of calls as strings", "setup"),
        (changed(setup=["vmap()"]), "call 1: vmap needs page, nr_pages", "vmap()"),
        (changed(cpus=[[], ["check_wx_pages()", "no()"]]), "CPU 1, call 2: no call 'no'; there are", "no()"),
        (changed(cpus=[["check_wx_pages()"] * (MAX_CALLS + 1)]), f"at most {MAX_CALLS} calls a CPU", "cpus"),
        (changed(setup=["vmap(page=60, nr_pages=5)"]), "vmap(page=60, nr_pages=5) ends past the 64 pages", "setup"),
        (changed(cpus=[["vunmap(page=64, nr_pages=1)"]]), "ends past the 64 pages", "cpus"),
        (
            changed(fanout=512, cpus=[[f"vmalloc(area='a', nr_pages={MAX_BOOT_PAGES})"] * 2]),
            f"at most {MAX_BOOT_PAGES} are possible",
            "cpus",
        ),
    ],
)
def test_bad_data_is_refused_in_one_line(data: dict[str, Any], message: str, key: str | None) -> None:
    with pytest.raises(ScenarioError) as caught:
        Scenario.from_data(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.key == key


def test_features_of_the_kernel_are_in_the_data_only_where_they_are_set() -> None:
    data = changed(cont_ptes=2, lazy_mmu=True)
    scenario = Scenario.from_data(data)
    assert (scenario.geometry().cont_ptes, scenario.geometry().cont_pmds) == (2, 2)
    assert scenario.to_data() == data
    assert "cont_ptes" not in Scenario.from_data(GOOD).to_data()


@pytest.mark.parametrize(
    ("page_size", "levels", "fanout", "cont"),
    [
        ("4K", 4, 512, (16, 16)),
        ("4K", 5, 512, (16, 16)),
        ("16K", 4, 2048, (128, 32)),
        ("16K", 2, 2048, (128, 32)),
        ("64K", 3, 8192, (32, 32)),
        ("64K", 2, 8192, (32, 32)),
        ("4K", 4, 256, (1, 1)),
        ("16K", 3, 512, (1, 1)),
        ("64K", 3, 16, (1, 1)),
    ],
)
def test_contiguous_blocks_are_the_real_ones_with_the_real_fanout_and_else_none(
    page_size: str, levels: int, fanout: int, cont: tuple[int, int]
) -> None:
    geometry = Scenario.from_data(changed(page_size=page_size, levels=levels, fanout=fanout)).geometry()
    assert (geometry.cont_ptes, geometry.cont_pmds) == cont
    off = Scenario.from_data(changed(page_size=page_size, levels=levels, fanout=fanout, cont_ptes=1)).geometry()
    assert (off.cont_ptes, off.cont_pmds) == (1, 1)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*GOOD, "name", "summary", "other"]), JSON, max_size=3))
def test_any_data_is_a_scenario_or_a_scenario_error(changes: dict[str, Any]) -> None:
    try:
        scenario = Scenario.from_data(GOOD | changes)
    except ScenarioError as error:
        assert "\n" not in str(error)
    else:
        assert Scenario.from_data(scenario.to_data()) == scenario


@pytest.mark.parametrize(
    ("arch", "levels", "fanout", "pages"),
    [("arm64", 3, 4, 64), ("arm64", 4, 2, 16), ("arm64", 3, 512, 1 << 27), ("x86_64", 4, 512, 110 << 27)],
)
def test_the_pages_that_there_are(arch: str, levels: int, fanout: int, pages: int) -> None:
    """All that the root maps from the beginning of the vmalloc area on."""
    geometry = Scenario(arch, "4K", levels, fanout, (), ((),)).geometry()
    assert (geometry.end - geometry.base) >> geometry.page_shift == pages


class Claims(Mitigation):
    name = "claims"
    one_walker = "safe"
    two_walkers = "bug"


def test_expected_verdicts_follow_the_number_of_walkers() -> None:
    maps, walks = (Vmap(0, 1),), (CatKernelPageTables(), CheckWxPages())
    expected = {(maps, maps): "safe", (maps, walks): "safe", (maps, walks, walks): "bug"}
    for cpus, verdict in expected.items():
        scenario = Scenario("arm64", "4K", 3, 2, (), cpus)
        assert scenario.walkers == cpus.count(walks)
        assert scenario.expected(Claims) == verdict
    assert Scenario("arm64", "4K", 3, 2, (), (maps, walks)).expected(Mitigation) is None


def test_with_nobody_to_race_with_every_mitigation_is_safe() -> None:
    maps, walks = (Vmap(0, 1),), (CheckWxPages(),)
    for cpus in ((walks, walks), ((*maps, *walks),), (walks, (Vunmap(0, 1),)), (maps, ())):
        assert Scenario("arm64", "4K", 3, 2, (), cpus).expected(Claims) == "safe"
    assert Scenario("arm64", "4K", 3, 2, (), ((*maps, *walks), walks)).expected(Claims) == "bug"


class CoversInitMm(Claims):
    name = "covers-init-mm"
    two_walkers = "safe"
    other_mm = "bug"


def test_a_walk_of_another_mm_is_a_race_of_its_own_kind() -> None:
    maps, own, other = (Vmap(0, 1),), (CatPageTables("init_mm"),), (CatPageTables("efi_mm"),)
    for cpus, mms, expected, beyond in (
        ((maps, own), (), "safe", False),
        ((maps, other), ("efi_mm",), "bug", True),
        ((maps, own, other), ("efi_mm",), "bug", True),
        ((other, other), ("efi_mm",), "safe", False),
    ):
        scenario = Scenario("x86_64", "4K", 4, 2, (), cpus)
        assert scenario.other_mms == mms
        assert scenario.expected(CoversInitMm) == expected
        assert scenario.beyond(CoversInitMm) is beyond
        # one that is claimed to fail anyway is not out of its depth here
        assert not scenario.beyond(registry.get("none"))
    assert Scenario("x86_64", "4K", 4, 2, (), (maps, other)).expected(Claims) is None
