"""Memory that is added and taken out: where the model's pages lie on a real kernel, and what the guest is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import TestCase, read
from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel import hotplug, plan, replay
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.plan import Access, Plan, TableFreed
from fuzzvm.scenario.calls import parse_call
from fuzzvm.scenario.scenario import Scenario

HISTORY = Path(__file__).resolve().parents[2] / "corpus" / "history"
VMEMMAP = "linux-7-3-free-of-linked-table-ba3be6550fc0"
BLOCKS = "linux-7-3-free-of-linked-table-a91eee0db36b"
SHADOW = "linux-7-3-free-of-linked-table-92ffec45d4dd"
UNLOCKED = "linux-7-3-free-of-linked-table-cb442c4ea744"
ARM64 = "linux-7-3-free-of-linked-table-dc46bb36141c"
CONFIG = "CONFIG_KASAN_SHADOW_OFFSET=0xdffffc0000000000\nCONFIG_ZONE_DEVICE=y\n"
WINDOWS = {
    # struct pages are of 64 bytes for 4096, shadow is an eighth; the memory is at 64 GiB
    VMEMMAP: 0xFFFF_EA00_4000_0000,
    BLOCKS: 0xFFFF_8890_0000_0000,
    SHADOW: 0xFFFF_ED12_0000_0000,
    UNLOCKED: 0xFFFF_ED12_0000_0000,
}


def case(name: str) -> TestCase:
    return read(HISTORY / f"{name}.toml")


def kernel(folder: Path, config: str = CONFIG) -> BuiltKernel:
    (folder / "config").write_text(config)
    return BuiltKernel(folder, "x86_64", "4K", 4, "7.3.4", (), (), (), "", 0.0)


def made(name: str) -> Plan:
    return plan.make(case(name), WINDOWS[name])


@pytest.mark.parametrize("name", WINDOWS)
def test_the_window_is_what_the_scenario_takes_out(name: str, tmp_path: Path) -> None:
    assert hotplug.window(case(name).scenario, kernel(tmp_path)) == WINDOWS[name]
    # page 2 of the model has a table of its own, and so it has on the kernel
    assert WINDOWS[name] % (1 << 30) == 0


def test_a_kernel_that_memory_cannot_be_added_to_is_refused(tmp_path: Path) -> None:
    built = kernel(tmp_path, CONFIG.replace("DEVICE=y", "DEVICE=n"))
    with pytest.raises(NoCounterpartError, match="no CONFIG_ZONE_DEVICE=y"):
        hotplug.window(case(VMEMMAP).scenario, built)
    # of the shadow no more is needed than KASAN has
    assert hotplug.window(case(SHADOW).scenario, built) == WINDOWS[SHADOW]
    assert hotplug.shadow_alone(built) and not hotplug.shadow_alone(kernel(tmp_path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        # one section of 128 MB has one PTE table of vmemmap
        (VMEMMAP, ["boot device 0x1000000000 0x200000", "boot device 0x1008000000 0x200000"]),
        # two blocks of 2 MB
        (BLOCKS, ["boot device 0x1000000000 0x400000"]),
        # one PTE table of shadow is for 16 MB
        (SHADOW, ["boot device 0x1000000000 0x200000", "boot device 0x1001000000 0x200000"]),
    ],
)
def test_the_guest_adds_the_memory_and_takes_it_out(name: str, told: list[str]) -> None:
    assert replay.script(made(name)) == [*told, "cpu 0 undevice 0x1000000000", "cpu 1 cat", "start"]


def test_memory_that_cannot_be_added_is_not_there_before() -> None:
    assert replay.script(made(UNLOCKED)) == [
        "boot device 0x1001000000 0x200000",
        "cpu 0 device_fails 0x1000000000 0x100000",
        # once to rehearse, once to replay
        "cpu 1 cat",
        "cpu 1 cat",
        "start",
    ]


@pytest.mark.parametrize("name", [SHADOW, UNLOCKED])
def test_shadow_alone_is_added_and_taken_away_by_kasans_own_functions(name: str) -> None:
    told = replay.script(made(name), shadow_alone=True)
    assert told[:3] == [
        "boot shadow 0xffff889000000000 0x200000",
        "boot shadow 0xffff889001000000 0x200000",
        "cpu 0 unshadow 0xffff889000000000 0x200000",
    ]
    assert set(told[3:]) == {"cpu 1 cat", "start"}


@pytest.mark.parametrize(
    ("name", "above"), [(VMEMMAP, Level.PMD), (BLOCKS, Level.PUD), (SHADOW, Level.PMD), (UNLOCKED, Level.PMD)]
)
def test_the_free_is_what_fails(name: str, above: Level) -> None:
    found = made(name)
    assert found.frees_linked
    last = found.expected[-1]
    assert isinstance(last, TableFreed) and (last.cpu, last.entry.level, last.entry.page) == (0, above, 0)


def test_the_dump_has_read_the_entry_as_the_table_below_is_freed() -> None:
    walk, free = made(UNLOCKED).segments()
    assert {e.cpu for e in walk} == {1} and {e.cpu for e in free} == {0}
    assert [(e.entry.level, e.write) for e in walk if isinstance(e, Access)] == [
        *((Level.PGD, False), (Level.PUD, False), (Level.PMD, False))
    ]


@pytest.mark.parametrize(
    ("name", "function"),
    [(VMEMMAP, "arch_remove_memory"), (SHADOW, "kasan_remove_zero_shadow"), (UNLOCKED, "kasan_remove_zero_shadow")],
)
def test_what_waits_for_all_cpus_is_over_before_the_schedule_begins(name: str, function: str) -> None:
    freer, dump = case(name).scenario.cpus
    assert hotplug.entered(freer[0]) == function
    assert hotplug.entered(dump[0]) is None


def changed(name: str, **changes: object) -> Scenario:
    return Scenario.from_data(case(name).scenario.to_data() | changes)


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        (case(ARM64).scenario, "on x86_64 with 4 levels only"),
        (changed(VMEMMAP, levels=5), "on x86_64 with 4 levels only"),
        (changed(VMEMMAP, cpus=[["try_remove_memory(page=0, nr_pages=4)"]]), "must take out what one PTE table"),
        (changed(BLOCKS, cpus=[["try_remove_memory(page=0, nr_pages=2)"]]), "must take out what one PTE table"),
        (changed(SHADOW, setup=["vmap(page=0, nr_pages=4, max_page_shift='pmd')"]), "is not mapped by pmd"),
        (changed(SHADOW, setup=["vmap(page=0, nr_pages=2)", "vunmap(page=0, nr_pages=2)"]), "mapped and no more"),
        (
            changed(SHADOW, cpus=[["pageunmap_range(page=0, nr_pages=2)"], ["try_remove_memory(page=2, nr_pages=2)"]]),
            "in one of vmemmap, linear map and shadow",
        ),
        (
            changed(VMEMMAP, cpus=[["try_remove_memory(page=0, nr_pages=2)"], ["set_memory_ro(page=3, nr_pages=1)"]]),
            "only dumps are driven",
        ),
    ],
)
def test_what_cannot_be_driven_is_refused(scenario: Scenario, why: str) -> None:
    with pytest.raises(NoCounterpartError, match=why):
        plan.make(replace(case(VMEMMAP), scenario=scenario), 0)


def test_beside_other_calls_nothing_is_taken_out() -> None:
    calls = (parse_call("vmap(page=0, nr_pages=2)"), parse_call("cat_kernel_page_tables()"))
    scenario = replace(case(SHADOW).scenario, cpus=tuple((call,) for call in calls))
    assert not hotplug.takes_out(scenario)
