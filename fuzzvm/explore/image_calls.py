"""The calls of a scenario as calls of a kernel image's functions, with the image's own geometry.

A scenario counts pages where tables have `fanout` entries. Its addresses are read as indices into the tables of each
level, and mean the entries of these indices in the image: with a fan-out of 2, page 2 is the first page of the second
PTE table, which is page 512 of an image with 4K pages.

The setup maps and unmaps page by page what it maps by PTEs: it is there to make tables, and a PUD has 262,144 pages in
an image. A call of a CPU is of the whole range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.run.program import Boundary, Call
from fuzzvm.compiled.run.task import CompiledTask, CpuCalls, call
from fuzzvm.scenario.calls import Call as ScenarioCall
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.scenario import Scenario

ENTRY_SHIFT = 3
PHYS = 1 << 38
"""The physical address of page 0: aligned to every block, and nothing of the kernel's."""
PROTS = {
    "arm64": {
        "rw": 0x0068_0000_0000_0701,
        "ro": 0x0060_0000_0000_0781,
        "rox": 0x0040_0000_0000_0781,
        "rwx": 0x0048_0000_0000_0701,
    },
    "x86_64": {
        "rw": 0x8000_0000_0000_0163,
        "ro": 0x8000_0000_0000_0121,
        "rox": 0x0000_0000_0000_0121,
        "rwx": 0x0000_0000_0000_0163,
    },
}
"""Attributes of a valid kernel mapping. arm64: UXN, PXN, DBM; AF, inner shareable, AP[2] (Arm ARM D8.3). x86_64: NX;
global, dirty, accessed, writable, present (Intel SDM vol. 3A 4.5; asm/pgtable_types.h)."""
_VMALLOC = {"x86_64": 0xFFFF_C900_0000_0000}
"""Where a scenario's pages begin if not after the image."""


@dataclass(frozen=True)
class Geometry:
    """Where the pages of a scenario are in an image: `fanout` is the scenario's, `entries` the image's."""

    base: int
    page_shift: int
    fanout: int

    @classmethod
    def of(cls, image: Image, fanout: int) -> Geometry:
        """Return that of an image: its pages begin with an entry of the root that maps none of the image."""
        page_shift, levels = image.manifest.page_shift, image.manifest.levels
        root = page_shift + (page_shift - ENTRY_SHIFT) * (levels - 1)
        behind = (image.sections[0].address >> root) + 1 << root
        return cls(_VMALLOC.get(image.manifest.arch, behind), page_shift, fanout)

    @property
    def entries(self) -> int:
        """The number of entries of a table of the image."""
        return 1 << self.page_shift - ENTRY_SHIFT

    def page(self, number: int) -> int:
        """Return which page of the image a page of the scenario is."""
        found, weight = 0, 1
        while number:
            number, index = divmod(number, self.fanout)
            found += index * weight
            weight *= self.entries
        return found

    def addr(self, number: int) -> int:
        """Return the address of a page of the scenario."""
        return self.base + (self.page(number) << self.page_shift)

    def shift(self, name: str) -> int:
        """Return the shift of the entry that a scenario calls so."""
        below = {"pte": 0, "pmd": 1, "pud": 2}
        if name not in below:
            raise ScenarioError(f"blocks of kind {name!r} are not there for images", "max_page_shift")
        return self.page_shift + (self.page_shift - ENTRY_SHIFT) * below[name]


def image_task(
    image: Image,
    scenario: Scenario,
    memory: str,
    boundary: dict[str, Boundary] | None = None,
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
    boot = (*_initialise(image), *_setup(image, geometry, scenario.setup))
    cpus = [CpuCalls(_calls(image, geometry, calls)) for calls in scenario.cpus]
    return CompiledTask(image, memory, CpuCalls(boot), cpus, boundary, assume=assume, tracked=tracked)


def why_not(image: Image, scenario: Scenario) -> str:
    """Return why an image cannot run a scenario, '' where it can."""
    if scenario.arch != image.manifest.arch:
        return f"it is of {scenario.arch}, and the image of {image.manifest.arch}"
    if scenario.tlb:
        return "what TLBs may hold is not followed for images"
    for one in (*scenario.setup, *(one for calls in scenario.cpus for one in calls)):
        if type(one) not in _CALLS:
            return f"{one.name}() is not there for images"
        if isinstance(one, Vmap) and one.max_page_shift == "contpte":
            return "contiguous blocks are not there for images"
    return ""


def _initialise(image: Image) -> tuple[Call, ...]:
    """Return the calls that the kernel itself makes at boot, where the image has them: what ptdump prepares."""
    return (call(image, "ptdump_init"),) if image.symbols_named("ptdump_init") else ()


def _setup(image: Image, geometry: Geometry, setup: Sequence[ScenarioCall]) -> list[Call]:
    """Return the calls of a setup, page by page where they are about PTEs."""
    found: list[Call] = []
    for one in setup:
        if isinstance(one, Vunmap) or (isinstance(one, Vmap) and one.max_page_shift == "pte"):
            for number in range(one.nr_pages):
                addr = geometry.addr(one.page + number)
                found.append(_of_page(image, geometry, one, number, addr, addr + (1 << geometry.page_shift)))
        else:
            found += _calls(image, geometry, (one,))
    return found


def _of_page(image: Image, geometry: Geometry, one: Vmap | Vunmap, number: int, addr: int, end: int) -> Call:
    if isinstance(one, Vunmap):
        return call(image, "vunmap_range", addr, end)
    first = one.page if one.phys_page < 0 else one.phys_page
    phys = PHYS + (geometry.page(first + number) << geometry.page_shift)
    return call(image, "vmap_range_noflush", addr, end, phys, _prot(image, one), geometry.page_shift)


def _calls(image: Image, geometry: Geometry, calls: Sequence[ScenarioCall]) -> tuple[Call, ...]:
    return tuple(_CALLS[type(one)](image, geometry, one) for one in calls)


def _prot(image: Image, one: Vmap) -> int:
    return PROTS[image.manifest.arch][one.prot]


def _vmap(image: Image, geometry: Geometry, one: ScenarioCall) -> Call:
    assert isinstance(one, Vmap)
    addr, end = geometry.addr(one.page), geometry.addr(one.page + one.nr_pages)
    phys = PHYS + (geometry.page(one.page if one.phys_page < 0 else one.phys_page) << geometry.page_shift)
    shift = geometry.shift(one.max_page_shift)
    return call(image, "vmap_range_noflush", addr, end, phys, _prot(image, one), shift)


def _vunmap(image: Image, geometry: Geometry, one: ScenarioCall) -> Call:
    assert isinstance(one, Vunmap)
    return call(image, "vunmap_range", geometry.addr(one.page), geometry.addr(one.page + one.nr_pages))


def _cat_kernel_page_tables(image: Image, geometry: Geometry, one: ScenarioCall) -> Call:
    if image.manifest.arch == "x86_64":
        # no seq_file, and not the part of the tables that is a user's
        return call(image, "ptdump_walk_pgd_level_debugfs", 0, image.symbol("init_mm").address, 0)
    if not image.signature(image.function("ptdump_walk")).parameters:
        return call(image, "ptdump_walk")
    if not image.symbols_named("kernel_ptdump_info"):
        raise ImageError("the image has no kernel_ptdump_info: nothing says what ptdump walks")
    # no seq_file: nothing is printed
    return call(image, "ptdump_walk", 0, image.symbol("kernel_ptdump_info").address)


def _check_wx_pages(image: Image, geometry: Geometry, one: ScenarioCall) -> Call:
    return call(image, "ptdump_walk_pgd_level_checkwx" if image.manifest.arch == "x86_64" else "ptdump_check_wx")


_CALLS: dict[type[ScenarioCall], Callable[[Image, Geometry, ScenarioCall], Call]] = {
    Vmap: _vmap,
    Vunmap: _vunmap,
    CatKernelPageTables: _cat_kernel_page_tables,
    CheckWxPages: _check_wx_pages,
}
"""What each call of a scenario calls in an image."""
