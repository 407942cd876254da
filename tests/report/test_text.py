"""The report: says what KASAN would, on the lines where a reader looks for it."""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.machine.execution import execute
from fuzzvm.machine.schedule import parse_schedule
from fuzzvm.mitigations import registry
from fuzzvm.report.story import tell
from fuzzvm.report.text import render
from fuzzvm.runs.plans.plan import FollowPlan, Plan
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


def told(case: TestCase, schedule: str) -> list[str]:
    expect = Expectation("bug", "hardware-walk-of-freed-table", "free_table")
    whole = replace(case, schedule=parse_schedule(schedule), expect=expect)
    return render(tell(whole, registry.get(case.mitigation)), "").splitlines()


def test_who_may_hold_what_since_when_and_which_flush_is_missing() -> None:
    scenario = replace(shipped.get("pmd-promotion"), tlb=True)
    case = TestCase(scenario, "none", "arm64", (), Expectation("safe"), without=("flush-dsb-ishst",))
    lines = told(case, "0*4 0.1 0*4")
    assert "Held by any CPU, at the earliest: PMD entry that leads to it written at boot" in lines
    assert "That entry cleared at step 5 by CPU 0:" in lines
    flush = (
        "Flushed by vaae1is 0xffff800000000000 (too early, before that clear was seen by all CPUs; "
        "complete at step 7, on CPU 0 itself at step 8) at step 6 by CPU 0:"
    )
    assert flush in lines
    assert "That clear seen by all CPUs at step 7 by CPU 0:" in lines
    assert [line.split()[0] for line in lines if " * " in line] == ["5", "6", "7", "9"]
    never = told(replace(case, memory="sc", without=("flush-tlbi",)), "0*9")
    assert "Not flushed since" in never
    x86 = replace(shipped.get("x86-pmd-promotion"), tlb=True)
    alone = told(replace(case, scenario=x86, memory="sc", without=("flush-ipi",)), "0*7")
    assert "Flushed by invlpg 0xffffc90000000000 (on no other CPU) at step 6 by CPU 0:" in alone


def test_what_two_translations_were_made_of() -> None:
    scenario = replace(shipped.get("tlb-vmalloc-cycle"), cpus=shipped.get("tlb-vmalloc-cycle").cpus[:1])
    system = System(scenario, registry.get("none"), "sc", without=("purge-flush-tlbi",))
    run = execute(system.machine(), FollowPlan(Plan(())))
    assert run.failure is not None
    expect = Expectation.of(run)
    case = TestCase(scenario, "none", "sc", run.schedule, expect, without=("purge-flush-tlbi",))
    lines = render(tell(case, registry.get("none")), "").splitlines()
    assert lines[1] == "BUG: tlb-conflict in set_pxd"
    assert "Held by any CPU, at the earliest: the former mapping made at boot" in lines
    assert any(line.startswith("PTE entry cleared at step") for line in lines)
    assert any(line.startswith("Flushed by vaae1is") for line in lines)


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
