"""The kernel's calls as the rules of a Hypothesis state machine, for every shipped mitigation.

CPUs are given calls and stepped as Hypothesis draws it; after each rule the oracles are asked. Where a mitigation is
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
from typing import ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fuzzvm.corpus.format import Expectation, TestCase
from fuzzvm.corpus.store import save
from fuzzvm.explore.minimise import minimise
from fuzzvm.kernel import arch as architectures
from fuzzvm.kernel.hooks import Mitigation, Verdict
from fuzzvm.kernel.pgtable import Level, pxd_pfn, pxd_pgprot
from fuzzvm.kernel.vmalloc import VmapArea
from fuzzvm.machine.schedule import MAX_STEPS
from fuzzvm.mitigations import registry
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
from fuzzvm.scenario.system import default_memory

FINDINGS = Path(__file__).resolve().parent.parent / "corpus" / "findings"
MAPPERS = 2
EXAMPLES_TO_FIND_A_BUG = 4000
"""Most examples that a machine with a claimed bug is given to find it."""


class FoundBug(Exception):
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


def enabled_agents() -> st.SearchStrategy[int]:
    """Return a strategy for the agents that can step at that moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(machine.system.enabled()))


MAPPER = st.integers(0, MAPPERS - 1)
PROT = st.sampled_from(["rw", "ro", "rwx"])
BURST = st.integers(1, 24) | st.just(MAX_STEPS)


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
        fanout=st.sampled_from([2, 4]),
        leftovers=st.sampled_from([True, True, False]),
    )
    def boot(self, arch: tuple[str, int], fanout: int, leftovers: bool) -> object:
        """Boot; with `leftovers` there are empty tables everywhere that earlier mappings have left."""
        name, levels = arch
        half = fanout**levels // 2
        nr_pages = fanout**2 if MAPPERS * fanout**2 <= half else fanout
        ranges = [Range(cpu, half + cpu * nr_pages, nr_pages) for cpu in range(MAPPERS)]
        self.fanout = fanout
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
            default_memory(name),
            MAPPERS + self.walkers,
            setup=setup,
        )
        return multiple(*ranges)
