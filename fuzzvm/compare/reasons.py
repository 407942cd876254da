"""Why a difference between compiled code and the model does no harm. A difference that none of these explains is drift.

Each reason names what it is of: the kind of difference, the modelled function, the operation, and where more than that
is wanted the function of the kernel that has been inlined there. `tests/compare/test_reasons.py` holds each to
a difference of Linux 7.3 that it explains.
"""

from __future__ import annotations

from dataclasses import dataclass

from fuzzvm.compare.align import Difference

WALK = ("walk_p4d_range", "walk_pud_range", "ptdump_pud_entry", "walk_pmd_range")
TRY_HUGE = ("vmap_try_huge_pmd", "vmap_try_huge_pud")


@dataclass(frozen=True)
class Reason:
    """A reason. `operations` are (kind, level or lock, detail); `via` is a function of the kernel's inside, '' for any.

    `source` is the kernel's file and function, in Linux 7.3, that has what the model does not.
    """

    name: str
    what: str
    functions: tuple[str, ...]
    operations: tuple[tuple[str, str, str], ...]
    via: tuple[str, ...]
    source: str
    why: str

    def explains(self, difference: Difference) -> bool:
        """Return whether it is the reason of a difference."""
        return (
            difference.what == self.what
            and difference.function in self.functions
            and difference.operation[:3] in self.operations
            and (not self.via or any(name in difference.inner for name in self.via))
        )


REASONS = (
    Reason(
        "trylock-reads-the-count",
        "further",
        TRY_HUGE,
        (("read", "init_mm.mmap_lock", ""),),
        ("down_read_trylock",),
        "kernel/locking/rwsem.c: __down_read_trylock()",
        "The count is read for the compare-and-swap that follows, which fails where it has changed. The model's "
        "trylock is that swap alone.",
    ),
    Reason(
        "assertion-reads-the-lock",
        "further",
        ("walk_page_range_debug", "ptdump_walk_pgd"),
        (("read", "init_mm.mmap_lock", ""),),
        ("rwsem_assert_held_write_nolockdep",),
        "include/linux/rwsem.h: rwsem_assert_held_write_nolockdep()",
        "An assertion of the lock's holder reads the lock that it holds, and nobody else gives "
        "it away. The model asserts by AssertWriteLocked, which is no operation.",
    ),
    Reason(
        "sequence-count-of-the-lock",
        "further",
        ("ptdump_walk_pgd",),
        (("fence", "", "dmb ishst"),),
        ("do_raw_write_seqcount_begin", "do_raw_write_seqcount_end"),
        "include/linux/mmap_lock.h: mm_lock_seqcount_begin() and _end()",
        "The barrier belongs to mm_lock_seq, which only faults of user memory read. A barrier more forbids "
        "outcomes and allows none: the model explores them as well.",
    ),
    Reason(
        "root-entry-reread",
        "read again",
        (*WALK, "vmap_pud_range", "vmap_try_huge_pud", "vmap_pmd_range", "vunmap_pud_range"),
        (("read", "pgd", ""),),
        (),
        "mm/pagewalk.c, mm/ptdump.c, mm/vmalloc.c: *pgd, *p4d, and *pud where they are folded into the root",
        "What the model and images' scenarios do changes an entry of the root from none to a table, once, and never "
        "back: whoever has seen the table sees it again. A kernel with 3 levels that maps 1G blocks by the root is a "
        "case that the model does not have (docs/limits.md), and is not compared.",
    ),
    Reason(
        "own-range-reread",
        "read again",
        (
            *TRY_HUGE,
            *("vmap_pmd_range", "vmap_pte_range", "vunmap_pud_range", "vunmap_pmd_range"),
            *("pmd_free_pte_page", "pud_free_pmd_page"),
        ),
        (("read", "pud", ""), ("read", "pmd", "")),
        (),
        "mm/vmalloc.c: vmap_try_huge_pmd(), 'each exclusively owns the range it operates on'; "
        "arch/arm64/mm/mmu.c: pmd_set_huge(), pte_offset_kernel() in pmd_free_pte_page()",
        "Who maps, unmaps or promotes a range owns it. Nobody else changes an entry that maps that range alone. One "
        "that maps more than the range leads to a table that stays, for nobody promotes what he does not own.",
    ),
    Reason(
        "root-through-fixmap",
        "further",
        ("vmap_pmd_range", "vmap_pud_range"),
        (("tlbi", "", "vmalle1is"), ("fence", "", "dsb ish")),
        ("set_swapper_pgd",),
        "arch/arm64/mm/mmu.c: set_swapper_pgd(), pgd_clear_fixmap()",
        "The root is written through a fixmap, whose removal flushes. The model writes it in place, with the barriers "
        "of set_pud(); a flush more forbids outcomes and allows none.",
    ),
    Reason(
        "failed-trylock-has-no-order",
        "another ordering",
        TRY_HUGE,
        (("lock", "init_mm.mmap_lock", "down_read_trylock, not got"),),
        ("down_read_trylock",),
        "kernel/locking/rwsem.c: __down_read_trylock()",
        "A trylock that does not get the lock has read its count, with no order; the model's has acquire. After it the "
        "caller goes on in tables of its own range, which the holder, a walk, does not write.",
    ),
    Reason(
        "load-exclusive",
        "further",
        ("vmap_try_huge_pmd", "ptdump_walk_pgd", "vunmap_pte_range"),
        (("read", "init_mm.mmap_lock", ""), ("read", "pte", "")),
        (
            "__ll_sc__cmpxchg_case_acq_64",
            "__ll_sc_atomic64_add_return_release",
            "__ll_sc_atomic64_fetch_add_release",
            "__xchg_case_64",
        ),
        "arch/arm64/include/asm/atomic_ll_sc.h, cmpxchg.h: __xchg_case_64()",
        "Without LSE an atomic is a load exclusive and a store that fails where somebody has written in between. The "
        "model has both as one operation.",
    ),
    Reason(
        "flag-of-the-task-without-lse",
        "further",
        ("vmap_pte_range", "vunmap_pte_range"),
        (("fence", "", "dmb ish"),),
        ("__ll_sc_atomic64_fetch_andnot",),
        "arch/arm64/include/asm/pgtable.h: arch_flush_lazy_mmu_mode(); atomic_ll_sc.h",
        "Without LSE the test-and-clear of TIF_LAZY_MMU_PENDING, which is the CPU's own, ends in DMB ISH. A barrier "
        "more forbids outcomes and allows none.",
    ),
)


def reason_for(difference: Difference) -> Reason | None:
    """Return the reason of a difference, None where it is drift."""
    return next((reason for reason in REASONS if reason.explains(difference)), None)
