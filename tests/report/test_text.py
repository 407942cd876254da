"""The report: says what KASAN would, on the lines where a reader looks for it."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.explore.plan import FollowPlan, Plan
from fuzzvm.machine.execution import execute
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.mitigations import registry
from fuzzvm.report.story import tell
from fuzzvm.report.text import render
from fuzzvm.scenario import shipped
from fuzzvm.scenario.system import System

CASE = TestCase(
    shipped.get("x86-pmd-promotion"),
    "none",
    "sc",
    parse_schedule("1*5 0*8 1"),
    Expectation("bug", "use-after-free-read", "ptdump_pte_entry"),
)


def test_a_use_after_free() -> None:
    text = render(tell(CASE, registry.get("none")), "fuzzvm replay FILE")
    lines = text.splitlines()
    assert lines[1] == "BUG: use-after-free-read in ptdump_pte_entry"
    for wanted in ("At step 14 by CPU 1:", " walk_pmd_range", "Allocated at boot", " pmd_free_pte_page"):
        assert wanted in lines, wanted
    assert any(line.startswith("Freed at step 13 by CPU 0") for line in lines)
    assert [line.split()[0] for line in lines if " * " in line] == ["13", "14"]
    assert lines[-1] == "Replay: fuzzvm replay FILE"


def test_every_step_is_told_once() -> None:
    story = tell(CASE, registry.get("none"))
    assert [step.number for step in story.steps] == list(range(1, 15))
    assert all(step.text for step in story.steps)


def test_a_run_without_error_says_so() -> None:
    whole = replace(CASE, mitigation="config-off", expect=Expectation("safe"))
    run = execute(System(whole.scenario, registry.get("config-off"), "sc").machine(), FollowPlan(Plan(())))
    story = tell(replace(whole, schedule=run.schedule), registry.get("config-off"))
    text = render(story, "fuzzvm replay FILE")
    assert "No error in this run" in text
    assert "kernel_page_tables:" in text
