"""What the model's schedules ask of a real kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import TestCase, read
from fuzzvm.corpus.image_table import ImageTable
from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel import plan, replay
from fuzzvm.realkernel.arch import ARCHES
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.plan import Access, TableFreed
from fuzzvm.scenario.calls import parse_call

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "regressions"
X86_PMD = "none-use-after-free-read-4f5a29210ff8"
X86_PUD = "none-use-after-free-read-97403cd7bf16"
X86_COLLAPSE = "none-use-after-free-read-0ec585fbf92f"
X86_COLLAPSE_PUD = "none-use-after-free-read-247dd73a043d"
X86_OTHER_MM = "none-use-after-free-read-f3732345e137"
ARM_PMD = "none-use-after-free-read-c77cd3c19dbc"
ARM_16K = "none-use-after-free-read-d49b329a252c"
ARM_64K = "none-use-after-free-read-d3a29d868c0b"
ARM_WEAK = "none-use-after-free-read-cfc468ae88b1"


def case(name: str) -> TestCase:
    return read(CORPUS / f"{name}.toml")


def made(name: str) -> plan.Plan:
    of = case(name)
    return plan.make(of, ARCHES[of.scenario.arch].window(of.scenario.geometry().page_shift, of.scenario.levels))


def test_the_segments_of_the_shortest_schedule() -> None:
    walk, promotion, failing = made(X86_PMD).segments()
    assert [(e.entry.level, e.write) for e in walk if isinstance(e, Access)] == [
        *((Level.PGD, False), (Level.PUD, False), (Level.PMD, False))
    ]
    assert isinstance(promotion[-1], TableFreed) and "pmd_free_pte_page" in promotion[-1].stack
    assert isinstance(promotion[-2], Access) and promotion[-2].write
    assert isinstance(failing[0], Access) and failing[0].entry.level == Level.PTE
    assert {e.cpu for e in walk} == {e.cpu for e in failing} == {1} and {e.cpu for e in promotion} == {0}


@pytest.mark.parametrize("name", [X86_PMD, X86_PUD, ARM_PMD])
def test_every_step_is_expected_or_passed_over(name: str) -> None:
    found = made(name)
    assert len(found.expected) + found.passed_over == found.steps
    assert found.failing.step == found.steps


def test_the_guest_is_told_the_scenario() -> None:
    found = made(X86_PMD)
    assert replay.script(found) == [
        "boot area 0xffffd00000000000 0x200000",
        "boot vmap 0xffffd00000000000 0x1000 0x40000000 0x1000 rw",
        "boot vunmap 0xffffd00000000000 0x1000",
        "cpu 0 vmap 0xffffd00000000000 0x200000 0x40000000 0x200000 rw",
        # once to rehearse, once to replay
        "cpu 1 cat",
        "cpu 1 cat",
        "start",
    ]


def test_a_collapse_beside_a_dump() -> None:
    found = made(X86_COLLAPSE)
    start = found.window.start
    assert f"cpu 0 set_memory_rox {start:#x} 0x200" in replay.script(found)
    # the table of 512 pages that the two of the model stand for
    assert isinstance(found.segments()[1][-1], TableFreed)


def test_a_read_of_kcore_needs_memory_that_nobody_uses() -> None:
    of = case(X86_COLLAPSE)
    reader = (parse_call("read_kcore(page=0, nr_pages=2)"),)
    scenario = replace(of.scenario, cpus=(of.scenario.cpus[0], reader))
    window = made(X86_COLLAPSE).window
    assert (plan.reserved(of.scenario, window), plan.reserved(scenario, window)) == (0, 2 << 20)
    assert plan.operations(reader[0], window, {}) == f"kcore {window.start:#x} {window.start + 4096:#x}"
    assert replay.script(replace(made(X86_COLLAPSE), case=replace(of, scenario=scenario)))[:2] == [
        "boot reserved 0x40000000 0x200000",
        f"boot area {window.start:#x} 0x200000",
    ]


def test_pages_that_are_read_are_few() -> None:
    found = made(X86_COLLAPSE_PUD)
    cpus = (*found.case.scenario.cpus, (parse_call("read_kcore(page=0, nr_pages=1)"),))
    with pytest.raises(NoCounterpartError, match="512 MB"):
        plan.make(replace(found.case, scenario=replace(found.case.scenario, cpus=cpus)), 0)


def test_the_readers_own_mm_stands_for_another_one() -> None:
    assert "cpu 1 cat current_kernel" in replay.script(made(X86_OTHER_MM))


def test_what_needs_weak_memory_has_no_counterpart() -> None:
    with pytest.raises(NoCounterpartError, match="weaker"):
        made(ARM_WEAK)


@pytest.mark.parametrize("pattern", ["static-key-tlb-conflict-*", "vmap-trylock-static-key-deadlock-*"])
def test_what_kasan_does_not_see_has_no_counterpart(pattern: str) -> None:
    path = next(CORPUS.glob(f"{pattern}.toml"))
    with pytest.raises(NoCounterpartError, match="KASAN judges"):
        made(path.stem)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        (X86_PMD, "vmalloc(area='a', nr_pages=2)"),
        (X86_PMD, "text_poke(page=0)"),
        (ARM_PMD, "set_memory_ro(page=0, nr_pages=1)"),
        (ARM_PMD, "read_kcore(page=0, nr_pages=1)"),
    ],
)
def test_calls_that_cannot_be_driven(name: str, call: str) -> None:
    of = case(name)
    scenario = replace(of.scenario, cpus=(*of.scenario.cpus[:1], (parse_call(call), *of.scenario.cpus[1])))
    with pytest.raises(NoCounterpartError, match=call.partition("(")[0]):
        plan.make(replace(of, scenario=scenario), 0)


@pytest.mark.parametrize("name", [ARM_16K, ARM_64K])
def test_contiguous_blocks_that_only_the_setup_makes_are_pages_on_the_kernel(name: str) -> None:
    found = made(name)
    size = found.window.block(Level.PTE)
    assert f" {size:#x} rw" in replay.script(found)[1]
    assert size == 1 << found.case.scenario.geometry().page_shift


def test_contiguous_blocks_in_the_schedule_have_no_counterpart() -> None:
    refused = 0
    for path in sorted(CORPUS.glob("none-*.toml")):
        of = read(path)
        if of.scenario.geometry().cont_ptes > 1 and of.memory == "sc":
            try:
                made(path.stem)
            except NoCounterpartError as error:
                refused += "is of a contiguous block" in str(error)
    assert refused


def test_every_minimal_schedule_of_none_has_a_plan_or_says_why() -> None:
    planned = 0
    for path in sorted(CORPUS.glob("none-*.toml")):
        try:
            planned += bool(made(path.stem).segments())
        except NoCounterpartError as error:
            assert str(error)
    assert planned == 51


def test_the_calls_of_an_image_are_where_its_own_geometry_has_them() -> None:
    """The scenario's pages and levels are the model's; a page of 16K maps 2,048 entries of tables."""
    of = case(ARM_PMD)
    image = ImageTable("0" * 64, "7.3.4", "arm64", "16K", 3, "lse", "gcc", (), "fuzzvm image build")
    found = plan.layout(replace(of, mitigation="", image=image), 0)
    assert (found.geometry.page_shift, found.address(1), found.address(2)) == (14, 1 << 14, 1 << 25)
    assert plan.layout(of, 0).address(2) == 1 << 21
