"""The kernel's calls as the rules of a Hypothesis state machine, for every shipped mitigation.

CPUs are given calls as Hypothesis draws them. One rule runs them to their end: first many times, each time by another
plan, to look for a bug, and then once more to go on from there. The oracles watch each run. Where a mitigation is
claimed to be safe a bug fails the test, and is left behind as a minimised test case in corpus/findings (another
folder: FUZZVM_CORPUS); where it is claimed to fail the machine has to find a bug.

    HYPOTHESIS_PROFILE=ci pytest harnesses/stateful.py

The classes that pytest collects are plain test cases, which HypoFuzz takes as they are.
"""

from __future__ import annotations

import os
import sys
import unittest
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.replay import replay
from fuzzvm.corpus.store import save
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.pgtable import Level, pxd_pfn, pxd_pgprot
from fuzzvm.machine.execution import Execution
from fuzzvm.mitigations import registry
from fuzzvm.runs.minimise.minimiser import minimise
from fuzzvm.runs.plans.generate import PLANS
from fuzzvm.runs.stretch import Stretch
from fuzzvm.scenario.calls import (
    PROTS,
    Call,
    CatKernelPageTables,
    CheckWxPages,
    Vfree,
    Vmalloc,
    VmallocHuge,
    Vmap,
    VmUnmapAliases,
    Vunmap,
)
from fuzzvm.scenario.interactive import InteractiveSystem
from fuzzvm.scenario.scenario import Scenario

FINDINGS = Path(__file__).resolve().parent.parent / "corpus" / "findings"
MAX_MAPPERS = 2
RUNS = [6] * 4 + [96]
"""Runs of an example, drawn: few for most scenarios, and many for some. Bugs between two walkers need a hundred."""
SEEDS = 8
EXAMPLES_A_SEED = 1000
"""How long a machine with a claimed bug is given to find it; most take a few dozen examples."""


class FoundBugError(Exception):
    """The run failed; `case` is what to replay."""

    def __init__(self, case: TestCase) -> None:
        super().__init__(str(case.expect))
        self.case = case


@dataclass(frozen=True)
class Range:
    """A range of pages that one CPU maps into and nobody else, as get_vm_area() would hand it out."""

    cpu: int
    first: int
    nr_pages: int


@dataclass(frozen=True)
class Mapped:
    """What one call mapped of a range."""

    range: Range
    nr_pages: int


@dataclass(frozen=True)
class Area:
    """What one call of vmalloc allocated."""

    cpu: int
    name: str
    nr_pages: int
    prot: str


MAPPER = st.runner().flatmap(lambda machine: st.integers(0, machine.mappers - 1))
PROT = st.sampled_from(["rw", "ro", "rwx"])


class KernelCalls(RuleBasedStateMachine):
    """CPUs that map, each its own ranges and areas, beside CPUs that walk the page tables.

    The lower half of the address space is vmalloc's. The upper half is cut into the ranges of the CPUs that map.
    """

    mitigation: ClassVar[type[Mitigation]]
    walkers: ClassVar[int]

    ranges = Bundle("ranges")
    mappings = Bundle("mappings")
    areas = Bundle("areas")

    system: InteractiveSystem

    @initialize(
        target=ranges,
        arch=st.sampled_from([(name, levels) for name in architectures.names() for levels in (4, 3)]).filter(
            lambda arch: arch[1] in architectures.get(arch[0]).levels
        ),
        fanout=st.sampled_from([2, 2, 4]),
        leftovers=st.sampled_from([True, True, False]),
        mappers=st.sampled_from([1, 1, MAX_MAPPERS]),
        weak=st.sampled_from([False, False, False, False, True]),
        runs=st.sampled_from(RUNS),
    )
    def boot(self, arch: tuple[str, int], fanout: int, leftovers: bool, mappers: int, weak: bool, runs: int) -> object:
        """Boot; with `leftovers` there are empty tables everywhere that earlier mappings have left.

        `weak`: memory is the architecture's, not sc. `runs`: how many runs the example may use to look for bugs.
        """
        name, levels = arch
        half = fanout**levels // 2
        nr_pages = fanout**2 if mappers * fanout**2 <= half else fanout
        ranges = [Range(cpu, half + cpu * nr_pages, nr_pages) for cpu in range(mappers)]
        self.mappers = mappers
        self.fanout = fanout
        self.runs = runs
        self.room = half // fanout
        self.mapped: dict[int, tuple[int, int]] = {}
        self.allocated: dict[str, Area] = {}
        self.number_of_areas = 0
        setup: list[Call] = []
        if leftovers:
            for its_range in ranges:
                setup += [Vmap(its_range.first, nr_pages, "pte"), Vunmap(its_range.first, nr_pages)]
            setup += [Vmalloc("boot", fanout), Vfree("boot"), VmUnmapAliases()]
            self.room -= 1
        self.system = InteractiveSystem(
            name,
            "4K",
            levels,
            fanout,
            self.mitigation,
            None if weak else "sc",
            mappers + self.walkers,
            setup=setup,
        )
        return multiple(*ranges)

    # What the kernel is asked for

    @precondition(lambda self: self.a_mapper_rests())
    @rule(
        target=mappings,
        its_range=consumes(ranges),
        part=st.sampled_from(["all", "block", "page"]),
        max_page_shift=st.sampled_from(["pud", "pmd", "pte"]),
        prot=PROT,
    )
    def vmap(self, its_range: Range, part: str, max_page_shift: str, prot: str) -> Mapped:
        return self.map(
            its_range, {"all": its_range.nr_pages, "block": self.fanout, "page": 1}[part], max_page_shift, prot
        )

    def map(self, its_range: Range, nr_pages: int, max_page_shift: str, prot: str) -> Mapped:
        """Give the CPU of a range a call that maps pages of it."""
        for page in range(its_range.first, its_range.first + nr_pages):
            self.mapped[page] = page, PROTS[prot]
        self.system.call(its_range.cpu, Vmap(its_range.first, nr_pages, max_page_shift, prot))
        return Mapped(its_range, nr_pages)

    @precondition(lambda self: self.a_mapper_rests())
    @rule(target=mappings, its_range=consumes(ranges), max_page_shift=st.sampled_from(["pmd", "pud"]), prot=PROT)
    def vmap_over_tables(self, its_range: Range, max_page_shift: str, prot: str) -> Mapped:
        """Map by pages and unmap, which leaves tables, and map by blocks, which frees them."""
        nr_pages = its_range.nr_pages if max_page_shift == "pud" else self.fanout
        self.system.call(its_range.cpu, Vmap(its_range.first, nr_pages, "pte"))
        self.system.call(its_range.cpu, Vunmap(its_range.first, nr_pages))
        return self.map(its_range, nr_pages, max_page_shift, prot)

    @precondition(lambda self: self.a_mapper_rests())
    @rule(target=ranges, mapped=consumes(mappings))
    def vunmap(self, mapped: Mapped) -> Range:
        for page in range(mapped.range.first, mapped.range.first + mapped.nr_pages):
            del self.mapped[page]
        self.system.call(mapped.range.cpu, Vunmap(mapped.range.first, mapped.nr_pages))
        return mapped.range

    @precondition(lambda self: self.a_mapper_rests() and self.room > 0)
    @rule(target=areas, cpu=MAPPER, part=st.sampled_from(["block", "page"]), prot=PROT)
    def vmalloc_huge(self, cpu: int, part: str, prot: str) -> Area:
        # addresses are used again only after a purge, so this many blocks of them never reach the upper half
        self.room -= 1
        self.number_of_areas += 1
        area = Area(cpu, f"area{self.number_of_areas}", self.fanout if part == "block" else 1, prot)
        self.allocated[area.name] = area
        self.system.call(cpu, VmallocHuge(area.name, area.nr_pages, prot))
        return area

    @precondition(lambda self: self.a_mapper_rests())
    @rule(area=consumes(areas))
    def vfree(self, area: Area) -> None:
        del self.allocated[area.name]
        self.system.call(area.cpu, Vfree(area.name))

    @precondition(lambda self: self.a_mapper_rests())
    @rule(cpu=MAPPER)
    def vm_unmap_aliases(self, cpu: int) -> None:
        self.system.call(cpu, VmUnmapAliases())

    @precondition(lambda self: bool(self.resting_walkers()))
    @rule(cpu=st.runner().flatmap(lambda self: st.sampled_from(self.resting_walkers())))
    def cat_kernel_page_tables(self, cpu: int) -> None:
        self.system.call(cpu, CatKernelPageTables())

    @precondition(lambda self: bool(self.resting_walkers()))
    @rule(cpu=st.runner().flatmap(lambda self: st.sampled_from(self.resting_walkers())))
    def check_wx_pages(self, cpu: int) -> None:
        self.system.call(cpu, CheckWxPages())

    @precondition(lambda self: self.may_race())
    @rule(data=PLANS)
    def interleave(self, data: bytes) -> None:
        """Look for a bug by many plans, and then run all calls to their end by another one."""
        self.run_all(Random(data))

    def run_all(self, source: Random) -> None:
        """Do that. Raises FoundBugError where one of the many runs fails."""
        stretch = Stretch(self.system)
        found = stretch.look_for_bug(source, self.runs)
        if found is not None:
            raise FoundBugError(self.case_of(self.system.scenario, found))
        self.runs -= stretch.runs
        chooser = stretch.follow(source)
        self.system.finish(chooser)
        chooser.end()

    def case_of(self, scenario: Scenario, execution: Execution) -> TestCase:
        """Return the test case of a run."""
        system = self.system.system
        expect = Expectation.of(execution)
        return TestCase(scenario, system.mitigation_name, system.memory, execution.schedule, expect)

    def may_race(self) -> bool:
        """Return whether a CPU that maps has calls to make, and another CPU has."""
        busy = [not self.system.idle(cpu) for cpu in range(self.mappers + self.walkers)]
        return any(busy[: self.mappers]) and sum(busy) > 1

    def a_mapper_rests(self) -> bool:
        """Return whether a CPU that maps has nothing to do: long runs show less of what is raced for."""
        return any(self.system.idle(cpu) for cpu in range(self.mappers))

    def resting_walkers(self) -> list[int]:
        """Return the CPUs that walk and do not at the moment."""
        return [cpu for cpu in range(self.mappers, self.mappers + self.walkers) if self.system.idle(cpu)]

    # What must hold

    @invariant()
    def no_oracle_has_spoken(self) -> None:
        if self.system.failure is not None:
            raise FoundBugError(self.case_of(*self.system.to_scenario_and_schedule()))

    @invariant()
    def what_was_asked_for_is_mapped(self) -> None:
        """Compare page tables and areas with what the calls amount to, whenever no call is under way."""
        if not self.system.over or self.system.failure is not None:
            return
        geometry = self.system.system.kernel.geometry
        page_size = geometry.size(Level.PTE)
        wanted = dict(self.mapped)
        live: dict[str, int] = {}
        for cpu in range(self.mappers):
            live |= self.system.areas(cpu)
        assert live.keys() == self.allocated.keys(), f"areas {sorted(live)}, not {sorted(self.allocated)}"
        in_use = {area.start: area for area in self.system.vmap_areas() if not area.lazy}
        assert sorted(live.values()) == sorted(in_use), "the areas in use are not those that calls returned"
        for name, addr in live.items():
            for at in range(addr, in_use[addr].end, page_size):
                page = (at - geometry.base) // page_size
                wanted[page] = page, PROTS[self.allocated[name].prot]
        got = {}
        for level, addr, entry in self.system.mappings():
            first = (addr - geometry.base) // page_size
            for offset in range(geometry.size(level) // page_size):
                got[first + offset] = pxd_pfn(entry) + offset, pxd_pgprot(entry)
        assert got == wanted, f"wrongly mapped or missing: {sorted(got.items() ^ wanted.items())}"

    def teardown(self) -> None:
        """Run all calls to their end, where no rule or invariant has failed."""
        # an exception on its way is what the test is about, and Hypothesis' own say that this run does not count
        if sys.exc_info()[0] is None and hasattr(self, "system"):
            self.run_all(Random(b""))
            self.no_oracle_has_spoken()
            self.what_was_asked_for_is_mapped()


def keep(case: TestCase, mitigation: type[Mitigation], folder: Path) -> str:
    """Minimise a failing test case and save it in a folder; return a report with the command that replays it.

    Raises CorpusError where the folder cannot be written to.
    """
    minimised = minimise(case, mitigation)
    name = f"found by harnesses/stateful.py; {minimised.how}"
    path, _ = save(minimised.with_origin(name).case, folder)
    return f"{case.mitigation} is claimed to be safe here: {minimised.case.expect}\nreplay with: fuzzvm replay {path}"


def claimed_safe(machine: type[KernelCalls]) -> type[unittest.TestCase]:
    """Return the test that a state machine finds nothing; what it finds is kept."""

    class Safe(machine.TestCase):  # type: ignore[name-defined, misc]
        def runTest(self) -> None:  # noqa: N802 - the name that unittest gave it
            try:
                run_state_machine_as_test(machine, settings=self.settings)
            except FoundBugError as found:
                folder = Path(os.environ.get("FUZZVM_CORPUS", FINDINGS))
                raise AssertionError(keep(found.case, machine.mitigation, folder)) from None

    # what HypoFuzz finds the state machine by
    vars(Safe.runTest).update(vars(machine.TestCase.runTest))
    return Safe


def claimed_buggy(machine: type[KernelCalls]) -> type[unittest.TestCase]:
    """Return the test that a state machine finds a bug, and one that replays.

    It begins with the same seeds in every profile: that a bug is found must not be a matter of luck.
    """

    class Buggy(machine.TestCase):  # type: ignore[name-defined, misc]
        settings = settings(
            max_examples=EXAMPLES_A_SEED,
            stateful_step_count=16,
            phases=(Phase.generate,),
            derandomize=False,
            database=None,
            report_multiple_bugs=False,
        )

        def runTest(self) -> None:  # noqa: N802 - the name that unittest gave it
            for number in range(SEEDS):
                try:
                    run_state_machine_as_test(seed(number)(machine), settings=self.settings)
                except FoundBugError as found:
                    self.assertEqual(replay(found.case, machine.mitigation).problem, "")
                    return
            self.fail(f"no bug found under {machine.mitigation.name}, which is claimed to have one")

    return Buggy


def define(name: str, mitigation: type[Mitigation], walkers: int, verdict: Verdict) -> type[unittest.TestCase]:
    """Return the test of a mitigation with that many walkers."""
    namespace = {"mitigation": mitigation, "walkers": walkers, "__module__": __name__}
    machine = type(name, (KernelCalls,), namespace)
    test = claimed_safe(machine) if verdict == "safe" else claimed_buggy(machine)
    test.__name__ = test.__qualname__ = name
    test.__module__ = __name__
    return test


for _name, _mitigation in registry.shipped().items():
    for _walkers, _verdict in ((1, _mitigation.one_walker), (2, _mitigation.two_walkers)):
        if _verdict is not None:
            _title = "".join(part.title() for part in _name.split("-"))
            _test = f"Test{_title}With{_walkers}Walker{'s' * (_walkers > 1)}"
            globals()[_test] = define(_test, _mitigation, _walkers, _verdict)
