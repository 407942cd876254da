"""The calls of a scenario as calls of a kernel image's functions, with the image's own geometry.

A scenario counts pages where tables have `fanout` entries. Its addresses are read as indices into the tables of each
level, and mean the entries of these indices in the image: with a fan-out of 2, page 2 is the first page of the second
PTE table, which is page 512 of an image with 4K pages.

The setup maps and unmaps page by page what it maps by PTEs: it is there to make tables, and a PUD has 262,144 pages in
an image. A call of a CPU is of the whole range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.entries import AskedCall, CpuCalls
from fuzzvm.compiled.run.environment import Boundary
from fuzzvm.compiled.run.task import CompiledTask, call
from fuzzvm.compiled.run.tlb import ARCH as TLB_ARCH
from fuzzvm.images.functions import OwnWords, function_call
from fuzzvm.images.geometry import PHYS, Geometry
from fuzzvm.scenario.calls import Call as ScenarioCall
from fuzzvm.scenario.calls import CallFunction, CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario, last_page

PROTS = {
    "arm64": {
        "rw": 0x0068_0000_0000_0703,
        "ro": 0x0060_0000_0000_0783,
        "rox": 0x0040_0000_0000_0783,
        "rwx": 0x0048_0000_0000_0703,
    },
    "x86_64": {
        "rw": 0x8000_0000_0000_0163,
        "ro": 0x8000_0000_0000_0121,
        "rox": 0x0000_0000_0000_0121,
        "rwx": 0x0000_0000_0000_0163,
    },
}
"""Attributes of a valid kernel mapping of pages; the kernel makes those of a block from them. arm64: UXN, PXN, DBM; AF,
inner shareable, AP[2], a page (Arm ARM D8.3). x86_64: NX; global, dirty, accessed, writable, present (Intel SDM vol. 3A
4.5; asm/pgtable_types.h)."""


def image_task(
    image: Image,
    scenario: Scenario,
    memory: str,
    boundary: Mapping[str, Boundary] | None = None,
    *,
    assume: bool = True,
    tracked: bool = True,
) -> CompiledTask:
    """Return the task of a scenario whose calls are made of an image's functions; options are those of `CompiledTask`.

    Raises ScenarioError for a scenario that an image cannot run, ImageError for an image that lacks what it needs, and
    ModelError where its setup goes wrong.
    """
    why = why_not(image, scenario)
    if why:
        raise ScenarioError(f"{scenario.name or 'the scenario'}: {why}", "cpus")
    geometry = Geometry.of(image, scenario.fanout)
    own = [OwnWords(image, cpu) for cpu in range(len(scenario.cpus))]
    boot = (*_initialise(image), *_setup(image, geometry, scenario.setup, own[0]))
    cpus = [CpuCalls(_calls(image, geometry, calls, own[cpu])) for cpu, calls in enumerate(scenario.cpus)]
    return CompiledTask(image, memory, CpuCalls(boot), cpus, boundary, assume=assume, tracked=tracked, tlb=scenario.tlb)


def why_not(image: Image, scenario: Scenario) -> str:
    """Return why an image cannot run a scenario, '' where it can."""
    if scenario.arch != image.manifest.arch:
        return f"it is of {scenario.arch}, and the image of {image.manifest.arch}"
    if scenario.tlb and scenario.arch != TLB_ARCH:
        return f"what TLBs may hold is not followed for images of {scenario.arch}"
    if scenario.beyond_calls:
        return f"{scenario.beyond_calls} is not there for images"
    geometry = Geometry.of(image, scenario.fanout)
    for named in scenario.of_functions:
        try:
            function_call(image, geometry, named, OwnWords(image, 0))
        except (ImageError, ScenarioError) as error:
            return f"{named}: {error}"
    for one in scenario.every_call:
        if type(one) not in _CALLS and not isinstance(one, CallFunction):
            return f"{one.name}() is not there for images"
        if isinstance(one, Vmap) and one.max_page_shift == "contpte":
            return "contiguous blocks are not there for images"
        try:
            geometry.addr(last_page(one) + 1)
        except ScenarioError as error:
            return f"{one}: {error}"
    return ""


def _initialise(image: Image) -> tuple[AskedCall, ...]:
    """Return the calls that the kernel itself makes at boot, where the image has them: what ptdump prepares."""
    return (call(image, "ptdump_init"),) if image.symbols_named("ptdump_init") else ()


def _setup(image: Image, geometry: Geometry, setup: Sequence[ScenarioCall], own: OwnWords) -> list[AskedCall]:
    """Return the calls of a setup, page by page where they are about PTEs."""
    found: list[AskedCall] = []
    for one in setup:
        if isinstance(one, Vunmap) or (isinstance(one, Vmap) and one.max_page_shift == "pte"):
            for number in range(one.nr_pages):
                addr = geometry.addr(one.page + number)
                found.append(_of_page(image, geometry, one, number, addr, addr + (1 << geometry.page_shift)))
        else:
            found += _calls(image, geometry, (one,), own)
    return found


def _of_page(image: Image, geometry: Geometry, one: Vmap | Vunmap, number: int, addr: int, end: int) -> AskedCall:
    if isinstance(one, Vunmap):
        return call(image, "vunmap_range", addr, end)
    first = one.page if one.phys_page < 0 else one.phys_page
    phys = PHYS + (geometry.page(first + number) << geometry.page_shift)
    return call(image, "vmap_range_noflush", addr, end, phys, _prot(image, one), geometry.page_shift)


def _calls(image: Image, geometry: Geometry, calls: Sequence[ScenarioCall], own: OwnWords) -> tuple[AskedCall, ...]:
    return tuple(
        function_call(image, geometry, one, own)
        if isinstance(one, CallFunction)
        else _CALLS[type(one)](image, geometry, one)
        for one in calls
    )


def _prot(image: Image, one: Vmap) -> int:
    return PROTS[image.manifest.arch][one.prot]


def _vmap(image: Image, geometry: Geometry, one: ScenarioCall) -> AskedCall:
    assert isinstance(one, Vmap)
    addr, end = geometry.addr(one.page), geometry.addr(one.page + one.nr_pages)
    phys = PHYS + (geometry.page(one.page if one.phys_page < 0 else one.phys_page) << geometry.page_shift)
    shift = geometry.shift(one.max_page_shift)
    return call(image, "vmap_range_noflush", addr, end, phys, _prot(image, one), shift)


def _vunmap(image: Image, geometry: Geometry, one: ScenarioCall) -> AskedCall:
    assert isinstance(one, Vunmap)
    return call(image, "vunmap_range", geometry.addr(one.page), geometry.addr(one.page + one.nr_pages))


def _cat_kernel_page_tables(image: Image, geometry: Geometry, one: ScenarioCall) -> AskedCall:
    if image.manifest.arch == "x86_64":
        # no seq_file, and not the part of the tables that is a user's
        return call(image, "ptdump_walk_pgd_level_debugfs", 0, image.symbol("init_mm").address, 0)
    if not image.signature(image.function("ptdump_walk")).parameters:
        return call(image, "ptdump_walk")
    if not image.symbols_named("kernel_ptdump_info"):
        raise ImageError("the image has no kernel_ptdump_info: nothing says what ptdump walks")
    # no seq_file: nothing is printed
    return call(image, "ptdump_walk", 0, image.symbol("kernel_ptdump_info").address)


def _check_wx_pages(image: Image, geometry: Geometry, one: ScenarioCall) -> AskedCall:
    return call(image, "ptdump_walk_pgd_level_checkwx" if image.manifest.arch == "x86_64" else "ptdump_check_wx")


_CALLS: dict[type[ScenarioCall], Callable[[Image, Geometry, ScenarioCall], AskedCall]] = {
    Vmap: _vmap,
    Vunmap: _vunmap,
    CatKernelPageTables: _cat_kernel_page_tables,
    CheckWxPages: _check_wx_pages,
}
"""What each call of a scenario calls in an image."""
