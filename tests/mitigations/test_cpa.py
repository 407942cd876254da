"""Schemes around CPA: what a lock around the free of a collapse keeps away, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fuzzvm.exhaustive import verify
from fuzzvm.kernel.errors import BAD_TABLE_POINTER
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_trylock, mmap_read_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.machine.errors import USE_AFTER_FREE_READ
from fuzzvm.machine.ops import Steps
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System

COLLAPSES = ["x86-cpa-collapse", "x86-cpa-pud-collapse"]
BESIDE = Scenario.from_data(
    {
        "arch": "x86_64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pte')", "set_memory_rox(page=0, nr_pages=1)"],
        "cpus": [["set_memory_ro(page=0, nr_pages=1)"], ["set_memory_rox(page=1, nr_pages=1)"]],
    }
)
"""Two changes of protection under one PMD, the second of which completes what a block can be made of."""


class FreeOnly(Mitigation):
    """July 2026: the read lock around the free of a collapse's tables, and nothing more."""

    name = "free-only"

    def before_collapse_free(self, k: Kernel) -> Steps[None]:
        yield from mmap_read_lock(k, k.init_mm)

    def after_collapse_free(self, k: Kernel, token: Any) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


class AroundPromotion(Mitigation):
    """The read lock, if it can be had at once, around a promotion in generic vmalloc."""

    name = "around-promotion"

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        return (yield from mmap_read_trylock(k, k.init_mm))

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        yield from mmap_read_unlock(k, k.init_mm)


def error(scenario: Scenario, mitigation: type[Mitigation], memory: str = "sc") -> str | None:
    """Return the error that there is a schedule for, or None where all were explored and there is none."""
    verdict = verify(System(scenario, mitigation, memory))
    assert verdict.complete
    return None if verdict.failure is None else verdict.failure.error


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_with_no_lock_beside_a_dump(name: str, memory: str) -> None:
    assert error(shipped.get(name), registry.get("none"), memory) == USE_AFTER_FREE_READ
    # the merged key is in arm64's functions, and this is not
    assert error(shipped.get(name), registry.get("static-key"), memory) == USE_AFTER_FREE_READ


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("name", COLLAPSES)
def test_a_read_lock_around_the_free_is_enough_where_an_entry_is_read_once(name: str, memory: str) -> None:
    assert error(shipped.get(name), FreeOnly, memory) is None


@pytest.mark.parametrize("memory", ["sc", "tso"])
@pytest.mark.parametrize("name", COLLAPSES)
def test_it_is_not_where_an_entry_is_read_again(name: str, memory: str) -> None:
    """The block is set with no lock held: between two reads a table entry becomes one."""
    rereading = replace(shipped.get(name), walk_rereads=True)
    assert error(rereading, FreeOnly, memory) == BAD_TABLE_POINTER
    assert error(rereading, registry.get("mmap-lock-always"), memory) is None
    assert error(rereading, registry.get("cpa-lock"), memory) is None


@pytest.mark.parametrize("memory", ["sc", "tso"])
def test_a_change_of_protection_beside_a_collapse(memory: str) -> None:
    for scheme in (registry.get("none"), FreeOnly, registry.get("mmap-lock-always")):
        assert BESIDE.expected(scheme) is None
        assert error(BESIDE, scheme, memory) == USE_AFTER_FREE_READ
    assert error(BESIDE, registry.get("cpa-lock"), memory) is None


@pytest.mark.parametrize("name", ["pmd-promotion", "pud-promotion"])
def test_a_promotion_beside_a_walk_that_reads_again(name: str) -> None:
    """What only delays the free does not help; what keeps the walk away from the clear does."""
    rereading = replace(shipped.get(name), walk_rereads=True)
    assert error(rereading, registry.get("static-key")) == BAD_TABLE_POINTER
    assert error(rereading, AroundPromotion) is None
    assert error(rereading, registry.get("mmap-lock-always")) is None


def test_a_split_needs_no_scheme() -> None:
    for memory in ("sc", "tso"):
        for rereads in (False, True):
            scenario = replace(shipped.get("x86-cpa-split"), walk_rereads=rereads)
            assert error(scenario, registry.get("none"), memory) is None


def test_what_collapses_claims_by_architecture() -> None:
    """set_memory_rox collapses on x86_64 alone."""
    none = registry.get("none")
    data = shipped.get("x86-cpa-collapse").to_data()
    assert Scenario.from_data(data).expected(none) == "bug"
    arm64 = Scenario.from_data(data | {"arch": "arm64"})
    assert arm64.expected(none) == "safe"
    assert error(arm64, none) is None
