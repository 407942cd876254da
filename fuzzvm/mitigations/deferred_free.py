"""CONFIG_ASYNC_KERNEL_PGTABLE_FREE: tables freed in batches by a work item (mm/pgtable-generic.c, since Linux 6.19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.iommu_sva import iommu_sva_invalidate_kva_range
from fuzzvm.kernel.locking.exclusive import ExclusiveLock, spin_lock, spin_unlock
from fuzzvm.kernel.workqueue import queue_work
from fuzzvm.machine.ops import Address, Free, Load, Store

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.pgtable import Level
    from fuzzvm.kernel.workqueue import WorkQueue
    from fuzzvm.machine.ops import Steps


@dataclass(frozen=True, slots=True)
class KernelPgtableWork:
    """The struct kernel_pgtable_work: a list of tables, its lock, and the work that frees them."""

    list: Address
    lock: ExclusiveLock

    def run(self, k: Kernel) -> Steps[None]:
        yield from kernel_pgtable_work_func(k, self)


def kernel_pgtable_work_func(k: Kernel, work: KernelPgtableWork) -> Steps[None]:
    """Take all tables off the list and free them."""
    yield from spin_lock(k.cpu, work.lock)
    # list_splice_tail_init()
    page_list = yield Load(work.list)
    yield Store(work.list, 0)
    yield from spin_unlock(k.cpu, work.lock)
    yield from iommu_sva_invalidate_kva_range(k)
    while page_list:
        yield Free(page_list[0])
        page_list = page_list[1:]


def pagetable_free_kernel(k: Kernel, work: KernelPgtableWork, queue: WorkQueue, table: Address) -> Steps[None]:
    """Put a table on the list and schedule the work."""
    yield from spin_lock(k.cpu, work.lock)
    # list_add(): at the head
    page_list = yield Load(work.list)
    yield Store(work.list, (table, *(page_list or ())))
    yield from spin_unlock(k.cpu, work.lock)
    # schedule_work()
    yield from queue_work(k, queue, work)


class DeferredFree(Mitigation):
    """Freed later, by a kworker, and nothing waits for a walk: the race is as it was, only wider.

    What the option is for is the IOMMU's copy of the kernel's page tables, not ptdump.
    """

    name = "deferred-free"
    summary = "batched free from a work item (CONFIG_ASYNC_KERNEL_PGTABLE_FREE), no exclusion"
    one_walker = "bug"
    two_walkers = "bug"
    other_mm = "bug"
    collapse = "bug"

    _queue: WorkQueue
    _work: KernelPgtableWork

    def attach(self, boot: Boot) -> None:
        self._queue = boot.system_wq()
        self._work = KernelPgtableWork(
            boot.list_head("kernel_pgtable_work.list"), boot.lock("kernel_pgtable_work.lock")
        )

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        yield from pagetable_free_kernel(k, self._work, self._queue, table)
