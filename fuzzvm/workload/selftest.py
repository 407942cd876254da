"""The tests of lib/test_vmalloc.c (Linux 6.12), those that touch page tables, as programs of a CPU.

What a test does with the memory itself (a byte is written) is no matter of page tables and left out. An area is freed
lazily, and purged once lazy_max_pages() are reached, which the kernel does in a work item and this on the worker's CPU.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from fuzzvm.kernel.kernel import Kernel
from fuzzvm.kernel.pgtable import PAGE_KERNEL, Level
from fuzzvm.kernel.ptdump import ptdump_check_wx, ptdump_walk
from fuzzvm.kernel.vmalloc import vfree, vm_unmap_aliases, vmalloc_huge, vmalloc_node_range
from fuzzvm.kernel.workqueue import queue_no_more
from fuzzvm.machine.ops import Address, Annotation, Load, Order, Rmw, Steps

BITS_PER_LONG = 64
THREAD_SHIFT = 14
"""Of a kernel stack with VMAP_STACK (MIN_THREAD_SHIFT on arm64, without KASAN); a page where that is larger."""


@dataclass(frozen=True, slots=True)
class AreaMapped(Annotation):
    """A test has an area: its addresses, and whether it was asked for with VM_ALLOW_HUGE_VMAP."""

    start: int
    end: int
    huge: bool


@dataclass
class Worker:
    """What one worker thread runs with, and what came of it. Belongs to its own CPU alone."""

    nr_pages: int
    use_huge: bool
    loops: int
    repeats: int
    list_length: int
    lazy_max_pages: int
    random: random.Random
    order: tuple[str, ...]
    """The tests that it runs, in their order."""
    lazy_pages: int = 0
    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


Test: TypeAlias = Callable[[Kernel, Worker], Steps[bool]]
"""A test; returns whether it passed."""


def page_size(k: Kernel) -> int:
    """Return PAGE_SIZE."""
    return k.geometry.size(Level.PTE)


def vmalloc(k: Kernel, pages: int, align: int = 1) -> Steps[int | None]:
    """__vmalloc_node(): allocate pages mapped one by one, at an alignment in bytes."""
    size = pages * page_size(k)
    addr = yield from vmalloc_node_range(k, size, PAGE_KERNEL, k.geometry.page_shift, align)
    if addr is not None:
        yield AreaMapped(addr, addr + size, huge=False)
    return addr


def huge(k: Kernel, pages: int) -> Steps[int | None]:
    """vmalloc_huge()."""
    size = pages * page_size(k)
    addr = yield from vmalloc_huge(k, size, PAGE_KERNEL)
    if addr is not None:
        yield AreaMapped(addr, addr + size, huge=True)
    return addr


def free(k: Kernel, worker: Worker, addr: int | None, pages: int) -> Steps[None]:
    """vfree(), and a purge where enough has been freed lazily (free_vmap_area_noflush, drain_vmap_area_work)."""
    if addr is None:
        return
    yield from vfree(k, addr)
    worker.lazy_pages += pages
    if worker.lazy_pages > worker.lazy_max_pages:
        worker.lazy_pages = 0
        yield from vm_unmap_aliases(k)


def fix_size_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    for _ in range(worker.loops):
        addr = yield from (huge(k, worker.nr_pages) if worker.use_huge else vmalloc(k, worker.nr_pages))
        if addr is None:
            return False
        yield from free(k, worker, addr, worker.nr_pages)
    return True


def full_fit_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    kept, junk = [], []
    for _ in range(worker.list_length):
        kept.append((yield from vmalloc(k, 1)))
        junk.append((yield from vmalloc(k, 1)))
    for addr in junk:
        yield from free(k, worker, addr, 1)
    passed = yield from _one_page_at_a_time(k, worker)
    for addr in kept:
        yield from free(k, worker, addr, 1)
    return passed


def _one_page_at_a_time(k: Kernel, worker: Worker) -> Steps[bool]:
    for _ in range(worker.loops):
        addr = yield from vmalloc(k, 1)
        if addr is None:
            return False
        yield from free(k, worker, addr, 1)
    return True


def long_busy_list_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    kept = []
    for _ in range(worker.list_length):
        kept.append((yield from vmalloc(k, 1)))
    passed = True
    for _ in range(worker.loops):
        large = yield from vmalloc(k, 100)
        small = yield from vmalloc(k, 1)
        yield from free(k, worker, large, 100)
        yield from free(k, worker, small, 1)
        if large is None or small is None:
            passed = False
            break
    for addr in kept:
        yield from free(k, worker, addr, 1)
    return passed


def random_size_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    for _ in range(worker.loops):
        pages = worker.random.randint(1, 100)
        addr = yield from vmalloc(k, pages)
        if addr is None:
            return False
        yield from free(k, worker, addr, pages)
    return True


def fix_align_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    # THREAD_ALIGN is twice THREAD_SIZE with VMAP_STACK, and the test doubles it
    align = 4 << max(THREAD_SHIFT, k.geometry.page_shift)
    for _ in range(worker.loops):
        addr = yield from vmalloc(k, 5, align)
        if addr is None:
            return False
        yield from free(k, worker, addr, 5)
    return True


def random_size_align_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    for _ in range(worker.loops):
        rnd = worker.random.randrange(256)
        pages = rnd % 10 + 1
        addr = yield from vmalloc(k, pages, 1 << (rnd % 23))
        if addr is None:
            return False
        yield from free(k, worker, addr, pages)
    return True


def align_shift_alloc_test(k: Kernel, worker: Worker) -> Steps[bool]:
    # "This test case is supposed to be failed."
    for shift in range(BITS_PER_LONG):
        addr = yield from vmalloc(k, 1, 1 << shift)
        if addr is None:
            return False
        yield from free(k, worker, addr, 1)
    return True


TESTS: dict[str, Test | None] = {
    "fix_size_alloc_test": fix_size_alloc_test,
    "full_fit_alloc_test": full_fit_alloc_test,
    "long_busy_list_alloc_test": long_busy_list_alloc_test,
    "random_size_alloc_test": random_size_alloc_test,
    "fix_align_alloc_test": fix_align_alloc_test,
    "random_size_align_alloc_test": random_size_align_alloc_test,
    "align_shift_alloc_test": align_shift_alloc_test,
    "pcpu_alloc_test": None,
    "kvfree_rcu_1_arg_vmalloc_test": None,
    "kvfree_rcu_2_arg_vmalloc_test": None,
    "vm_map_ram_test": None,
}
"""The tests in the order of their bits, None where one is not modelled."""


def of_mask(mask: int) -> tuple[list[str], list[str]]:
    """Return the tests that run_test_mask names: those that are modelled, and those that are not."""
    named = [name for bit, name in enumerate(TESTS) if mask >> bit & 1]
    return [name for name in named if TESTS[name]], [name for name in named if not TESTS[name]]


def shuffle_array(names: list[str], rng: random.Random) -> None:
    """Shuffle as the module does, in place."""
    for i in range(len(names) - 1, 0, -1):
        j = rng.randrange(i)
        names[i], names[j] = names[j], names[i]


@dataclass(frozen=True, slots=True)
class _Count:
    def __call__(self, old: int) -> int:
        return old + 1


def test_func(k: Kernel, worker: Worker, done: Address) -> Steps[None]:
    """Run a worker's tests, then count it among those that are done."""
    for name in worker.order:
        test = TESTS[name]
        assert test is not None
        for _ in range(worker.repeats):
            passed = yield from test(k, worker)
            results = worker.passed if passed else worker.failed
            results[name] = results.get(name, 0) + 1
    # test_report_one_done()
    yield Rmw(done, _Count(), Order.ACQUIRE_RELEASE)
    yield from queue_no_more(k)


test_func.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's, whatever its name says


def reader(k: Kernel, check_wx: bool, done: Address, workers: int) -> Steps[None]:
    """Read kernel_page_tables, or check_wx_pages, again and again until every worker is done: at least once."""
    while True:
        if check_wx:
            yield from ptdump_check_wx(k)
        else:
            yield from ptdump_walk(k, k.init_mm)
        finished = yield Load(done, Order.ACQUIRE)
        if finished == workers:
            break
    yield from queue_no_more(k)
