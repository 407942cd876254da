"""Where the model's added memory lies on a real x86_64 kernel, and the guest's calls that add it and take it out.

The guest's module stands for a device's driver: it adds memory by memremap_pages() and takes it out by
memunmap_pages(), at a physical address where there is nothing, as nobody accesses it. The one area of the model stands
for one of three ranges of the kernel's addresses, by what the scenario takes out and how its setup maps:

- the vmemmap, which the kernel maps page by page for less memory than a section (vmemmap_populate);
- the linear map, which it maps by blocks of 2 MB;
- KASAN's shadow of the linear map, page by page. In a kernel without CONFIG_ZONE_DEVICE the module calls what
  memremap_pages() would call, and nothing of the memory is there but its shadow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fuzzvm.kernel.pgtable import Level
from fuzzvm.realkernel.build import BuiltKernel
from fuzzvm.realkernel.errors import NoCounterpartError
from fuzzvm.realkernel.places import Window
from fuzzvm.scenario.call import Call, OfPages
from fuzzvm.scenario.calls import Vmap
from fuzzvm.scenario.hotplug_calls import PagemapRangeFails, PageunmapRange, TryRemoveMemory
from fuzzvm.scenario.scenario import Scenario

CALLS = (TryRemoveMemory, PageunmapRange, PagemapRangeFails)
"""The calls that take memory out, or its shadow."""
PHYSICAL = 64 << 30
"""Physical address of the memory that is added: its linear map, its vmemmap and its shadow have tables of their own."""
SUBSECTION = 2 << 20
"""The least memory that can be added (SUBSECTION_SIZE)."""
MISALIGNED = 1 << 20
"""Memory that memremap_pages() adds the shadow of, and then fails to add (check_pfn_span)."""
LEVELS = 4
LINEAR_MAP, _VMEMMAP = 0xFFFF_8880_0000_0000, 0xFFFF_EA00_0000_0000
"""__PAGE_OFFSET_BASE_L4 and __VMEMMAP_BASE_L4: the kernel is not relocated."""
_PAGE_SHIFT, _STRUCT_PAGE, _SHADOW_SHIFT = 12, 64, 3


@dataclass(frozen=True, slots=True)
class Part:
    """A range of the kernel's addresses. `memory` is how many bytes of memory one byte of it is for."""

    name: str
    memory: int
    whole: bool
    """Whether all pages of a call are one device's, else those of each PTE table are one's."""


VMEMMAP = Part("vmemmap", (1 << _PAGE_SHIFT) // _STRUCT_PAGE, whole=False)
LINEAR = Part("linear map", 1, whole=True)
SHADOW = Part("shadow", 1 << _SHADOW_SHIFT, whole=False)


def takes_out(scenario: Scenario) -> bool:
    """Return whether a scenario takes memory out."""
    return any(isinstance(call, CALLS) for call in scenario.every_call)


def part(scenario: Scenario) -> Part:
    """Return what a scenario that takes memory out is about. Raises NoCounterpartError where that is two things."""
    if any(not isinstance(call, Vmap) for call in scenario.setup):
        raise NoCounterpartError("memory that is added is mapped and no more before the schedule begins")
    removed = {isinstance(call, TryRemoveMemory) for call in scenario.every_call if isinstance(call, CALLS)}
    mapped = {call.max_page_shift for call in scenario.setup if isinstance(call, Vmap)}
    if len(removed) != 1 or len(mapped) != 1:
        raise NoCounterpartError("a schedule is followed in one of vmemmap, linear map and shadow")
    by_blocks = mapped == {"pmd"}
    if removed == {False} and not by_blocks:
        return SHADOW
    if removed == {True} and mapped <= {"pte", "pmd"}:
        return LINEAR if by_blocks else VMEMMAP
    raise NoCounterpartError(f"added memory is not mapped by {', '.join(sorted(mapped))} on a real kernel")


def window(scenario: Scenario, kernel: BuiltKernel) -> int:
    """Return the address of the part that the scenario is about.

    Raises NoCounterpartError for a kernel that the memory cannot be added to.
    """
    found = part(scenario)
    if found is not SHADOW and shadow_alone(kernel):
        raise NoCounterpartError(f"{kernel.folder}: no memory can be added: the kernel has no CONFIG_ZONE_DEVICE=y")
    if found is VMEMMAP:
        return _VMEMMAP + (PHYSICAL >> _PAGE_SHIFT) * _STRUCT_PAGE
    if found is LINEAR:
        return LINEAR_MAP + PHYSICAL
    return (LINEAR_MAP + PHYSICAL >> _SHADOW_SHIFT) + kernel.shadow_offset() & (1 << 64) - 1


def shadow_alone(kernel: BuiltKernel) -> bool:
    """Return whether a kernel can be added no memory, but its shadow alone."""
    return "CONFIG_ZONE_DEVICE=y" not in kernel.config().splitlines()


def check(scenario: Scenario) -> None:
    """Raise NoCounterpartError where a scenario that takes memory out cannot be driven."""
    if scenario.arch != "x86_64" or scenario.levels != LEVELS:
        raise NoCounterpartError(f"memory is added and taken out on x86_64 with {LEVELS} levels only")
    if any(not (isinstance(call, CALLS) or call.walks) for cpu in scenario.cpus for call in cpu):
        raise NoCounterpartError("beside memory that is taken out only dumps are driven")
    found = part(scenario)
    of = Window(scenario.geometry(), 0)
    added = [device for call in scenario.setup for device in _devices(call, of, found)]
    for call in scenario.every_call:
        if isinstance(call, CALLS):
            taken = list(_devices(call, of, found))
            if len(taken) != 1 or taken[0] not in added:
                raise NoCounterpartError(f"{call.name} must take out what one PTE table of the setup maps, or all")


def setup(scenario: Scenario, window: Window, alone: bool) -> list[str]:
    """Return the calls that add the memory, or where `alone` its shadow: but that whose adding is to fail.

    That is part of the schedule where there is more than the shadow.
    """
    found = part(scenario)
    added = [device for call in scenario.setup for device in _devices(call, window, found)]
    if alone:
        return [f"shadow {LINEAR_MAP + start:#x} {size:#x}" for start, size in added]
    fails = {
        device
        for call in scenario.every_call
        if isinstance(call, PagemapRangeFails)
        for device in _devices(call, window, found)
    }
    return [f"device {start:#x} {size:#x}" for start, size in added if (start, size) not in fails]


def operation(call: Call, scenario: Scenario, window: Window, alone: bool) -> str:
    """Return a call that takes memory out, or its shadow, as the guest's module understands it."""
    ((start, size),) = _devices(call, window, part(scenario))
    if alone:
        return f"unshadow {LINEAR_MAP + start:#x} {size:#x}"
    if isinstance(call, PagemapRangeFails):
        return f"device_fails {start:#x} {MISALIGNED:#x}"
    return f"undevice {start:#x}"


def entered(call: Call) -> str | None:
    """Return the kernel's function that a call is let to before the schedule begins, None where it is not.

    Until then it waits for grace periods of RCU, which do not end while a CPU is parked.
    """
    if isinstance(call, TryRemoveMemory):
        return "arch_remove_memory"
    return "kasan_remove_zero_shadow" if isinstance(call, CALLS) else None


def _devices(call: Call, window: Window, of: Part) -> Iterator[tuple[int, int]]:
    """Return the memory that the pages of a call are for: physical address and size of each device."""
    assert isinstance(call, OfPages)
    geometry = window.geometry
    first, end = call.page, call.page + call.nr_pages
    step = geometry.size(Level.PUD if of.whole else Level.PMD) >> geometry.page_shift
    for page in range(first - first % step, end, step):
        start = PHYSICAL + (window.address(page) - window.start) * of.memory
        blocks = -(-(min(end, page + step) - page) * geometry.size(Level.PTE) // geometry.size(Level.PMD))
        yield start, SUBSECTION * (blocks if of.whole else 1)
