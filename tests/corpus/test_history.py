"""What went wrong upstream in 2025 and 2026: found in the kernel of the day before and not in that of the day after."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.corpus.format import TestCase, read
from fuzzvm.exhaustive import Limits
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell

HISTORY = Path(__file__).resolve().parents[2] / "corpus" / "history"
AFTER = {
    ("linux-6.18", "x86-pmd-promotion"): "linux-7.3",
    ("linux-6.18", "pair-x86_64-collapse-pmd-ptdump"): "linux-7.3",
    ("linux-6.18", "pair-x86_64-collapse-pmd-attributes"): "linux-7.3",
    ("linux-6.18", "pair-x86_64-collapse-pmd-text-poke"): "linux-7.3",
    ("vmap-trylock", "x86-other-mm"): "vmap-trylock+ptdump-locks-init-mm",
    ("vmap-trylock+static-key", "pmd-promotion"): "vmap-trylock",
    ("static-key-enable", "two-walkers"): "static-key",
    ("collapse-free-lock+collapse-cpa-lock", "pair-x86_64-collapse-pmd-ptdump"): "linux-7.3",
    ("linux-6.18", "pair-arm64-hot-remove-ptdump"): "linux-7.3",
    ("split-in-softirq", "kfence-in-softirq"): "linux-6.18",
    ("linux-7.3+deferred-free", "x86-split-then-collapse-iommu"): "linux-7.3+deferred-free",
}
"""The kernel of the day after, by that of the day before and the scenario.

Where they are the same, the day before lacks an ordering point, and the test case names it.
"""
OPEN = {
    ("linux-7.3", "pair-x86_64-collapse-pmd-kcore"),
    ("linux-7.3", "pair-x86_64-collapse-pmd-perf-invlpgb"),
    ("linux-7.3", "x86-vmemmap-shrinker"),
    ("linux-7.3", "pair-x86_64-hot-remove-ptdump"),
    ("linux-7.3", "x86-hot-remove-blocks"),
    ("linux-7.3", "pair-arm64-kasan-shadow-unlocked-ptdump"),
    ("linux-7.3", "pair-arm64-hot-remove-kexec-load"),
    ("linux-7.3", "pair-x86_64-kasan-shadow-ptdump"),
    ("linux-7.3", "pair-x86_64-kasan-shadow-unlocked-ptdump"),
}
"""What there is no day after of yet: docs/open-in-7.3.md."""
CASES = {(case.mitigation, case.scenario.name): case for case in map(read, sorted(HISTORY.glob("*.toml")))}


def test_each_has_a_day_after_or_is_open() -> None:
    assert set(CASES) == set(AFTER) | OPEN
    assert all(case.origin and case.expect.verdict == "bug" for case in CASES.values())


def _verify(case: TestCase, scheme: str, *without: str) -> str:
    verdict = verify_cell(Cell(scheme, case.scenario, case.memory, without), Bounds(Limits())).verdict
    assert verdict.complete
    return verdict.failure.error if verdict.failure else verdict.verdict


@pytest.mark.parametrize("before", CASES, ids=lambda before: f"{before[0]}-{before[1]}")
def test_it_is_found_before_and_not_after(before: tuple[str, str]) -> None:
    case = CASES[before]
    assert _verify(case, before[0], *case.without) == case.expect.error
    if before in AFTER:
        assert _verify(case, AFTER[before]) == "safe"
