"""The kernel calls that a scenario's CPUs make, and their text.

A call is written as in C, with named arguments: `vmap(page=0, nr_pages=4, max_page_shift='pmd')`. Addresses and sizes
are in pages, counted from the beginning of the vmalloc area, so that a scenario means the same at every fan-out.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from fuzzvm.kernel import efi, process_mm
from fuzzvm.kernel.gfp import Gfp
from fuzzvm.kernel.interrupts import idle
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.page_lookup import (
    aligned_vread_iter,
    do_kern_addr_fault,
    kernel_page_present,
    perf_get_page_size,
    poke_vmalloc_pages,
)
from fuzzvm.kernel.pgtable import PAGE_KERNEL, PAGE_KERNEL_EXEC, PAGE_KERNEL_RO, PAGE_KERNEL_ROX, Geometry, Level
from fuzzvm.kernel.ptdump import ptdump_check_wx, ptdump_walk
from fuzzvm.kernel.vmalloc import vfree, vm_unmap_aliases, vmalloc, vmalloc_huge
from fuzzvm.kernel.vmap import vmap_range, vunmap_range
from fuzzvm.kernel.workqueue import queue_no_more
from fuzzvm.machine.ops import Annotation, Steps
from fuzzvm.scenario.arguments import Argument, page_of, parse_arguments, shown, words_of
from fuzzvm.scenario.call import Areas as Areas
from fuzzvm.scenario.call import Call as Call
from fuzzvm.scenario.call import OfPage, OfPages
from fuzzvm.scenario.errors import ScenarioError
from fuzzvm.scenario.hotplug_calls import (
    HugetlbVmemmapOptimizeFolio,
    KexecLoad,
    KfenceProtectPage,
    PagemapRangeFails,
    PageunmapRange,
    TryRemoveMemory,
)

PROTS = {"rw": PAGE_KERNEL, "ro": PAGE_KERNEL_RO, "rox": PAGE_KERNEL_ROX, "rwx": PAGE_KERNEL_EXEC}
MMS = {"init_mm": "kernel", efi.NAME: "efi", process_mm.NAME: "current_kernel"}
"""The mms that page_tables/ has a file for, and the files."""
SHIFTS = ("pte", "contpte", "pmd", "pud")
MAX_PAGES = 1 << 18
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Output(Annotation):
    """What a read of a debugfs file returned to user space."""

    file: str
    text: str


def _shift(geometry: Geometry, name: str) -> int:
    """Return the shift of the entry that is called so: a page, a contiguous block of pages, a block."""
    return geometry.cont_pte_shift if name == "contpte" else geometry.shifts[Level[name.upper()]]


@dataclass(frozen=True)
class Vmap(OfPages):
    """Map pages at a fixed place, as ioremap and vmap do: vmap_range.

    `max_page_shift` is the largest entry allowed ('pte', 'contpte', 'pmd' or 'pud'), `phys_page` the first physical
    page (the number of the virtual one by default), `prot` one of 'rw', 'ro', 'rox', 'rwx'.
    """

    name = "vmap"
    maps = True
    max_page_shift: str = "pud"
    prot: str = "rw"
    phys_page: int = -1

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, end = self.addresses(k)
        phys_page = self.page if self.phys_page < 0 else self.phys_page
        phys_addr = phys_page << k.geometry.page_shift
        shift = _shift(k.geometry, self.max_page_shift)
        err = yield from vmap_range(k, addr, end, phys_addr, PROTS[self.prot], shift)
        if err:
            # vmap() and generic_ioremap_prot() unmap what was mapped, and return NULL
            yield from vunmap_range(k, addr, end)
        return areas

    def may_promote(self, geometry: Geometry) -> bool:
        block = geometry.size(Level.PMD) >> geometry.page_shift
        first = -(-self.page // block) * block
        phys_page = self.page if self.phys_page < 0 else self.phys_page
        fits = first + block <= self.page + self.nr_pages and (phys_page - self.page) % block == 0
        return fits and self.max_page_shift in ("pmd", "pud")

    def breach(self, k: Kernel, mapped: Collection[int], areas: Areas) -> str:
        # vmap_pte_range() has BUG_ON(!pte_none(ptep_get(pte))); a block would drop the mappings below it in silence
        live = next((page for page in self.pages if page in mapped), None)
        return "" if live is None else f"page {live} is mapped already"


@dataclass(frozen=True)
class Vunmap(OfPages):
    """Unmap pages and leave the tables: vunmap_range."""

    name = "vunmap"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, end = self.addresses(k)
        yield from vunmap_range(k, addr, end)
        return areas

    def breach(self, k: Kernel, mapped: Collection[int], areas: Areas) -> str:
        return "" if any(page in mapped for page in self.pages) else "none of the pages is mapped"


@dataclass(frozen=True)
class SetMemoryRo(OfPages):
    """Make mapped pages read-only: set_memory_ro. What it returns is not looked at, as by many callers of the kernel.

    On x86_64 it splits blocks of which a part changes; elsewhere it changes nothing from the first block on.
    """

    name = "set_memory_ro"
    changes_attr = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from k.arch.set_memory_ro(k, addr, self.nr_pages)
        return areas


@dataclass(frozen=True)
class SetMemoryRox(OfPages):
    """Make mapped pages read-only and executable: set_memory_rox.

    As set_memory_ro; and on x86_64 it then collapses pages that are alike into blocks.
    """

    name = "set_memory_rox"
    collapses = True
    changes_attr = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from k.arch.set_memory_rox(k, addr, self.nr_pages)
        return areas


def _remember(areas: Areas, name: str, addr: int | None) -> Areas:
    kept = tuple(area for area in areas if area[0] != name)
    return kept if addr is None else (*kept, (name, addr))


@dataclass(frozen=True)
class Vmalloc(Call):
    """Allocate pages mapped one by one, and call the result `area`."""

    name = "vmalloc"
    maps = True
    area: str
    nr_pages: int
    prot: str = "rw"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr = yield from vmalloc(k, self.nr_pages << k.geometry.page_shift, PROTS[self.prot])
        return _remember(areas, self.area, addr)


@dataclass(frozen=True)
class VmallocHuge(Call):
    """Allocate pages mapped by blocks where possible, and call the result `area`."""

    name = "vmalloc_huge"
    maps = True
    area: str
    nr_pages: int
    prot: str = "rw"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr = yield from vmalloc_huge(k, self.nr_pages << k.geometry.page_shift, PROTS[self.prot])
        return _remember(areas, self.area, addr)

    def may_promote(self, geometry: Geometry) -> bool:
        return self.nr_pages << geometry.page_shift >= geometry.size(Level.PMD)


@dataclass(frozen=True)
class Vfree(Call):
    """Free an area; nothing where this CPU has none of that name, as vfree(NULL)."""

    name = "vfree"
    area: str

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr = dict(areas).get(self.area)
        if addr is None:
            return areas
        yield from vfree(k, addr)
        return _remember(areas, self.area, None)

    def breach(self, k: Kernel, mapped: Collection[int], areas: Areas) -> str:
        addr = dict(areas).get(self.area)
        if addr is None:
            return f"there is no area {self.area!r}"
        # another CPU may have freed what setup allocated: "Trying to vfree() nonexistent vm area"
        return "" if (addr - k.geometry.base) >> k.geometry.page_shift in mapped else f"area {self.area!r} is freed"


@dataclass(frozen=True)
class VmUnmapAliases(Call):
    """Purge the lazily freed areas, so that their addresses are handed out again."""

    name = "vm_unmap_aliases"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from vm_unmap_aliases(k)
        return areas


@dataclass(frozen=True)
class CatKernelPageTables(Call):
    """Read /sys/kernel/debug/kernel_page_tables."""

    name = "cat_kernel_page_tables"
    walks = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        text = yield from ptdump_walk(k, k.init_mm)
        yield Output("kernel_page_tables", text)
        return areas


@dataclass(frozen=True)
class CheckWxPages(Call):
    """Read /sys/kernel/debug/check_wx_pages."""

    name = "check_wx_pages"
    walks = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        passed = yield from ptdump_check_wx(k)
        yield Output("check_wx_pages", "SUCCESS\n" if passed else "FAILED\n")
        return areas


@dataclass(frozen=True)
class CatPageTables(Call):
    """Read /sys/kernel/debug/page_tables/kernel, or another file of the folder (arch/x86/mm/debug_pagetables.c).

    It is efi for `mm` 'efi_mm', and current_kernel for 'current_mm', the mm of the process that reads. The walk of
    another mm goes through the kernel's tables where the architecture shares them between roots, and holds the
    mmap_lock of that mm.
    """

    name = "cat_page_tables"
    walks = True
    mm: str

    @property
    def walks_other_mm(self) -> bool:
        return self.mm != "init_mm"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        text = yield from ptdump_walk(k, k.mm(self.mm))
        yield Output(f"page_tables/{MMS[self.mm]}", text)
        return areas


@dataclass(frozen=True)
class ReadKcore(OfPages):
    """Read pages of an area through /proc/kcore: vread_iter. The area stays allocated meanwhile."""

    name = "read_kcore"
    looks_up = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, end = self.addresses(k)
        yield from aligned_vread_iter(k, addr, end - addr)
        return areas


@dataclass(frozen=True)
class TextPoke(OfPage):
    """Patch code in a page of the vmalloc area: the look-up of its page, as text_poke makes it on x86_64."""

    name = "text_poke"
    looks_up = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from poke_vmalloc_pages(k, addr)
        return areas


@dataclass(frozen=True)
class PerfPageSize(OfPage):
    """Take a sample with PERF_SAMPLE_CODE_PAGE_SIZE at an address in a page: perf_get_page_size in a kernel thread."""

    name = "perf_page_size"
    looks_up = True
    disables_irqs = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from perf_get_page_size(k, addr)
        return areas


@dataclass(frozen=True)
class SpuriousKernelFault(OfPage):
    """Write to a page and be denied: whether a stale TLB entry did that is asked by spurious_kernel_fault."""

    name = "spurious_kernel_fault"
    archs = ("x86_64",)
    looks_up = True
    disables_irqs = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from do_kern_addr_fault(k, addr)
        return areas


@dataclass(frozen=True)
class KernelPagePresent(OfPage):
    """Ask whether a page of the linear map is mapped, as hibernation does of pages that it may save."""

    name = "kernel_page_present"
    looks_up = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from kernel_page_present(k, addr)
        return areas


@dataclass(frozen=True)
class CallFunction(Call):
    """Call any function of a kernel image by its name; the kernel model refuses it. `arguments` explains its words."""

    name = "call"
    function: str
    arguments: tuple[Argument, ...] = ()

    @property
    def last_page(self) -> int:
        """Return the largest number of a page that its arguments name, -1 where they name none."""
        # an address may be where a range ends
        named = [found for word in words_of(self.arguments) if (found := page_of(word))]
        return max((page - (kind in ("page", "phys")) for kind, page in named), default=-1)

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        raise ScenarioError(self.not_modelled)

    @property
    def not_modelled(self) -> str:
        """Say that the model has no such call."""
        return f"{self.function}() is called by name, which compiled code can alone: fuzzvm verify --image DIR"

    def __str__(self) -> str:
        arguments = f", arguments={shown(self.arguments)}" if self.arguments else ""
        return f"{self.name}(function={self.function!r}{arguments})"


CALLS: dict[str, type[Call]] = {
    call.name: call
    for call in (
        Vmap,
        Vunmap,
        SetMemoryRo,
        SetMemoryRox,
        Vmalloc,
        VmallocHuge,
        Vfree,
        VmUnmapAliases,
        CatKernelPageTables,
        CheckWxPages,
        CatPageTables,
        ReadKcore,
        TextPoke,
        PerfPageSize,
        SpuriousKernelFault,
        KernelPagePresent,
        TryRemoveMemory,
        PageunmapRange,
        PagemapRangeFails,
        HugetlbVmemmapOptimizeFolio,
        KfenceProtectPage,
        KexecLoad,
        CallFunction,
    )
}


@dataclass(frozen=True)
class Made:
    """Calls that nobody's program makes by itself: an interrupt's handler, or a shrinker. `areas` are those of boot."""

    calls: tuple[Call, ...]
    areas: Areas = ()

    def run(self, k: Kernel) -> Steps[None]:
        """Make them, one after the other."""
        areas = self.areas
        index = 0
        while index < len(self.calls):
            areas = yield from self.calls[index].run(k, areas)
            index += 1

    def scan_objects(self, k: Kernel, gfp: Gfp) -> Steps[None]:
        """Make them: a shrinker of a driver's, which does not look at the flags of the allocation."""
        yield from self.run(k)


def run_calls(k: Kernel, calls: Sequence[Call], areas: Areas) -> Steps[Areas]:
    """Make calls one after the other, then let go of the kernel's threads: the program of a CPU."""
    index = 0
    while index < len(calls):
        areas = yield from calls[index].run(k, areas)
        index += 1
    mine = tuple(interrupt for interrupt in k.interrupts if interrupt.cpu == k.cpu)
    if mine:
        yield from idle(mine)
    if k.threads:
        yield from queue_no_more(k)
    return areas


def parse_call(text: str) -> Call:
    """Return the call that a text stands for. Raises ScenarioError saying what is wrong with it.

    The text is parsed as a Python expression and never evaluated: names and literals are all that is looked at.
    """
    if len(text) > MAX_TEXT:
        raise ScenarioError(f"call of {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        with warnings.catch_warnings():
            # a wrong escape in a string is the scenario's fault, not a message from Python
            warnings.simplefilter("error")
            node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ScenarioError(f"{text!r} is not a call") from error
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ScenarioError(f"{text!r} is not a call with named arguments")
    cls = CALLS.get(node.func.id)
    if cls is None:
        raise ScenarioError(f"no call {node.func.id!r}; there are {', '.join(CALLS)}")
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        known = [field.name for field in fields(cls)]
        if keyword.arg not in known:
            raise ScenarioError(f"{cls.name} has no argument {keyword.arg!r}; it has {', '.join(known) or 'none'}")
        if keyword.arg in arguments:
            raise ScenarioError(f"{cls.name}: argument {keyword.arg} is given twice")
        if cls is CallFunction and keyword.arg == "arguments":
            arguments[keyword.arg] = parse_arguments(keyword.value)
            continue
        value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if type(value) is not hints[keyword.arg]:
            raise ScenarioError(f"{cls.name}: {keyword.arg} must be {hints[keyword.arg].__name__}")
        arguments[keyword.arg] = value
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in arguments]
    if missing:
        raise ScenarioError(f"{cls.name} needs {', '.join(missing)}")
    _check_values(cls.name, arguments)
    return cls(**arguments)


def _check_values(name: str, arguments: dict[str, Any]) -> None:
    for key, low in (("page", 0), ("nr_pages", 1), ("phys_page", 0)):
        if key in arguments and not low <= arguments[key] <= MAX_PAGES:
            raise ScenarioError(f"{name}: {key} must be from {low} to {MAX_PAGES}, not {arguments[key]}")
    for key, allowed in (("prot", PROTS), ("max_page_shift", SHIFTS), ("mm", MMS)):
        if key in arguments and arguments[key] not in allowed:
            raise ScenarioError(f"{name}: {key} must be one of {', '.join(allowed)}, not {arguments[key]!r}")
    if "function" in arguments and not (arguments["function"].isascii() and arguments["function"].isidentifier()):
        raise ScenarioError(f"{name}: function must be the name of one, not {arguments['function']!r}")
    if "area" in arguments and not arguments["area"].isidentifier():
        raise ScenarioError(f"{name}: area must be a name, not {arguments['area']!r}")
