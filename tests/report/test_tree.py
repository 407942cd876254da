"""The page tables at the end of a run, as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.corpus.format import Expectation, TestCase, read
from fuzzvm.corpus.replay import mitigation_of
from fuzzvm.machine.execution import execute
from fuzzvm.mitigations import registry
from fuzzvm.report.story import tell
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from tests.support import Follow

REGRESSIONS = sorted((Path(__file__).resolve().parents[2] / "corpus" / "regressions").glob("*.toml"))


def tables_of(cpus: list[list[str]], fanout: int = 8) -> tuple[str, ...]:
    scenario = Scenario.from_data(
        {"arch": "arm64", "page_size": "4K", "levels": 3, "fanout": fanout, "setup": [], "cpus": cpus}
    )
    execution = execute(System(scenario, registry.get("none"), "sc").machine(), Follow([0]))
    case = TestCase(scenario, "none", "sc", execution.schedule, Expectation.of(execution))
    return tell(case, registry.get("none")).tables


def test_each_entry_stands_below_its_table() -> None:
    assert tables_of([["vmap(page=0, nr_pages=2, max_page_shift='pte')"]]) == (
        "PGD table of 0xffff800000000000",
        "  [0] PMD table of 0xffff800000000000",
        "    [0] PTE table of 0xffff800000000000",
        "      [0] pfn 0x0 rw-",
        "      [1] pfn 0x1 rw-",
        "      [2-7] none",
        "    [1-7] none",
        "  [1-7] none",
    )


def test_many_entries_alike_are_one_line() -> None:
    lines = tables_of([["vmap(page=0, nr_pages=8, max_page_shift='pte')"]])
    assert "      [0-7] pfn 0x0 rw- to pfn 0x7 rw-" in lines and len(lines) == 6


@pytest.mark.slow
def test_freed_tables_are_named_with_the_step() -> None:
    for path in REGRESSIONS:
        case = read(path)
        story = tell(case, mitigation_of(case))
        assert story.tables, path
        freed = [event for event in story.events if event.what == "freed" and event.step]
        for event in freed:
            assert any(f"freed at step {event.step}" in line for line in story.tables), path
    assert not any("freed" in line for line in tables_of([["vmap(page=0, nr_pages=1)"]]))


def test_patched_code_is_told_as_instructions() -> None:
    """x86_64 patches byte by byte: int3 first, then the rest, then the first byte."""
    (path,) = [path for path in REGRESSIONS if path.name == "static-key-bad-table-pointer-3eab01111375.toml"]
    case = read(path)
    assert case.scenario.arch == "x86_64"
    site = "arm64_ptdump_lock_key in pmd_free_pte_page"
    written = [
        step.text.partition(" = ")[2]
        for step in tell(case, mitigation_of(case)).steps
        if step.text.startswith(f"write {site} = ")
    ]
    assert written[:3] == ["cc", "cc 01", "eb 01"]
