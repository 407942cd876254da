"""What a mitigation may surround: the base class of every scheme against the race.

A mitigation never edits kernel code. It answers whether huge mappings are allowed, and its hooks run where their names
say, on the CPU that is there, as part of that CPU's program: they are generators that yield operations, or call kernel
functions with `yield from`. One instance serves all CPUs, so a hook keeps nothing in `self` that changes during a run;
what belongs to one teardown or one walk goes from its first hook to the later ones as `token`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fuzzvm.machine.ops import Address, Free, Steps

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.kernel.pgtable import Level

Verdict = Literal["safe", "bug"]


class Mitigation:
    """A scheme against freeing a page table under a walker. Every hook has a default that does nothing.

    `name` is what `--mitigation` takes, `summary` one line for `fuzzvm mitigations`. `one_walker` and `two_walkers`
    are the verdicts that the scheme claims for one walker and for two or more at a time; `other_mm` for a walk of
    another mm that shares the kernel's tables, `collapse` for CPA's collapse of pages into a block (set_memory_rox on
    x86_64). None claims nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    one_walker: ClassVar[Verdict | None] = None
    two_walkers: ClassVar[Verdict | None] = None
    other_mm: ClassVar[Verdict | None] = None
    collapse: ClassVar[Verdict | None] = None

    isolates_first: ClassVar[bool] = False
    """arm64's pud_free_pmd_page clears the PUD before it frees the PTE tables, and frees those with no hook around."""

    def attach(self, boot: Boot) -> None:
        """Set up what the scheme needs in the kernel, a static key for one, before the first call."""

    def huge_vmap_allowed(self) -> bool:
        """Return whether vmap may use block mappings at all: arch_vmap_{p4d,pud,pmd}_supported says no otherwise."""
        return True

    def before_promotion(self, k: Kernel, level: Level) -> Steps[bool]:
        """Run in vmap_try_huge_*, once an entry of that level is found present; False falls back to small pages."""
        yield from ()
        return True

    def after_promotion(self, k: Kernel, level: Level) -> Steps[None]:
        """Run after the huge entry is set, or the promotion given up, where before_promotion returned True."""
        yield from ()

    def before_clear(self, k: Kernel, level: Level) -> Steps[Any]:
        """Run before the entry of that level is cleared, whose table will be freed; returns the teardown's token."""
        yield from ()

    def before_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        """Run between the TLB flush that follows the clear, and the free of the table."""
        yield from ()

    def free_table(self, k: Kernel, table: Address, level: Level) -> Steps[None]:
        """Free a table that an entry of that level pointed to; at once, unless the scheme defers it."""
        yield Free(table)

    def after_free(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        """Run after the table was freed."""
        yield from ()

    def before_change_attr(self, k: Kernel) -> Steps[Any]:
        """Run in change_page_attr_set_clr (x86_64), before the first page is changed; returns the change's token."""
        yield from ()

    def after_change_attr(self, k: Kernel, token: Any) -> Steps[None]:
        """Run after the last page is changed, before the TLB flush that follows."""
        yield from ()

    def before_collapse(self, k: Kernel) -> Steps[Any]:
        """Run in cpa_collapse_large_pages (x86_64), before the first entry is looked at; returns the collapse's token.

        As in the hooks below, no spinlock is held: it may sleep.
        """
        yield from ()

    def before_collapse_free(self, k: Kernel) -> Steps[Any]:
        """Run after blocks were set over tables and the TLBs flushed; the tables are freed next, by `free_table`.

        Returns the token of this free. Does not run where nothing was collapsed.
        """
        yield from ()

    def after_collapse_free(self, k: Kernel, token: Any) -> Steps[None]:
        """Run after the tables of a collapse were freed."""
        yield from ()

    def after_collapse(self, k: Kernel, token: Any) -> Steps[None]:
        """Run at the end of cpa_collapse_large_pages, whether it has collapsed and freed anything or not."""
        yield from ()

    def before_walk(self, k: Kernel, mm: Mm) -> Steps[Any]:
        """Run in ptdump_walk and ptdump_check_wx, before mmap_lock is taken; returns the walk's token."""
        yield from ()

    def walk_locked(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        """Run with mmap_lock held for writing, before the first entry is read."""
        yield from ()

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        """Run after the last entry is read, before mmap_lock is released."""
        yield from ()

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        """Run after mmap_lock is released."""
        yield from ()
