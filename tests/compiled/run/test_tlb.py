"""TLBs and walk caches of compiled code: what is found of them, and that it is what a walk of whole tables finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.compiled.arm64.decode import decode
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image, load
from fuzzvm.compiled.isa.access import Access
from fuzzvm.compiled.run.arm64 import Descriptor, descriptor
from fuzzvm.compiled.run.links import Links
from fuzzvm.compiled.run.task import CompiledTask
from fuzzvm.compiled.run.tlb import ENTRY, ImageTables, check_followed
from fuzzvm.exhaustive import Limits, Verdict, verify
from fuzzvm.images.calls import image_task, why_not
from fuzzvm.images.code import ImageCode
from fuzzvm.kernel.errors import HARDWARE_WALK_OF_FREED_TABLE, STALE_TRANSLATION, TLB_CONFLICT
from fuzzvm.machine.execution import Replay, execute
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Alloc, Rmw, Store
from fuzzvm.machine.task import settled
from fuzzvm.machine.tlb import Entry
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.images import TLB_UNASKED, runnable
from tests.compiled import small

MMU = "arch/arm64/mm/mmu.c"
NO_ISB = {MMU: ('r"(operand));\n\tdsb(ish);\n\tisb();\n', 'r"(operand));\n\tdsb(ish);\n')}
NO_FLUSH = {"mm/vmalloc.c": ("\tflush_tlb_kernel_range(start, end);\n", "\t(void)start;\n")}

PMD = replace(shipped.get("pmd-promotion"), tlb=True)
BLOCK = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(2, 1, max_page_shift="pte"),),
    ((Vmap(0, 2, max_page_shift="pmd"), Vunmap(0, 2), Vmap(0, 2, phys_page=4, max_page_shift="pmd")),),
    name="block-for-block",
    tlb=True,
)
"""A block that no other CPU looks at, where the setup has mapped nothing."""
PAGE = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 1, max_page_shift="pte"),),
    ((Vunmap(0, 1), Vmap(0, 1, max_page_shift="pte")),),
    name="page-for-page",
    tlb=True,
)
"""A page that the setup has mapped."""


def name_of(value: object) -> str:
    return value.name if isinstance(value, Scenario) else str(value)


def verdict_of(image: Image, scenario: Scenario, memory: str) -> tuple[CompiledTask, Verdict]:
    task = image_task(image, scenario, memory).learned()
    return settled(task, lambda task: verify(task, Limits(max_states=20_000)))


@pytest.mark.always
@pytest.mark.parametrize(
    ("scenario", "memory"), [(PMD, "sc"), (PMD, "arm64"), (BLOCK, "arm64"), (PAGE, "arm64")], ids=name_of
)
def test_code_that_flushes_is_safe(small_image: Image, scenario: Scenario, memory: str) -> None:
    _, found = verdict_of(small_image, scenario, memory)
    assert (found.verdict, found.complete) == ("safe", True)


@pytest.fixture(scope="session")
def without_flush(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The small kernel with an unmap that does not flush."""
    return load(small.build_image(tmp_path_factory.mktemp("no-flush"), edits=NO_FLUSH))


@pytest.mark.always
@pytest.mark.parametrize(
    ("scenario", "error"), [(PMD, TLB_CONFLICT), (BLOCK, TLB_CONFLICT), (PAGE, STALE_TRANSLATION)], ids=name_of
)
def test_an_unmap_that_does_not_flush_is_found_where_the_range_is_mapped_again(
    without_flush: Image, scenario: Scenario, error: str
) -> None:
    """Of the first, the setup's own; the second's entry is one that its CPU alone accesses."""
    _, found = verdict_of(without_flush, scenario, "sc")
    assert found.failure is not None
    assert found.failure.error == error


@pytest.mark.always
@pytest.mark.parametrize("scenario", [BLOCK, PAGE], ids=name_of)
def test_where_tlbs_are_not_followed_it_is_not(without_flush: Image, scenario: Scenario) -> None:
    _, off = verdict_of(without_flush, replace(scenario, tlb=False), "sc")
    assert off.failure is None


@pytest.mark.always
def test_what_is_found_is_found_again_where_every_access_is_a_step(tmp_path: Path) -> None:
    """And with the shortest schedule: no context switch."""
    image = load(small.build_image(tmp_path, edits=NO_ISB))
    task, found = verdict_of(image, PMD, "arm64")
    assert found.failure is not None and found.schedule is not None and found.complete
    assert found.failure.error == HARDWARE_WALK_OF_FREED_TABLE
    assert "until CPU 0, which invalidated it, executes an ISB" in found.failure.message
    assert {agent for agent, *_ in found.schedule} == {0}
    code = ImageCode(image)
    case = code.case(task, PMD, found.schedule, found.failure, "test")
    assert case.scenario.tlb
    replayed = execute(code.task(case.scenario, case.memory).machine(), Replay(case.schedule)).failure
    assert replayed is not None and replayed.message == found.failure.message


class Whole(ImageTables):
    """Walks that look at every entry of a table."""

    def entries(self, pointer: Entry) -> Iterator[Entry]:
        level = pointer.level + 1
        for offset in range(0, 1 << self._map.layout.page_shift, ENTRY):
            copy = self.copy(level, pointer, offset, self._content(pointer.table + offset))
            if copy is not None:
                yield copy


@pytest.mark.always
def test_a_walk_of_the_entries_that_were_written_finds_what_one_of_all_does(small_image: Image) -> None:
    """Also of a table that is not linked any more, by the copy that led to it."""

    def walked(task: CompiledTask) -> set[Entry]:
        followed = task.environment.followed
        assert followed is not None
        machine = task.machine()
        few, whole = (kind(followed, lambda: machine.memory) for kind in (ImageTables, Whole))
        known = {few.root}
        while enabled := machine.enabled():
            agent = enabled[-1]
            wrote = agent >= task.cpus or isinstance(machine.pending(agent), Store | Rmw | Alloc)
            machine.step(agent, lambda ways: ways - 1)
            for pointer in sorted(known) if wrote else ():
                found = list(few.entries(pointer))
                assert found == list(whole.entries(pointer))
                known |= {one for one in found if one.table}
        return known

    _, known = settled(image_task(small_image, PMD, "arm64", assume=False), walked)
    assert len(known) > 2


@pytest.mark.always
def test_what_every_cpu_may_hold_is_in_the_state(small_image: Image) -> None:
    """A promotion that is done holds the block; nothing holds the table, which is free."""

    def run(task: CompiledTask) -> Machine:
        machine = task.machine()
        while enabled := machine.enabled():
            machine.step(enabled[0], lambda ways: 0)
        return machine

    _, machine = settled(image_task(small_image, PMD, "sc", assume=False), run)
    observer = machine.observer
    assert isinstance(observer, Links) and observer.remembered is not None and machine.failure is None
    for held in observer.remembered.held:
        assert sorted((entry.level, bool(entry.table)) for entry, _ in held) == [(0, True), (1, False)]


TLBI_VAAE1IS = 0xD5088360
TLBI_VALE1IS = 0xD50883A0


def access(word: int, operand: int) -> Access:
    return Access(decode(word, 0), operand)


@pytest.mark.always
def test_an_invalidation_that_is_not_known_is_refused() -> None:
    check_followed(access(TLBI_VAAE1IS, 0x5 << 48 | 0x1234))
    with pytest.raises(ImageError, match="what it invalidates is not followed"):
        check_followed(access(TLBI_VALE1IS, 0x1234))
    with pytest.raises(ImageError, match="of one level alone"):
        check_followed(access(TLBI_VAAE1IS, 0x7 << 44 | 0x1234))


@pytest.mark.always
def test_a_descriptor_says_where_it_leads_and_how() -> None:
    block, page = 1 << 21, 1 << 12
    assert descriptor(0x4000_3003, block, last=False) == Descriptor(table=True, output=0x4000_3003)
    assert descriptor(0x0068_0040_0000_0701, block, last=False) == (False, 1 << 38, 0x300, 0x0068 << 48, False)
    assert descriptor(0x0068_0040_0000_0703, page, last=True) == (False, 1 << 38, 0x300, 0x0068 << 48, False)
    assert descriptor(1 << 52 | 0x0040_0000_0707, page, last=True) == (False, 1 << 38, 0x304, 0, True)
    for invalid in (0, 0x4000_3002):
        assert descriptor(invalid, page, last=True) is descriptor(invalid, block, last=False) is None
    assert descriptor(0x0040_0000_0701, page, last=True) is None


@pytest.mark.always
def test_a_scenario_that_follows_tlbs_is_run_where_it_is_named(small_image: Image) -> None:
    given = [replace(PMD, tlb=False), PMD]
    assert runnable(small_image, given) == (given, [])
    assert runnable(small_image, given, named=False) == (given[:1], [(PMD, TLB_UNASKED)])


@pytest.mark.always
def test_images_of_x86_64_are_refused(small_x86_64: Image) -> None:
    scenario = replace(shipped.get("x86-pmd-promotion"), tlb=True)
    assert why_not(small_x86_64, scenario) == "what TLBs may hold is not followed for images of x86_64"
