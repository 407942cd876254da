"""fuzzvm.certificate.states: what it goes through is what the search has, of programs drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fuzzvm.certificate.errors import RejectedError
from fuzzvm.certificate.file import Safe, TaskNamed
from fuzzvm.certificate.states import StateCheck
from fuzzvm.exhaustive.deadline import Deadline
from fuzzvm.exhaustive.limits import Limits, StoppedError
from fuzzvm.exhaustive.space import Space
from fuzzvm.machine.task import Task
from fuzzvm.scenario import shipped
from fuzzvm.verify.certify import CertifyError, Listed, list_states
from tests.exhaustive.looping_programs import PROGRAMS, Line, LoopingTask
from tests.exhaustive.small_programs import PATCHES, RECIPES, Recipe, programs, small_task

MEMORIES = st.sampled_from(["sc", "tso", "arm64"])
FEW = Limits(max_states=400)
NAMED = TaskNamed(shipped.get("pmd-promotion"), "none", "sc", (), "")
DRAWN = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def safe(listed: Listed) -> Safe:
    """Return what a reader makes of what a writer has listed."""
    facts, kinds, table = list(listed.facts), list(listed.claims), list(listed.table)
    claims = [frozenset(facts[number] for number in kinds[claim]) for claim in listed.claim_of]
    steps = [(), *(table[number] for number in listed.steps[1:])]
    return Safe(NAMED, listed.parents, steps, listed.ranks, claims, listed.entries, frozenset())


def agree(task: Task, same: Task) -> None:
    """Hold writer and checker against each other on one task, made twice."""
    try:
        listed = list_states(Space(task), Deadline(FEW))
    except StoppedError:
        assume(False)
    except CertifyError as error:
        endless = "no end can be reached" in str(error)
        lie = Listed(parents=[0], steps=[0], ranks=[0])
        with pytest.raises(RejectedError, match=None if endless else "wrong|no end|not listed|claimed"):
            StateCheck(safe(lie), same, lambda history: None).run()
        return
    StateCheck(safe(listed), same, lambda history: None).run()


@DRAWN
@given(MEMORIES, programs(RECIPES, 7))
def test_small_programs(memory: str, lists: list[list[Recipe]]) -> None:
    agree(small_task(memory, lists), small_task(memory, lists))


@DRAWN
@given(MEMORIES, programs(PATCHES, 7))
def test_small_programs_that_patch_code(memory: str, lists: list[list[Recipe]]) -> None:
    agree(small_task(memory, lists), small_task(memory, lists))


@DRAWN
@given(MEMORIES, PROGRAMS)
def test_programs_that_jump_back(memory: str, lines: Sequence[Sequence[Line]]) -> None:
    agree(LoopingTask(memory, lines), LoopingTask(memory, lines))


def test_a_certificate_of_one_state_is_not_enough() -> None:
    lists: list[list[Any]] = [[("store", 0, 1, None)], [("load", 0, 0, None)]]
    with pytest.raises(RejectedError, match="not listed"):
        StateCheck(safe(Listed(ranks=[0])), small_task("sc", lists), lambda history: None).run()
