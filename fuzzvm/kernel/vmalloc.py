"""vmalloc, vmalloc_huge and vfree: areas of kernel address space and what they map (mm/vmalloc.c, Linux 6.12 and 6.18).

The physical address of what vmalloc maps is the virtual one less the area's start: pages are always there, contiguous
and aligned as the range is, as alloc_pages() with the mapping's order would give them.

The set of areas is one word; each change is one atomic step, for the critical section under vmap_area_lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fuzzvm.kernel.hooks import answer
from fuzzvm.kernel.locking.exclusive import mutex_lock, mutex_unlock
from fuzzvm.kernel.pgtable import Level
from fuzzvm.kernel.vmap import vmap_range, vunmap_range_noflush
from fuzzvm.machine.ops import Order, Rmw, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Kernel


class VmapArea(NamedTuple):
    """A range of addresses in use; `lazy` once it is unmapped but not yet flushed, and so not yet free.

    `busy` until vfree() has found it: from then on nobody else finds it, though its addresses are not free yet.
    """

    start: int
    end: int
    lazy: bool = False
    busy: bool = True


def _areas(value: object) -> tuple[VmapArea, ...]:
    return value if isinstance(value, tuple) else ()


def _first_fit(areas: tuple[VmapArea, ...], base: int, limit: int, size: int, align: int) -> int | None:
    """Return the lowest aligned address at which `size` bytes are free, or None."""
    addr = -(-base // align) * align
    for area in areas:
        if area.start - addr >= size:
            break
        addr = max(addr, -(-area.end // align) * align)
    return addr if addr + size <= limit else None


@dataclass(frozen=True, slots=True)
class _Insert:
    base: int
    limit: int
    size: int
    align: int

    def __call__(self, value: object) -> tuple[VmapArea, ...]:
        areas = _areas(value)
        addr = _first_fit(areas, self.base, self.limit, self.size, self.align)
        return areas if addr is None else tuple(sorted((*areas, VmapArea(addr, addr + self.size))))


@dataclass(frozen=True, slots=True)
class _Unlink:
    start: int

    def __call__(self, value: object) -> tuple[VmapArea, ...]:
        return tuple(area._replace(busy=False) if area.start == self.start else area for area in _areas(value))


@dataclass(frozen=True, slots=True)
class _MakeLazy:
    start: int

    def __call__(self, value: object) -> tuple[VmapArea, ...]:
        return tuple(area._replace(lazy=True) if area.start == self.start else area for area in _areas(value))


@dataclass(frozen=True, slots=True)
class _Remove:
    purged: tuple[VmapArea, ...]

    def __call__(self, value: object) -> tuple[VmapArea, ...]:
        return tuple(area for area in _areas(value) if area not in self.purged)


@dataclass(frozen=True, slots=True)
class _Look:
    def __call__(self, value: object) -> tuple[VmapArea, ...]:
        return _areas(value)


def alloc_vmap_area(k: Kernel, size: int, align: int) -> Steps[int | None]:
    """Reserve `size` bytes of address space; return the address, or None where there is no room even after a purge."""
    insert = _Insert(k.geometry.base, k.geometry.end, size, align)
    old = yield Rmw(k.vmap_area_root, insert, Order.ACQUIRE_RELEASE)
    addr = _first_fit(_areas(old), insert.base, insert.limit, size, align)
    if addr is not None:
        return addr
    # overflow: reclaim_and_purge_vmap_areas(), and one more try
    yield from vm_unmap_aliases(k)
    old = yield Rmw(k.vmap_area_root, insert, Order.ACQUIRE_RELEASE)
    return _first_fit(_areas(old), insert.base, insert.limit, size, align)


def vm_unmap_aliases(k: Kernel) -> Steps[None]:
    """Flush the lazily unmapped areas from the TLBs and make their addresses free again."""
    yield from mutex_lock(k.cpu, k.vmap_purge_lock)
    yield from purge_vmap_area_lazy(k)
    yield from mutex_unlock(k.cpu, k.vmap_purge_lock)


def purge_vmap_area_lazy(k: Kernel) -> Steps[None]:
    """Do the work of vm_unmap_aliases, under vmap_purge_lock (__purge_vmap_area_lazy).

    The lock keeps a second purge from freeing, unflushed, an area that was freed, used and unmapped again meanwhile.
    """
    old = yield Rmw(k.vmap_area_root, _Look(), Order.ACQUIRE_RELEASE)
    purged = tuple(area for area in _areas(old) if area.lazy)
    if purged:
        yield from k.arch.flush_tlb_kernel_range(k, purged[0].start, purged[-1].end, "purge-flush-tlbi")
        yield Rmw(k.vmap_area_root, _Remove(purged), Order.ACQUIRE_RELEASE)


def vmalloc_node_range(k: Kernel, size: int, prot: int, shift: int, real_align: int = 1) -> Steps[int | None]:
    """Allocate and map `size` bytes with entries of up to 1 << shift bytes; return the address, or None if no room.

    As __vmalloc_node_range(): size and alignment are rounded up to 1 << shift, and where that fails it is tried again
    with single pages. `real_align` is the alignment asked for, in bytes.
    """
    while True:
        rounded = -(-size // (1 << shift)) << shift
        addr = yield from alloc_vmap_area(k, rounded, max(real_align, 1 << shift))
        if addr is not None:
            mapped = yield from vmap_area(k, addr, rounded, prot, shift)
            if mapped:
                return int(addr)
        if shift == k.geometry.page_shift:
            return None
        shift = k.geometry.page_shift


def vmap_area(k: Kernel, addr: int, size: int, prot: int, shift: int) -> Steps[bool]:
    """Map an area; return whether that was possible. Where it was not, the area is freed (__vmalloc_area_node).

    In 7.3 a work item frees it (defer_vm_area_cleanup); here it is freed at once, as in 6.12.
    """
    # vmap_pages_range_noflush(): single pages in one walk, anything larger in a walk for each
    step = size if shift == k.geometry.page_shift else 1 << shift
    mapped = 0
    while mapped < size:
        start = addr + mapped
        err = yield from vmap_range(k, start, start + step, start - k.geometry.base, prot, shift)
        if err:
            yield from vfree(k, addr)
            return False
        mapped += step
    return True


def vmalloc(k: Kernel, size: int, prot: int) -> Steps[int | None]:
    """Allocate `size` bytes mapped by single pages; return the address, or None where there is no room."""
    return (yield from vmalloc_node_range(k, size, prot, k.geometry.page_shift))


def vmalloc_huge(k: Kernel, size: int, prot: int) -> Steps[int | None]:
    """Allocate `size` bytes with VM_ALLOW_HUGE_VMAP; return the address, or None where there is no room.

    PMD blocks where the size reaches that of one, else runs of PTEs where the architecture has them.
    """
    allowed = answer(k.mitigation, "huge_vmap_allowed", k.mitigation.huge_vmap_allowed())
    if k.arch.arch_vmap_pmd_supported(k) and allowed and size >= k.geometry.size(Level.PMD):
        shift = k.geometry.shifts[Level.PMD]
    else:
        shift = k.arch.arch_vmap_pte_supported_shift(k, size)
    return (yield from vmalloc_node_range(k, size, prot, shift))


def vfree(k: Kernel, addr: int) -> Steps[None]:
    """Unmap what vmalloc returned; the addresses are free again after the next purge. Nothing where addr is no area."""
    # find_unlink_vmap_area(): of two that free the same area, one finds it
    old = yield Rmw(k.vmap_area_root, _Unlink(addr), Order.ACQUIRE_RELEASE)
    area = next((area for area in _areas(old) if area.start == addr and area.busy), None)
    if area is None:
        return
    yield from vunmap_range_noflush(k, area.start, area.end)
    # free_vmap_area_noflush(): the flush is put off until a purge
    yield Rmw(k.vmap_area_root, _MakeLazy(addr), Order.ACQUIRE_RELEASE)
