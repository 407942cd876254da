"""Replay: to the letter, and never silently otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.replay import replay, trace_digest
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.mitigations.registry import MitigationError
from fuzzvm.scenario import shipped

BUG = TestCase(
    shipped.get("x86-pmd-promotion"),
    "none",
    "sc",
    parse_schedule("1*5 0*8 1"),
    Expectation("bug", "use-after-free-read", "ptdump_pte_entry"),
)


def test_as_expected() -> None:
    assert replay(BUG).as_expected


def test_not_as_expected() -> None:
    assert "expected safe" in replay(replace(BUG, expect=Expectation("safe"))).problem
    elsewhere = Expectation("bug", "use-after-free-read", "walk_pmd_range")
    assert "got use-after-free-read in ptdump_pte_entry" in replay(replace(BUG, expect=elsewhere)).problem


@pytest.mark.parametrize("schedule", ["1*5 0*8", "1*5 0*8 1*2", "1*5 0*8 1.3", "7*5", ""])
def test_a_schedule_that_does_not_fit_is_reported(schedule: str) -> None:
    assert "no longer replays" in replay(replace(BUG, schedule=parse_schedule(schedule))).problem


def test_a_file_alone_never_makes_code_run() -> None:
    with pytest.raises(MitigationError, match="only where --mitigation"):
        replay(replace(BUG, mitigation="/tmp/evil.py:Evil"))


def test_the_digest_is_of_the_run() -> None:
    assert trace_digest(BUG) == trace_digest(BUG)
    assert trace_digest(BUG) != trace_digest(replace(BUG, schedule=parse_schedule("1*4 0 1 0*7 1")))
