"""The functions of the kernel that the model stands for, by name: see `BOUNDARY`.

Everything else that the image defines is run. A function that the image does not define and that is not here is refused
where it is called. `docs/compiled.md` has the list, and says how to state one of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzzvm.compiled.errors import KERNEL_WARNING, ImageError
from fuzzvm.compiled.run.arm64 import FIXMAP
from fuzzvm.compiled.run.environment import Boundary, Caller
from fuzzvm.compiled.run.primitives import (
    WORD,
    alloc_page,
    free_page,
    lock,
    page_address,
    store,
    symbol,
    unlock,
    writable,
)
from fuzzvm.kernel.patching import patch_text
from fuzzvm.machine.errors import ModelError
from fuzzvm.machine.ops import (
    Address,
    Barrier,
    Fence,
    Free,
    InterruptAll,
    Load,
    Order,
    Rmw,
    Steps,
    Tlbi,
    address_of,
    object_of,
)

# Locks: the byte `locked` of a spinlock, which is 1 while it is taken. Where the fast paths are inlined, they are the
# kernel's own (include/asm-generic/qspinlock.h).


def spin_lock(c: Caller) -> Steps[int]:
    """Take a spinlock (kernel/locking/spinlock.c); the flags that are returned say that interrupts were on."""
    yield from lock(c, c[0])
    return 0


def spin_unlock(c: Caller) -> Steps[None]:
    """Release a spinlock."""
    yield from unlock(c, c[0])


def mutex_lock(c: Caller) -> Steps[None]:
    """Take a mutex (kernel/locking/mutex.c): its first word, the owner, is 0 while it is free."""
    yield from lock(c, c[0], WORD)


def mutex_unlock(c: Caller) -> Steps[None]:
    """Release a mutex."""
    yield from unlock(c, c[0], WORD)


# rwsem (kernel/locking/rwsem.c): the fast paths are the image's, what follows where they fail is here


WRITER = 1 << 0
WAITERS = 1 << 1
WRITER_WAITS = 1 << 3
"""A bit of the count for which the kernel has no use: one of those who wait is a writer."""
READER = 1 << 8
_READERS = ((1 << 55) - 1) << 8


@dataclass(frozen=True, slots=True)
class _Counted:
    """Adds to the count of a semaphore, then sets and clears bits."""

    add: int
    set: int = 0
    clear: int = 0

    def __call__(self, old: int) -> int:
        return (old + self.add | self.set) & ~self.clear & (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class _Without:
    """No bit of a mask is set in the count of a semaphore, which does not say who holds it."""

    mask: int

    def __call__(self, count: int) -> bool:
        return not count & self.mask

    def blocked_by(self, count: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class _MayRead:
    """No writer has the semaphore, and nobody reads it while a writer waits.

    A reader that comes queues behind a writer that waits for readers. It may be ahead of one where the semaphore is
    free: who asks for it then steals it (rwsem_down_read_slowpath).
    """

    def __call__(self, count: int) -> bool:
        return not count & WRITER and not (count & _READERS and count & WRITER_WAITS)

    def blocked_by(self, count: int) -> tuple[int, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class _Plus:
    amount: int

    def __call__(self, old: int) -> int:
        return old + self.amount


def _semaphore(c: Caller, sem: int) -> tuple[Address, Address, int]:
    """Return where a semaphore's count is, who waits for it, and the address of the lock of these."""
    members = {one.name: one.offset for one in c.environment.executable.image.types.named("rw_semaphore").members}
    queue = next(name for name in _QUEUES if name in members)
    wait_lock = sem + members["wait_lock"]
    return writable(c, sem + members["count"], WORD).address, writable(c, sem + members[queue], WORD).address, wait_lock


def _wait(c: Caller, adjust: int, take: _Counted, until: _Without | _MayRead, writers: int) -> Steps[int]:
    """Queue, wait until the semaphore can be taken, and take it; `writers` is 1 for one, 0 for a reader.

    The numbers of those who wait, and of writers among them, are kept where the list of them begins, which nobody else
    looks at.
    """
    sem = c[0]
    count, queue, wait_lock = _semaphore(c, sem)
    waiter = 1 + writers * _A_WRITER
    yield from lock(c, wait_lock)
    yield Rmw(queue, _Plus(waiter))
    yield Rmw(count, _Counted(adjust, set=WAITERS | writers * WRITER_WAITS))
    yield from unlock(c, wait_lock)
    yield Rmw(count, take, Order.ACQUIRE, until)
    yield from lock(c, wait_lock)
    waiting = yield Rmw(queue, _Plus(-waiter))
    left = waiting - waiter
    done = (0 if left else WAITERS) | (WRITER_WAITS if writers and left < _A_WRITER else 0)
    if done:
        yield Rmw(count, _Counted(0, clear=done))
    yield from unlock(c, wait_lock)
    return sem


_A_WRITER = 1 << 16
"""What a writer adds to the number of those who wait, beside 1."""
_QUEUES = ("wait_list", "first_waiter")
"""Where a semaphore says who waits: the first until Linux 7.1."""


def rwsem_down_write_slowpath(c: Caller) -> Steps[int]:
    """Wait for a semaphore, to write."""
    return (yield from _wait(c, 0, _Counted(WRITER), _Without(WRITER | _READERS), writers=1))


def rwsem_down_read_slowpath(c: Caller) -> Steps[int]:
    """Wait for a semaphore, to read; the fast path has counted this reader already."""
    return (yield from _wait(c, -READER, _Counted(READER), _MayRead(), writers=0))


# Memory


def memset(c: Caller) -> Steps[int]:
    """Fill memory that CPUs share, a word at a time."""
    if (c[0] | c[2]) % WORD:
        raise ImageError(f"memset() of {c[2]} bytes at {c[0]:#x}, which are no words")
    va = c[0]
    content = int.from_bytes(bytes([c[1] & 0xFF]) * WORD, "little")
    while va < c[0] + c[2]:
        yield from store(c, va, content)
        va += WORD
    return c[0]


# Pages


def _alloc_pages(gfp: int, order: int) -> Boundary:
    """Return alloc_pages() whose flags and order are arguments of these numbers; it never fails."""

    def alloc_pages(c: Caller) -> Steps[int]:
        if c[order]:
            raise ImageError(f"an allocation of {1 << c[order]} pages is not supported")
        return (yield from alloc_page(c))

    return alloc_pages


def free_pages(c: Caller) -> Steps[None]:
    """Free a page, given by its struct page (__free_pages)."""
    if c[1]:
        raise ImageError(f"a free of {1 << c[1]} pages is not supported")
    yield from free_page(c, c[0])


def set_swapper_pgd(c: Caller) -> Steps[None]:
    """Set an entry of the root table, which the kernel does through a fixmap (arch/arm64/mm/mmu.c)."""
    pgdir_lock = symbol(c, "swapper_pgdir_lock")
    yield from lock(c, pgdir_lock)
    yield from store(c, c[0], c[1])
    # pgd_clear_fixmap(); where TLBs are followed, it must not take more than the fixmap's page
    yield Fence(Barrier.DSB_ISHST)
    yield Tlbi("vmalle1is", 0) if c.environment.followed is None else Tlbi("vaale1is", FIXMAP)
    yield Fence(Barrier.DSB_ISH)
    yield Fence(Barrier.ISB)
    yield from unlock(c, pgdir_lock)


# Static keys (kernel/jump_label.c, arch/arm64/kernel/jump_label.c): who counts is the image's code


def jump_label_update(c: Caller) -> Steps[None]:
    """Patch every site of a key, in the order of their addresses, and make all CPUs see it."""
    image, memory, key = c.environment.executable.image, c.environment.memory, c[0]
    if image.manifest.arch != "arm64":
        raise ImageError(f"static keys of {image.manifest.arch} are not patched")
    sites = tuple(sorted((site for site in image.jump_sites if site.key == key), key=lambda site: site.code))
    enabled = writable(c, key + image.types.offset("static_key", "enabled"), 4)
    index = 0
    while index < len(sites):
        count = yield Load(enabled.address)
        # jump_label_type(): while the first user patches, the count is -1
        branches = (count != memory.initial(enabled)) != sites[index].branch
        patched = branches != c.environment.executable.branches_at_boot(sites[index].code)
        yield from patch_text(memory.site(sites[index].code), int(patched))
        index += 1
    # kick_all_cpus_sync()
    yield InterruptAll("patch-ipi")


def flush_tlb_kernel_range(c: Caller) -> Steps[None]:
    """Flush TLBs by an IPI to all CPUs that each answers (arch/x86/mm/tlb.c); what TLBs hold is not followed."""
    yield InterruptAll()


def warn_trap(c: Caller) -> Steps[None]:
    """Warn by an entry of the table of bugs (arch/x86/kernel/traps.c, Linux 7.0 and newer)."""
    image = c.environment.executable.image
    offset = int.from_bytes(image.read(c[0], 4), "little", signed=True)
    bug = image.bugs.get(c[0] + offset)
    where = image.describe(c.return_address) if bug is None else f"{bug.file}:{bug.line}"
    raise ModelError(KERNEL_WARNING, f"WARN() at {where}")
    yield


# Elsewhere in the kernel


def slab_is_available(c: Caller) -> Steps[int]:
    """Say that boot is over (mm/slab_common.c)."""
    yield from ()
    return 1


def get_free_pages(c: Caller) -> Steps[int]:
    """Allocate a page, and return where it is mapped (get_free_pages_noprof); it never fails."""
    if c[1]:
        raise ImageError(f"an allocation of {1 << c[1]} pages is not supported")
    page = yield from alloc_page(c)
    return page_address(c, page)


def free_pages_at(c: Caller) -> Steps[None]:
    """Free a page, given by where it is mapped (free_pages)."""
    if c[1]:
        raise ImageError(f"a free of {1 << c[1]} pages is not supported")
    yield Free(address_of(object_of(writable(c, c[0], WORD).address)))


def copy_page_to_iter_nofault(c: Caller) -> Steps[int]:
    """Copy all bytes of a page that a reader of /proc/kcore has asked for (lib/iov_iter.c); nobody looks at them."""
    yield from ()
    return c[2]


# Changes of protection (arch/x86/mm/pat/set_memory.c)


def not_mapped(c: Caller) -> Steps[int]:
    """Say that the linear map has nothing of a page (pfn_range_is_mapped, __virt_addr_valid): it has no tables here."""
    yield from ()
    return 0


def pgprot2cachemode(c: Caller) -> Steps[int]:
    """Return the cache mode of attributes (arch/x86/mm/init.c): write-back, 0, where none of their bits is set."""
    if c[0] & _CACHE_MODE:
        raise ImageError(f"cache modes of pages are not supported (attributes {c[0]:#x})")
    yield from ()
    return 0


_CACHE_MODE = 0x98
"""PWT, PCD and PAT of a page of 4K (Intel SDM vol. 3A 4.9)."""


def on_each_cpu(c: Caller) -> Steps[None]:
    """Interrupt all CPUs so that they flush TLBs, and wait for them (kernel/smp.c); other work is refused."""
    name = c.environment.executable.image.name_at(c[1])
    if name not in ("__cpa_flush_tlb", "__cpa_flush_all"):
        raise ImageError(f"on_each_cpu() of {name or hex(c[1])} is not supported")
    yield InterruptAll()


BOUNDARY: dict[str, Callable[[Caller], Steps[Any]]] = {
    **dict.fromkeys(("_raw_spin_lock", "_raw_spin_lock_irq", "_raw_spin_lock_irqsave"), spin_lock),
    **dict.fromkeys(("_raw_spin_unlock", "_raw_spin_unlock_irq", "_raw_spin_unlock_irqrestore"), spin_unlock),
    "queued_spin_lock_slowpath": spin_lock,
    "rwsem_down_write_slowpath": rwsem_down_write_slowpath,
    "rwsem_down_read_slowpath": rwsem_down_read_slowpath,
    **dict.fromkeys(("alloc_pages_noprof", "__alloc_pages_noprof"), _alloc_pages(0, 1)),
    "alloc_pages_node_noprof": _alloc_pages(1, 2),
    "get_free_pages_noprof": get_free_pages,
    "__free_pages": free_pages,
    "free_pages": free_pages_at,
    "set_swapper_pgd": set_swapper_pgd,
    "mutex_lock": mutex_lock,
    "mutex_unlock": mutex_unlock,
    "jump_label_update": jump_label_update,
    **dict.fromkeys(("flush_tlb_kernel_range", "flush_tlb_all"), flush_tlb_kernel_range),
    **dict.fromkeys(("pfn_range_is_mapped", "__virt_addr_valid"), not_mapped),
    "pgprot2cachemode": pgprot2cachemode,
    "on_each_cpu_cond_mask": on_each_cpu,
    "__SCT__WARN_trap": warn_trap,
    "memset": memset,
    "slab_is_available": slab_is_available,
    "copy_page_to_iter_nofault": copy_page_to_iter_nofault,
}
"""By the name that the source has."""

FLUSHES = {"x86_64": frozenset({"flush_tlb_kernel_range", "flush_tlb_all"})}
"""Functions of `BOUNDARY` that one architecture alone has stood for: what others flush by is instructions."""

IGNORED = frozenset(
    (
        # who waits looks at the count
        "rwsem_wake",
        # text, and what it is made of
        "_printk",
        "__warn_printk",
        "seq_printf",
        "dump_page",
        # statistics, scheduling, caches
        "mod_node_page_state",
        "sched_clock",
        "preempt_schedule",
        "preempt_schedule_notrace",
        "__cond_resched",
        "__sync_icache_dcache",
        # the top entries of other address spaces, which nobody looks at here
        "arch_sync_kernel_mappings",
        # CPU and memory hotplug: nobody takes their locks to write
        "cpus_read_lock",
        "cpus_read_unlock",
        "get_online_mems",
        "put_online_mems",
        "ptdump_debugfs_register",
        # what a dump gathers for its text, and a check for its warnings
        "note_page",
        *(f"note_page_{level}" for level in ("pte", "pmd", "pud", "p4d", "pgd", "flush")),
        *(f"effective_prot_{level}" for level in ("pte", "pmd", "pud", "p4d", "pgd")),
    )
)
"""Functions of which nothing comes that matters here, by the name that the source has; they return 0."""
