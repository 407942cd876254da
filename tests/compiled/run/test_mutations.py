"""Each mutant of the small kernel has the verdict that is written beside it.

The tests run a sample; with FUZZVM_ALL_MUTANTS set, all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.compiled.image import load
from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.images.calls import image_task
from fuzzvm.machine.task import settled
from fuzzvm.mitigations import registry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System
from tests.compiled import small
from tests.compiled.run.mutations import MUTANTS, SAFE, TLB, Mutant

pytestmark = small.needs_compiler

ALL = "FUZZVM_ALL_MUTANTS"
SAMPLE = (
    "no trylock around the promotion",
    "never unlocked",
    "trylock of another semaphore",
    "two locks, in the other order than a dump",
    "a dump without the lock",
    "a dump unlocks before its walk ends",
    "down_write: acquire made relaxed",
    "up_read: release made relaxed",
    "relaxed trylock, never unlocked, nobody else takes it",
    "freed before the entry is cleared",
    "table never freed",
    "flush after the free",
    "new table linked by an atomic, freed while linked",
    "DSB instead of the flush before the free",
)
"""One of each kind; the others are much like one of these."""


def chosen() -> list[Mutant]:
    if os.environ.get(ALL):
        return list(MUTANTS)
    by_name = {one.name: one for one in MUTANTS}
    return [by_name[name] for name in SAMPLE]


def verdict_of(folder: Path, mutant: Mutant, memory: str) -> Verdict:
    task = image_task(load(folder), mutant.scenario, memory).learned()
    return settled(task, lambda task: verify(task, Limits(max_states=5_000)))[1]


@pytest.mark.product
@pytest.mark.parametrize("mutant", chosen(), ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_verdict(mutant: Mutant, tmp_path: Path) -> None:
    folder = small.build_image(tmp_path, edits=mutant.files(), atomics=mutant.atomics)
    for memory, expected in mutant.verdicts.items():
        found = verdict_of(folder, mutant, memory)
        if expected == SAFE:
            assert (memory, found.verdict, found.complete) == (memory, SAFE, True)
        else:
            assert found.failure is not None, f"{memory}: {found.verdict}"
            assert found.failure.error in expected.split(" or "), memory


@pytest.mark.product
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.tlbs], ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_verdict_where_tlbs_are_followed(mutant: Mutant, tmp_path: Path) -> None:
    """It is the model's of the same mutation in the same scheme, for what is safe without."""
    folder = small.build_image(tmp_path, edits=mutant.files(), atomics=mutant.atomics)
    for memory, expected in mutant.tlbs.items():
        found = verdict_of(folder, replace(mutant, scenario=replace(mutant.scenario, tlb=True)), memory)
        assert (found.failure.error if found.failure else found.verdict) == expected, memory
        assert found.complete
    assert mutant.tlbs["arm64"] == mutant.model[TLB]


@pytest.mark.product
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.points], ids=lambda mutant: mutant.name)
def test_the_model_says_the_same_of_the_same_mutation(mutant: Mutant) -> None:
    """What is caught of code is caught without the ordering points; what is not seen, where TLBs are followed."""
    release = registry.get("linux-7.3")
    # with 3 levels, the model maps no block by a PUD
    here = replace(mutant.scenario, levels=4)
    for memory, expected in mutant.model.items():
        scenario, name = (shipped.get("tlb-promotion"), "arm64") if memory == TLB else (here, memory)
        found = verify(System(scenario, release, name, without=mutant.points), Limits(max_states=20_000))
        assert (found.failure.error if found.failure else found.verdict) == expected, memory
        if memory in mutant.verdicts:
            assert (expected == SAFE) == (mutant.verdicts[memory] == SAFE), memory


def test_the_list_is_whole() -> None:
    """Names are different, what is not caught has a reason, and what is caught has an error."""
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    for one in MUTANTS:
        caught = set(one.verdicts.values()) != {SAFE}
        assert caught == (one.kind == "caught") == (not one.why), one.name
        assert (one.kind == "hardware's") == bool(one.tlbs), one.name
