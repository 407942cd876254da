"""Look-ups of single addresses, interrupts off, and IPIs that wait for them."""

from __future__ import annotations

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.page_lookup import kernel_page_present, spurious_kernel_fault, vmalloc_to_page
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_RO, Level
from fuzzvm.kernel.vmap import vmap_range
from fuzzvm.machine.ops import Free, InterruptAll, Load, Tlbi
from fuzzvm.mitigations import registry
from fuzzvm.mitigations.none import NoMitigation
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.pairs import ALL, FREERS, WALKERS, pairs, scenarios
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.scenario.system import System
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell
from tests.support import boot


@pytest.mark.parametrize("arch", ["arm64", "x86_64"])
@pytest.mark.parametrize("level", [Level.PTE, Level.PMD, Level.PUD])
def test_an_address_is_found_at_every_level(arch: str, level: Level) -> None:
    machine, k = boot(arch)
    size = k.geometry.size(level)
    base = k.geometry.base
    machine.boot(vmap_range(k, base, base + size, 8 * size, PAGE_KERNEL, k.geometry.shifts[level]))
    page = k.geometry.size(Level.PTE)
    last = base + size - page
    assert machine.boot(vmalloc_to_page(k, last)) == (8 * size + size - page) >> k.geometry.page_shift
    assert machine.boot(vmalloc_to_page(k, base + size)) == 0


@pytest.mark.parametrize("level", [Level.PTE, Level.PMD, Level.PUD])
@pytest.mark.parametrize(("prot", "spurious"), [(PAGE_KERNEL, True), (PAGE_KERNEL_RO, False)])
def test_a_denied_write_is_spurious_where_the_page_tables_allow_it(level: Level, prot: int, spurious: bool) -> None:
    machine, k = boot("x86_64")
    size = k.geometry.size(level)
    base = k.geometry.base
    machine.boot(vmap_range(k, base, base + size, 0, prot, k.geometry.shifts[level]))
    assert machine.boot(spurious_kernel_fault(k, base)) is spurious
    assert machine.boot(spurious_kernel_fault(k, base + size)) is False
    assert machine.boot(kernel_page_present(k, base)) is True
    assert machine.boot(kernel_page_present(k, base + size)) is False


def kcore(
    *, rereads: bool = False, calls: tuple[str, ...] = ("read_kcore(page=0, nr_pages=2)",), **more: object
) -> System:
    data = {
        "name": "k",
        "arch": "x86_64",
        "page_size": "4K",
        "levels": 4,
        "fanout": 2,
        "setup": ["vmap(page=0, nr_pages=2, max_page_shift='pte')"],
        "cpus": [list(calls), ["set_memory_rox(page=0, nr_pages=2)"]],
        "walk_rereads": rereads,
        **more,
    }
    return System(Scenario.from_data(data), NoMitigation, "sc")


def alone(system: System, cpu: int) -> list[object]:
    """Return the operations of one CPU, run to its end before the others."""
    machine = system.machine(tracing=True)
    while cpu in machine.enabled():
        machine.step(cpu, lambda _: 0)
    return [step.op for step in machine.trace or () if step.agent == cpu and step.op is not None]


def test_with_rereads_an_entry_is_read_as_often_as_c_reads_it() -> None:
    once = [op for op in alone(kcore(), 0) if isinstance(op, Load)]
    often = [op for op in alone(kcore(rereads=True), 0) if isinstance(op, Load)]
    # two pages, each by three upper entries and the PTE
    assert len(once) == 2 * 4
    assert len(often) == 2 * (3 * 4 + 1)


@pytest.mark.parametrize(
    ("call", "arch", "loads"),
    [
        # present, leaf, and the table below; the PTE twice, and the PMD at last
        ("spurious_kernel_fault(page=0)", "x86_64", 3 * 3 + 2 + 1),
        # none, leaf, present, and the table below
        ("kernel_page_present(page=0)", "x86_64", 3 * 4 + 1),
        ("kernel_page_present(page=0)", "arm64", 3 * 2 + 1),
    ],
)
def test_other_look_ups_read_as_often_as_their_c(call: str, arch: str, loads: int) -> None:
    for rereads, expected in ((False, 4), (True, loads)):
        found = [op for op in alone(kcore(calls=(call,), rereads=rereads, arch=arch), 0) if isinstance(op, Load)]
        assert len(found) == expected


@pytest.mark.parametrize("call", ["perf_page_size(page=0)", "spurious_kernel_fault(page=0)"])
def test_a_flush_by_ipi_waits_for_interrupts_and_a_broadcast_does_not(call: str) -> None:
    for invlpgb in (False, True):
        system = kcore(calls=(call,), invlpgb=invlpgb)
        machine = system.machine(tracing=True)
        # interrupts are off from the first step on
        machine.step(0, lambda _: 0)
        while 1 in machine.enabled():
            machine.step(1, lambda _: 0)
        done = [step.op for step in machine.trace or () if step.agent == 1]
        flushed = [op for op in done if isinstance(op, Tlbi)]
        assert flushed
        assert {op.operation for op in flushed} == ({"invlpgb"} if invlpgb else {"invlpg"})
        assert not any(isinstance(op, InterruptAll) for op in done)
        assert any(isinstance(op, Free) for op in done) is invlpgb


def test_invlpgb_is_x86s_and_not_followed_in_tlbs() -> None:
    data = kcore().scenario.to_data()
    with pytest.raises(ScenarioError, match="arm64 has no INVLPGB"):
        Scenario.from_data(data | {"arch": "arm64", "invlpgb": True})
    with pytest.raises(ScenarioError, match="not followed where INVLPGB"):
        Scenario.from_data(data | {"invlpgb": True, "tlb": True})
    assert Scenario.from_data(data | {"invlpgb": True}).to_data()["invlpgb"] is True


def test_cpus_that_have_interrupts_off_are_not_alike() -> None:
    """The word of each is a name of its CPU: renaming CPUs would have to rename addresses."""
    data = kcore().scenario.to_data()
    system = System(Scenario.from_data(data | {"cpus": [["perf_page_size(page=0)"]] * 2}), NoMitigation, "sc")
    assert list(system.alike) == []


def test_every_pair_is_a_scenario_or_has_a_reason() -> None:
    for arch in ALL:
        found = pairs(arch)
        assert {(pair.freer.name, pair.walker.name) for pair in found} == {
            (freer.name, walker.name)
            for freer in FREERS
            for walker in WALKERS
            if arch in freer.archs and arch in walker.archs
        }
        assert all((pair.scenario is None) is bool(pair.reason) for pair in found)
    assert all(name == scenario.name and name.startswith("pair-") for name, scenario in scenarios().items())


def test_who_reads_no_more_than_the_root_has_looked_nothing_up() -> None:
    """The look-up is what the scenario is for: without it, that nothing goes wrong says nothing."""
    data = kcore(calls=("perf_page_size(page=12)",)).scenario.to_data()
    run = verify_cell(Cell("linux-7.3", Scenario.from_data(data), "sc"), Bounds(Limits()))
    assert run.verdict.verdict == "vacuous"
    assert "lookup" in run.verdict.missing


def test_nobody_claims_anything_of_a_look_up_beside_a_promotion() -> None:
    data = kcore().scenario.to_data() | {"cpus": [["read_kcore(page=0, nr_pages=2)"], ["vmap(page=2, nr_pages=2)"]]}
    assert Scenario.from_data(data).expected(registry.get("linux-7.3")) is None
