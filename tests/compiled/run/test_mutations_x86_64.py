"""Each mutant of the small kernel for x86_64 has the verdict that is written beside it.

The tests run a sample; with FUZZVM_ALL_MUTANTS set, all of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.compiled import small
from tests.compiled.run.mutations import SAFE, Mutant
from tests.compiled.run.mutations_x86_64 import MUTANTS
from tests.compiled.run.test_mutations import ALL, verdict_of

SAMPLE = (
    "trylock's failure ignored",
    "a dump takes the lock to read",
    "no IPI before the free",
    "block written without the bit that makes it one",
    "down_write: a store instead of compare-and-swap",
    "a barrier of this CPU alone instead of the IPI",
)


def chosen() -> list[Mutant]:
    if os.environ.get(ALL):
        return list(MUTANTS)
    by_name = {one.name: one for one in MUTANTS}
    return [by_name[name] for name in SAMPLE]


@small.needs_x86_64
@pytest.mark.product
@pytest.mark.parametrize("mutant", chosen(), ids=lambda mutant: mutant.name)
def test_a_mutant_has_its_verdict(mutant: Mutant, tmp_path: Path) -> None:
    folder = small.build_image(tmp_path, edits=mutant.files(), arch="x86_64")
    for memory, expected in mutant.verdicts.items():
        found = verdict_of(folder, mutant, memory)
        if expected == SAFE:
            assert (memory, found.verdict, found.complete) == (memory, SAFE, True)
        else:
            assert found.failure is not None, f"{memory}: {found.verdict}"
            assert found.failure.error in expected.split(" or "), memory


def test_the_list_is_whole() -> None:
    """Names are different, what is not caught has a reason, and what is caught has an error."""
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    for one in MUTANTS:
        caught = set(one.verdicts.values()) != {SAFE}
        assert caught == (one.kind == "caught") == (not one.why), one.name
