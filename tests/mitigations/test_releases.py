"""Releases: what each claims, that it differs by architecture, and the schemes that are tried on one."""

from __future__ import annotations

import importlib
from functools import reduce

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kbuild.modelled import modelled
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.errors import MitigationError
from fuzzvm.scenario import shipped
from fuzzvm.scenario.pairs import scenarios
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell, memories, verify_cell

NEWEST = "linux-7.3"
CELLS = [
    (release, name, memory)
    for release in registry.releases()
    for name, scenario in (shipped.shipped() | scenarios()).items()
    for memory in ("sc", memories(scenario)[-1])
    # a key under arm64's memory, with three CPUs, takes a minute
    if memory == "sc" or not name.endswith(("two-walkers", "two-promoters"))
]


def verdict(spec: str, scenario: Scenario | str, memory: str = "sc", *without: str) -> str:
    """Return the verdict, or the error where it is a bug; and check that it is the one that is claimed."""
    found = shipped.get(scenario) if isinstance(scenario, str) else scenario
    run = verify_cell(Cell(spec, found, memory, without), Bounds(Limits()))
    assert run.verdict.complete
    assert without or "+" in spec or run.as_expected
    return run.verdict.failure.error if run.verdict.failure else run.verdict.verdict


@pytest.mark.product
@pytest.mark.parametrize(("release", "scenario", "memory"), CELLS)
def test_a_release_has_the_verdicts_that_it_claims(release: str, scenario: str, memory: str) -> None:
    verdict(release, scenario, memory)


def test_they_are_listed_from_the_oldest() -> None:
    assert list(registry.releases()) == ["linux-6.12", "linux-6.18", "linux-7.3"]


def test_a_release_is_no_mitigation_that_ships() -> None:
    assert not set(registry.releases()) & set(registry.shipped())


@pytest.mark.parametrize(
    ("scenario", "point"),
    [
        ("x86-pmd-promotion", "promotion-lock"),
        ("x86-pud-promotion", "promotion-lock"),
        ("pmd-promotion", "promotion-lock"),
        ("pud-promotion", "promotion-lock"),
        ("x86-other-mm", "walk-init-lock"),
        ("pair-x86_64-collapse-pmd-ptdump", "collapse-lock"),
        ("pair-x86_64-collapse-pud-check-wx", "collapse-lock"),
        ("pair-x86_64-collapse-pmd-text-poke", "lookup-lock"),
    ],
)
def test_the_newest_is_safe_and_without_one_of_its_steps_it_is_not(scenario: str, point: str) -> None:
    assert verdict(NEWEST, scenario) == "safe"
    assert verdict(NEWEST, scenario, "sc", point) == USE_AFTER_FREE_READ


def test_a_change_of_protection_would_be_kept_from_a_collapse_by_cpa_lock_alone() -> None:
    """Both hold it while they look at entries, and what a change has looked up it looks up again after a split."""
    scenario = "pair-x86_64-collapse-pmd-attributes"
    assert verdict(NEWEST, scenario, "sc", "attributes-lock") == "safe"
    assert verdict(NEWEST, scenario, "sc", "attributes-lock", "collapse-lock") == "safe"


@pytest.mark.parametrize(
    "scenario",
    [
        "pair-x86_64-collapse-pmd-kcore",
        "pair-x86_64-collapse-pmd-perf-invlpgb",
        "pair-x86_64-collapse-pmd-spurious-fault-invlpgb",
        "pair-arm64-hot-remove-kexec-load",
    ],
)
def test_what_the_newest_leaves_open(scenario: str) -> None:
    assert verdict(NEWEST, scenario) == USE_AFTER_FREE_READ


def test_a_scheme_is_tried_on_a_release() -> None:
    """6.12 of arm64 has no block to promote to, whatever is tried on it; 7.3 is safe with one more lock, too."""
    assert verdict("linux-6.12+none", "pmd-promotion") == "safe"
    assert verdict("linux-7.3+none", "x86-pmd-promotion") == "safe"
    # it frees before anybody waits
    assert verdict("linux-6.18+none", "x86-pmd-promotion") == USE_AFTER_FREE_READ


def test_two_releases_are_two_kernels() -> None:
    with pytest.raises(MitigationError, match="are two kernels"):
        registry.get("linux-6.18+linux-7.3")


def test_the_pud_of_the_newest_leads_old_walkers_to_freed_tables() -> None:
    """6.12 clears each PMD first: what an old walker of the PMD table comes to next is a hole."""
    found = shipped.get("x86-pud-promotion")
    cell = Cell(NEWEST, found, "sc", ("promotion-lock",))
    failure = verify_cell(cell, Bounds(Limits())).verdict.failure
    assert failure is not None
    assert failure.error in {USE_AFTER_FREE_READ, FREE_OF_LINKED_TABLE}


def test_every_modelled_function_is_in_the_model() -> None:
    for function in modelled():
        module, _, name = function.model.partition(":")
        assert callable(reduce(getattr, name.split("."), importlib.import_module(module))), function.model
        assert function.digests, f"no tree was read for {function.name}"
