"""The calls that take memory out, or its shadow, or remap what describes it, or copy its tables; and KFENCE's."""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.kernel.hugetlb_vmemmap import hugetlb_vmemmap_optimize_folio
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.memory_hotplug import pagemap_range_fails, pageunmap_range, try_remove_memory
from fuzzvm.kernel.trans_pgd import trans_pgd_create_copy
from fuzzvm.machine.ops import Steps
from fuzzvm.scenario.call import Areas, Call, OfPage, OfPages


@dataclass(frozen=True)
class TryRemoveMemory(OfPages):
    """Take memory out that is offline, of which the pages are the linear map: try_remove_memory.

    What maps the pages goes away, and the tables that are empty then.
    """

    name = "try_remove_memory"
    removes = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from try_remove_memory(k, *self.addresses(k))
        return areas


@dataclass(frozen=True)
class PageunmapRange(OfPages):
    """Take away KASAN's shadow of a device's memory, of which the pages are the shadow: pageunmap_range."""

    name = "pageunmap_range"
    removes = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from pageunmap_range(k, *self.addresses(k))
        return areas


@dataclass(frozen=True)
class PagemapRangeFails(OfPages):
    """Take away KASAN's shadow of a device's memory that could not be added: pagemap_range, where it fails."""

    name = "pagemap_range_fails"
    removes = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from pagemap_range_fails(k, *self.addresses(k))
        return areas


@dataclass(frozen=True)
class HugetlbVmemmapOptimizeFolio(OfPages):
    """Remap the struct pages of a huge page, of which the pages are the vmemmap: hugetlb_vmemmap_optimize_folio."""

    name = "hugetlb_vmemmap_optimize_folio"

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from hugetlb_vmemmap_optimize_folio(k, *self.addresses(k))
        return areas


@dataclass(frozen=True)
class KfenceProtectPage(OfPage):
    """Make a page of KFENCE's pool invalid: kfence_protect_page of arm64, as an object is freed in any context."""

    name = "kfence_protect_page"
    archs = ("arm64",)
    changes_attr = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        addr, _ = self.addresses(k)
        yield from k.arch.kfence_protect_page(k, addr)
        return areas


@dataclass(frozen=True)
class KexecLoad(Call):
    """Load a kernel for kexec, which copies the tables of the linear map: machine_kexec_post_load of arm64."""

    name = "kexec_load"
    archs = ("arm64",)
    looks_up = True
    copies = True

    def run(self, k: Kernel, areas: Areas) -> Steps[Areas]:
        yield from trans_pgd_create_copy(k)
        return areas
