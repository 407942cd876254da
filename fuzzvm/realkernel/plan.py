"""A schedule of the model as what a real kernel must be seen to do: accesses to entries, and tables freed, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fuzzvm.corpus.format import TestCase
from fuzzvm.corpus.replay import mitigation_of, run
from fuzzvm.kbuild.arch import PAGE_SHIFTS
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.pgtable import Geometry, Level, TableLabel, pxd_cont
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.ops import Free, Load, Rmw, Store, offset_of
from fuzzvm.machine.trace import TraceStep
from fuzzvm.realkernel import hotplug
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.places import Entry, Window
from fuzzvm.scenario.calls import (
    Call,
    CallFunction,
    CatKernelPageTables,
    CatPageTables,
    CheckWxPages,
    ReadKcore,
    SetMemoryRo,
    SetMemoryRox,
    Vfree,
    VmallocHuge,
    Vmap,
    VmUnmapAliases,
    Vunmap,
)
from fuzzvm.scenario.calls import Vmalloc as VmallocCall
from fuzzvm.scenario.scenario import Scenario

PHYSICAL = 0x4000_0000
"""Physical address that page 0 is mapped to: aligned to every block. Nobody accesses what is mapped."""
MAX_RESERVED = 512 << 20
"""The most memory at PHYSICAL that a guest sets aside for pages that are read."""
_SHIFTS = {"pte": Level.PTE, "contpte": Level.PTE, "pmd": Level.PMD, "pud": Level.PUD}
"""By max_page_shift, the level of the largest entry; that of a contiguous block is set as so many entries."""

JUDGED = ("use-after-free-read", "use-after-free-reused")
"""The errors of the model that KASAN can see on a real kernel. FREE_OF_LINKED_TABLE is what the debugger sees."""


@dataclass(frozen=True, slots=True)
class Access:
    """A step that reads or writes a page-table entry. `stack` names the model's functions, innermost first.

    `somewhere` says that it may be any entry of the same table.
    """

    step: int
    cpu: int
    entry: Entry
    write: bool
    stack: tuple[str, ...]
    somewhere: bool = False

    def __str__(self) -> str:
        return f"CPU {self.cpu} {'writes' if self.write else 'reads'} the {self.entry}"


@dataclass(frozen=True, slots=True)
class TableFreed:
    """A step that frees a page table. `stack` names the model's functions, innermost first."""

    step: int
    cpu: int
    entry: Entry
    stack: tuple[str, ...]

    def __str__(self) -> str:
        return f"CPU {self.cpu} frees the table below the {self.entry}"


Expected = Access | TableFreed


@dataclass(frozen=True, slots=True)
class Plan:
    """What is expected, in the schedule's order, and how many of the model's steps have no counterpart.

    The last one is what fails: an access to what is free, `failing`, or where `frees_linked` the free of a table.
    `window` has the pages of what is expected, `calls` those of the
    scenario's calls.
    """

    case: TestCase
    expected: tuple[Expected, ...]
    passed_over: int
    steps: int
    window: Window
    calls: Window

    @property
    def frees_linked(self) -> bool:
        """Whether the error is that a table is freed while an entry leads to it."""
        return isinstance(self.expected[-1], TableFreed)

    @property
    def failing(self) -> Access:
        """Return the access that touches freed memory."""
        last = self.expected[-1]
        assert isinstance(last, Access)
        return last

    def segments(self) -> list[tuple[Expected, ...]]:
        """Return what is expected, cut where the CPU changes."""
        segments: list[list[Expected]] = []
        for expected in self.expected:
            if not segments or segments[-1][0].cpu != expected.cpu:
                segments.append([])
            segments[-1].append(expected)
        return [tuple(segment) for segment in segments]

    def accesses(self, cpu: int) -> list[Access]:
        """Return the accesses of a CPU, in its order."""
        return [expected for expected in self.expected if expected.cpu == cpu and isinstance(expected, Access)]

    def freed(self) -> list[Entry]:
        """Return the entries above the tables that are freed."""
        return [expected.entry for expected in self.expected if isinstance(expected, TableFreed)]

    def entries(self) -> list[Entry]:
        """Return every entry that is accessed, once."""
        return list(dict.fromkeys(expected.entry for expected in self.expected if isinstance(expected, Access)))


def make(case: TestCase, window_start: int, mitigation: type[Mitigation] | None = None) -> Plan:
    """Run a test case on the model and return its plan.

    Raises NoCounterpartError where it does not end in an error that can be seen on a real kernel, or makes calls that
    the guest cannot; MitigationError, ScheduleError as a replay does.
    """
    check_judged(case)
    check_calls(case.scenario)
    machine, execution = run(case, mitigation_of(case, mitigation), tracing=True)
    failure = execution.failure
    if failure is None or failure.error != case.expect.error:
        raise NoCounterpartError("the schedule no longer ends in the error that the file expects")
    window = layout(case, window_start)
    trace = machine.trace or []
    check_strong(trace)
    expected = [found for step in trace if (found := _expected(machine, window, step)) is not None]
    fails = TableFreed if failure.error == FREE_OF_LINKED_TABLE else Access
    if not expected or expected[-1].step != failure.step or not isinstance(expected[-1], fails):
        raise NoCounterpartError("the step that fails is no access to a page-table entry, and no free of a table")
    return Plan(case, tuple(expected), len(trace) - len(expected), len(trace), window, window)


def _expected(machine: Machine, window: Window, step: TraceStep) -> Expected | None:
    """Return what a step looks like on a real kernel, None where it has no counterpart there."""
    if not isinstance(step.op, Load | Store | Rmw | Free):
        return None
    value = step.op.value if isinstance(step.op, Store) else step.response
    # of a table that is free as well: what failed is an access to one
    allocation = machine.allocator.lookup(step.op.address)
    label = None if allocation is None else allocation.label
    if not isinstance(label, TableLabel) or label.mm != "init_mm":
        return None
    va = label.va + offset_of(step.op.address) * window.geometry.size(label.level)
    entry = window.entry(label.level, va)
    if entry.page < 0:
        return None
    if isinstance(step.op, Free):
        above = window.path(label.level)[-2]
        return TableFreed(step.number, step.cpu, window.entry(above, label.va), step.stack)
    if isinstance(value, int) and pxd_cont(value):
        # before vmap on arm64 made them there was nothing to see of one; what a setup left by them is the same
        raise NoCounterpartError(
            f"step {step.number} is of a contiguous block, which cannot be driven on a real kernel"
        )
    write = not isinstance(step.op, Load)
    return Access(step.number, step.cpu, entry, write, step.stack)


def layout(case: TestCase, start: int) -> Window:
    """Return where the pages of a test case's calls are; of an image's case, in the geometry of the image."""
    if case.image is None:
        return Window(case.scenario.geometry(), start)
    shift, levels = PAGE_SHIFTS[case.image.page_size], case.image.levels
    base = case.scenario.geometry().base
    return Window(Geometry.make(shift, levels, case.scenario.fanout, base), start)


def check_judged(case: TestCase) -> None:
    """Raise NoCounterpartError where a test case ends in what neither KASAN nor the debugger sees."""
    if case.expect.error in JUDGED or (case.image is None and case.expect.error == FREE_OF_LINKED_TABLE):
        return
    what = case.expect.error or case.expect.verdict
    more = f", the debugger {FREE_OF_LINKED_TABLE}"
    if case.image is not None:
        more = "; `fuzzvm verify --image DIR --all-errors --save` has all errors"
    raise NoCounterpartError(f"a real kernel shows no {what}: KASAN judges {' and '.join(JUDGED)}{more}")


def check_strong(trace: Sequence[TraceStep]) -> None:
    """Raise NoCounterpartError for a run in which memory is weaker than QEMU shows it."""
    weak = next((step for step in trace if step.remark is not None), None)
    if weak is not None:
        raise NoCounterpartError(
            f"step {weak.number} needs memory weaker than sequential consistency, which QEMU cannot be made to show"
        )


def check_calls(scenario: Scenario) -> None:
    """Raise NoCounterpartError where a scenario makes calls that the guest cannot make, or not where it has to."""
    if scenario.beyond_calls:
        raise NoCounterpartError(f"{scenario.beyond_calls} cannot be driven on a real kernel")
    if hotplug.takes_out(scenario):
        hotplug.check(scenario)
        return
    drivable: tuple[type[Call], ...] = (Vmap, Vunmap, CatKernelPageTables, CatPageTables, CheckWxPages)
    if scenario.arch == "x86_64":
        # arm64's set_memory_*() want areas of vmalloc's own; and with no collapse nothing frees beside a look-up
        drivable = (*drivable, SetMemoryRo, SetMemoryRox, ReadKcore)
    for call in scenario.every_call:
        if not isinstance(call, drivable):
            name = call.function if isinstance(call, CallFunction) else call.name
            raise NoCounterpartError(f"{name} cannot be driven at a known place on a real kernel")
    window = Window(scenario.geometry(), 0)
    if reserved(scenario, window) > MAX_RESERVED:
        raise NoCounterpartError("pages that are read must lie within 512 MB, which the guest sets aside")


def reserved(scenario: Scenario, window: Window) -> int:
    """Return the bytes of memory that are mapped where a call reads what is mapped, else 0.

    They are to be nobody else's: a change of attributes changes the linear map of memory along.
    """
    calls = scenario.every_call
    return span(calls, window) if any(isinstance(call, ReadKcore) for call in calls) else 0


def operations(call: Call, window: Window, slots: dict[str, int]) -> str:
    """Return a call as the guest's module understands it; `slots` numbers the areas by name, and grows.

    Raises NoCounterpartError for a call that the guest cannot make.
    """
    match call:
        case Vmap():
            start, end = (window.address(page) for page in (call.page, call.page + call.nr_pages))
            physical = window.address(call.page if call.phys_page < 0 else call.phys_page) - window.start + PHYSICAL
            chunk = window.block(_SHIFTS[call.max_page_shift])
            return f"vmap {start:#x} {end - start:#x} {physical:#x} {chunk:#x} {call.prot}"
        case Vunmap():
            start, end = (window.address(page) for page in (call.page, call.page + call.nr_pages))
            return f"vunmap {start:#x} {end - start:#x}"
        case VmallocCall() | VmallocHuge():
            slot = slots.setdefault(call.area, len(slots))
            return f"{call.name} {slot} {call.nr_pages << window.geometry.page_shift:#x}"
        case Vfree():
            return f"vfree {slots.setdefault(call.area, len(slots))}"
        case VmUnmapAliases():
            return call.name
        case SetMemoryRo() | SetMemoryRox():
            start, end = (window.address(page) for page in (call.page, call.page + call.nr_pages))
            return f"{call.name} {start:#x} {end - start >> window.geometry.page_shift:#x}"
        case ReadKcore():
            pages = range(call.page, call.page + call.nr_pages)
            return " ".join(["kcore", *(f"{window.address(page):#x}" for page in pages)])
        case CatPageTables() if call.walks_other_mm:
            # under Linux without EFI the reader's own mm stands for efi_mm: it shares the same tables, and has a lock
            return "cat current_kernel"
        case CatKernelPageTables() | CatPageTables():
            return "cat"
        case CheckWxPages():
            return "wx"
    raise NoCounterpartError(f"the guest cannot make the call {call.name}")


def span(calls: tuple[Call, ...], window: Window) -> int:
    """Return the bytes of the window that the calls map, up to a whole PMD entry."""
    ends = [window.address(call.page + call.nr_pages) for call in calls if isinstance(call, Vmap | Vunmap)]
    block = window.block(Level.PMD)
    return -(-(max(ends, default=window.start + block) - window.start) // block) * block
