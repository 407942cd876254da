"""What a mitigation may surround: the base class of every scheme against the race.

A mitigation never edits kernel code. It answers whether huge mappings are allowed, and its hooks run where their names
say, on the CPU that is there, as part of that CPU's program: they are generators that yield operations, or call kernel
functions with `yield from`. One instance serves all CPUs, so a hook keeps nothing in `self` that changes during a run;
what belongs to one teardown or one walk goes from its first hook to the later ones as `token`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fuzzvm.kernel.functions import BASE, Functions
from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.ops import Address, Free, Steps
from fuzzvm.machine.program import Constant

if TYPE_CHECKING:
    from fuzzvm.kernel.kernel import Boot, Kernel
    from fuzzvm.kernel.mmap_lock import Mm
    from fuzzvm.kernel.pgtable import Level

Verdict = Literal["safe", "bug"]
WalkAssertion = Literal["write", "read", "none"]
WALK_ASSERTIONS: tuple[WalkAssertion, ...] = ("write", "read", "none")
"""What a walk may assert of the mmap_lock of the mm that it walks, the strongest first."""


def answer(scheme: Mitigation, hook: str, result: object) -> bool:
    """Return the result of a hook that answers yes or no.

    Raises ProgramError, with the hook's file and line, for a result that is neither True nor False. A hook that forgets
    its `return` gives None, which Python takes for False: the scheme would give up in silence what it is asked about.
    """
    if isinstance(result, bool):
        return result
    code = getattr(inspect.unwrap(getattr(type(scheme), hook)), "__code__", None)
    place = (type(scheme).__module__, 0) if code is None else (code.co_filename, code.co_firstlineno)
    message = f"{hook} of {type(scheme).__qualname__} returned {result!r}; it must return True or False"
    raise ProgramError(message, *place)


class Mitigation(Constant):
    """A scheme against freeing a page table under a walker. Every hook has a default that does nothing.

    `name` is what `--mitigation` takes, `summary` one line for `fuzzvm mitigations`. `one_walker` and `two_walkers`
    are the verdicts that the scheme claims for one walker and for two or more at a time; `other_mm` for a walk of
    another mm that shares the kernel's tables, `collapse` for CPA's collapse of pages into a block (set_memory_rox on
    x86_64), `attributes` for a change of protection beside such a collapse. None claims nothing.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    one_walker: ClassVar[Verdict | None] = None
    two_walkers: ClassVar[Verdict | None] = None
    other_mm: ClassVar[Verdict | None] = None
    collapse: ClassVar[Verdict | None] = None
    attributes: ClassVar[Verdict | None] = None

    lookups: ClassVar[Mapping[str, Verdict]] = {}
    """The verdicts claimed for look-ups of single addresses beside CPA's collapse, by the name of the call.

    `perf_page_size` is by itself where a TLB flush interrupts, and `perf_page_size invlpgb` where it is broadcast;
    so is `spurious_kernel_fault`.
    """

    removals: ClassVar[Mapping[str, Verdict]] = {}
    """The verdicts claimed where memory is taken out, by the name of the call, whatever runs beside it.

    `kexec_load`, which reads tables that are not its own, has a claim of its own.
    """

    functions: ClassVar[Functions] = BASE
    """The functions of the kernel around the hooks, where releases differ in these."""

    gives_up: ClassVar[frozenset[str]] = frozenset()
    """Cover points (kernel/cover_points.py) that no schedule meets under the scheme, by its own account.

    Where another one is met in no schedule, though the scenario is for it, the verdict is `vacuous`.
    """
    walk_assertion: ClassVar[WalkAssertion] = "write"
    """How the walk asserts that mmap_lock is held: for writing, for reading or writing ("read"), or not at all.

    It is part of the scheme: a patch that lets walks share the lock, or take none, changes the assertion as well.
    """
    isolates_first: ClassVar[bool] = False
    """Order of arm64's pud_free_pmd_page, which frees a PMD table and the PTE tables below it.

    False is Linux 6.12: pmd_free_pte_page frees each PTE table, with the hooks around it at Level.PMD; then the PUD is
    cleared and flushed and the PMD table freed, with the hooks at Level.PUD. True is "arm64: Enable vmalloc-huge with
    ptdump" (6.18): the PUD is cleared and flushed first, between before_clear and before_free at Level.PUD, so that no
    new walk comes to the tables below; then each PTE table is freed with no hook around it, and the PMD table last. A
    scheme that waits for walkers in before_free then waits once for all of them. Without effect on x86_64.
    """

    @classmethod
    def on(cls, arch: str) -> type[Mitigation]:
        """Return the scheme as it is on an architecture: itself, but for a release."""
        return cls

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

    def after_clear(self, k: Kernel, level: Level, token: Any) -> Steps[None]:
        """Run between the clear of the entry and the TLB flush that follows."""
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

    def before_split_alloc(self, k: Kernel) -> Steps[None]:
        """Run in split_large_page (x86_64), once cpa_lock is dropped, before the page of the new table is allocated."""
        yield from ()

    def after_split_alloc(self, k: Kernel) -> Steps[None]:
        """Run after that page is allocated, before cpa_lock is taken again."""
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

    def before_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[Any]:
        """Run before the first entry is read, and again each time that the walk is repeated; returns a token."""
        yield from ()

    def before_descend(self, k: Kernel, level: Level, pxdp: Address, pxd: int) -> Steps[bool]:
        """Run in a walk that has read an entry of that level, before it reads the table that the entry leads to.

        `pxdp` is where the entry is. False has it read again, as it is then.
        """
        yield from ()
        return True

    def after_descend(self, k: Kernel, level: Level, pxd: int) -> Steps[None]:
        """Run after the last entry of that table is read, where before_descend returned True."""
        yield from ()

    def after_attempt(self, k: Kernel, mm: Mm, token: Any) -> Steps[bool]:
        """Run after the last entry is read, with before_attempt's token; True drops all that was read, to read anew."""
        yield from ()
        return False

    def walk_unlocking(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        """Run after the last entry is read, before mmap_lock is released."""
        yield from ()

    def after_walk(self, k: Kernel, mm: Mm, token: Any) -> Steps[None]:
        """Run after mmap_lock is released."""
        yield from ()
