"""Ids of what can go wrong in the kernel's part of a run; those of the machine are in machine/errors.py."""

from __future__ import annotations

from fuzzvm.machine import errors as machine_errors

FREE_OF_LINKED_TABLE = "free-of-linked-table"
UNLOCK_WITHOUT_LOCK = "unlock-without-lock"
LOCK_NOT_RELEASED = "lock-not-released"
WALK_WITHOUT_LOCK = "walk-without-lock"
UNBALANCED_STATIC_KEY = "unbalanced-static-key"
LEAKED_TABLE = "leaked-table"
WX_MISSED = "wx-missed"
INVENTED_MAPPING = "invented-mapping"
MAP_OVER_MAPPING = "map-over-mapping"
PARTIAL_UNMAP = "partial-unmap"
HARDWARE_WALK_OF_FREED_TABLE = "hardware-walk-of-freed-table"
TLB_CONFLICT = "tlb-conflict"
STALE_TRANSLATION = "stale-translation"
BROKEN_INSTRUCTION = "broken-instruction"
BAD_TABLE_POINTER = "bad-table-pointer"
SLEEP_IN_ATOMIC = "sleep-in-atomic"
INVALID_WAIT_CONTEXT = "invalid-wait-context"
LOCK_ORDER = "lock-order"
IRQ_UNSAFE_LOCK = "irq-unsafe-lock"
OF_FACTS = frozenset({LOCK_ORDER, IRQ_UNSAFE_LOCK})
"""What a run shows only where its programs tell all facts about locks: where `LockOrder.watched` is None."""
MISSING_DESTRUCTOR = "missing-destructor"
IOMMU_WALK_OF_FREED_TABLE = "iommu-walk-of-freed-table"

DESCRIPTIONS: dict[str, str] = {
    machine_errors.USE_AFTER_FREE_READ: "a freed page table was read",
    machine_errors.USE_AFTER_FREE_WRITE: "a freed page table was written",
    machine_errors.REUSED_OBJECT: "a page table was used through a stale pointer after its page was handed out again",
    machine_errors.DOUBLE_FREE: "a page table was freed twice",
    machine_errors.DEADLOCK: "CPUs wait for each other in a cycle",
    machine_errors.NO_PROGRESS: "a CPU waits for what nobody will do, or the run does not end",
    FREE_OF_LINKED_TABLE: "a page table was freed while an entry still points to it",
    UNLOCK_WITHOUT_LOCK: "a lock was released by a CPU that does not hold it",
    LOCK_NOT_RELEASED: "a lock is still held after every CPU has returned",
    WALK_WITHOUT_LOCK: "page tables were walked without mmap_lock held as the walk asserts",
    UNBALANCED_STATIC_KEY: "a static key was disabled more often than enabled, or left enabled",
    LEAKED_TABLE: "a page table is allocated that no entry leads to",
    WX_MISSED: "a writable and executable mapping was there all along and the walk did not report it",
    INVENTED_MAPPING: "the walk reported a mapping that was there at no time during the walk",
    BAD_TABLE_POINTER: "an entry that is none or a block was read through as if it pointed to a table",
    BROKEN_INSTRUCTION: "a CPU executed half an instruction, or a breakpoint that nobody handles, at a patched site",
    MAP_OVER_MAPPING: "what is mapped was mapped again (BUG() in vmap_pte_range), or lost with its table",
    SLEEP_IN_ATOMIC: "what may sleep was called under a spinlock, in an RCU reader, an interrupt, or with them off",
    INVALID_WAIT_CONTEXT: "a spinlock, which sleeps with PREEMPT_RT, was taken under a raw one or in a raw hardirq",
    LOCK_ORDER: "locks were taken in orders that close a cycle, though nobody waits for ever in this run",
    IRQ_UNSAFE_LOCK: "a lock that an interrupt's handler waits for is held where that interrupt may come",
    IOMMU_WALK_OF_FREED_TABLE: "a page table was freed while a device may still walk it (IOMMU_SVA)",
    MISSING_DESTRUCTOR: "a page table was freed whose destructor had not run: it is counted for ever (NR_PAGETABLE)",
    PARTIAL_UNMAP: "part of a contiguous block was unmapped (WARN_ON() in vunmap_pte_range)",
    HARDWARE_WALK_OF_FREED_TABLE: "a page table was freed while a walk cache may still lead hardware to it",
    TLB_CONFLICT: "a TLB may hold two translations for one address that the architecture does not allow together",
    STALE_TRANSLATION: "an address was mapped again while a TLB may still hold its former mapping",
}
"""What each error means, by id: every error that a run can end with."""
