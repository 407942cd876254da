"""Small kernels that differ from the right one in one way each, and what is to be said of them.

A mutant is *caught* where it is broken, *equivalent* where it is not although it differs, *hardware's* where only
`fuzzvm verify --image --tlb` shows that it is broken, and *not seen* where it is broken in a way that is not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fuzzvm.compiled.errors import KERNEL_BUG, KERNEL_WARNING, WILD_ACCESS
from fuzzvm.kernel.errors import (
    FREE_OF_LINKED_TABLE,
    HARDWARE_WALK_OF_FREED_TABLE,
    LEAKED_TABLE,
    LOCK_NOT_RELEASED,
    TLB_CONFLICT,
    WALK_WITHOUT_LOCK,
)
from fuzzvm.machine.errors import DOUBLE_FREE, NO_PROGRESS, USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from tests.compiled import small

SAFE = "safe"
UAF = f"{USE_AFTER_FREE_READ} or {WILD_ACCESS}"
"""What an unlocked walk does depends on how often the compiler has it read an entry."""

PMD = shipped.get("pmd-promotion")
PUD = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 1, max_page_shift="pte"), Vunmap(0, 1)),
    ((Vmap(0, 4, max_page_shift="pud"),), (CatKernelPageTables(),)),
    name="pud-promotion",
)
"""One PTE table: at boot, a page for each entry of a PMD table of 512 is a million steps."""
WX = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 2, max_page_shift="pte"), Vunmap(0, 2)),
    ((Vmap(0, 2, max_page_shift="pmd"),), (CheckWxPages(),)),
    name="check-wx",
)
ALONE = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 2, max_page_shift="pte"), Vunmap(0, 2)),
    ((Vmap(0, 2, max_page_shift="pmd"),),),
    name="promotion-alone",
)

UNMAP = Scenario(
    "arm64",
    "4K",
    3,
    2,
    (Vmap(0, 2, max_page_shift="pte"), Vunmap(0, 2)),
    ((Vmap(0, 2, max_page_shift="pmd"), Vunmap(0, 2)), (CatKernelPageTables(),)),
    name="unmapped-block",
)

FIRST = Scenario("arm64", "4K", 3, 2, (), ((Vmap(0, 1, max_page_shift="pte"),),), name="first-mapping")

VMALLOC, MMU, RWSEM = "mm/vmalloc.c", "arch/arm64/mm/mmu.c", "kernel/locking/rwsem.c"
WALK, DUMP, SMALL_H = "mm/pagewalk.c", "mm/ptdump.c", "include/small.h"

Edit = tuple[str, str, str]
"""A file of the small kernel, a text that it has once, and what is to stand there."""


@dataclass(frozen=True)
class Mutant:
    """A broken small kernel. `verdicts` is 'safe' or the errors by memory model; `why` argues what is not caught.

    `points` are the ordering points of the model (fuzzvm/scenario/ordering_points.py) that leave out the same, and
    `model` is what comes of it in release linux-7.3: by memory model in that scenario, and by `tlb` in tlb-promotion,
    where the model follows TLBs and walk caches. `tlbs` are the verdicts with `--tlb`, where they are others.
    """

    name: str
    edits: tuple[Edit, ...]
    verdicts: dict[str, str]
    kind: Literal["caught", "equivalent", "hardware's", "not seen"] = "caught"
    why: str = ""
    scenario: Scenario = PMD
    atomics: str = "lse"
    points: tuple[str, ...] = ()
    model: dict[str, str] = field(default_factory=dict)
    tlbs: dict[str, str] = field(default_factory=dict)

    def files(self) -> dict[str, tuple[str, str]]:
        """Return the edits as `small.copy_tree` takes them: by file, its text and the mutated one."""
        found: dict[str, tuple[str, str]] = {}
        for name, old, new in self.edits:
            whole, text = found.get(name) or 2 * ((small.SOURCES / name).read_text(),)
            assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
            found[name] = whole, text.replace(old, new)
        return found


def _locked(body: str, level: str = "pmd", table: str = "pte", lock: str = "", unlock: str = "") -> Edit:
    """Return what stands for the promotion that the small kernel does with the trylock held."""
    free = f"{level}_free_{table}_page({level}, addr)"
    promote = f"\tif ({free})\n\t\tdone = {level}_set_huge({level}, phys, prot);\n"
    guard = "#ifndef NO_TRYLOCK\n"
    old = (
        f"{guard}\tif (!down_read_trylock(&init_mm.mmap_lock))\n\t\treturn 0;\n#endif\n{promote}"
        f"{guard}\tup_read(&init_mm.mmap_lock);\n#endif\n"
    )
    return VMALLOC, old, lock + (body or promote) + unlock


TRY = "\tif (!down_read_trylock(&init_mm.mmap_lock))\n\t\treturn 0;\n"
UP = "\tup_read(&init_mm.mmap_lock);\n"
OTHER = "{ .wait_list = { &other_lock.wait_list, &other_lock.wait_list } }"
HUGE = "struct static_key huge_vmap_disabled;\n\n"
DEFINE_OTHER = (VMALLOC, HUGE, f"{HUGE}struct rw_semaphore other_lock = {OTHER};\n\n")
DOWN_WRITE = "\tdown_write(&mm->mmap_lock);\n"
UP_WRITE = "\tup_write(&mm->mmap_lock);\n"
PMD_CLEAR = "\tWRITE_ONCE(pmd->pmd, 0);\n\tflush_tlb_kernel_pgtable(addr);\n"
PMD_FREE = "\tfree_table(table);\n\treturn 1;\n}\n\nint pud"
PUD_CLEAR = "\tWRITE_ONCE(pud->pud, 0);\n\tflush_tlb_kernel_pgtable(addr);\n"
PUD_FREE = "\tfree_table(table);\n\treturn 1;\n}\n\n/*"
LINK = "\tset_entry(entry, virt_to_phys(table) | PTE_VALID | PTE_TABLE);\n"
LINK_BY_ATOMIC = (
    "\tset_entry(entry, virt_to_phys(table));\n"
    '\tasm volatile(".arch_extension lse\\n\\tstset %1, %0" : "+Q"(*entry) : "r"(PTE_VALID | PTE_TABLE));\n'
)
WRITE_FAST = "cmpxchg_acquire(&sem->count.counter, 0, WRITER)"


def _pmd_free(new: str, clear: str = PMD_CLEAR) -> tuple[Edit, ...]:
    tail = "\treturn 1;\n}\n\nint pud"
    return ((MMU, PMD_CLEAR + PMD_FREE, clear + new + tail),)


def _pud_free(new: str, clear: str = PUD_CLEAR) -> tuple[Edit, ...]:
    tail = "\treturn 1;\n}\n\n/*"
    return ((MMU, PUD_CLEAR + PUD_FREE, clear + new + tail),)


def _sc(error: str) -> dict[str, str]:
    return {"sc": error}


def _arm64(error: str) -> dict[str, str]:
    return {"arm64": error}


_RELAXED = """\
static inline s64 cmpxchg_relaxed(s64 *at, s64 old, s64 new)
{
	s64 seen = old;

	asm volatile(".arch_extension lse\\n\\tcas %0, %2, %1" : "+r"(seen), "+Q"(*at) : "r"(new) : "memory");
	return seen;
}

static inline s64 add_return_relaxed(s64 *at, s64 amount)
{
	s64 result;

	asm volatile(".arch_extension lse\\n\\tldadd %2, %0, %1" : "=r"(result), "+Q"(*at) : "r"(amount) : "memory");
	return result + amount;
}

"""
_BEFORE_LOCKS = "void down_write(struct rw_semaphore *sem)\n"
FLUSH = ("flush-dsb-ishst", "flush-tlbi", "flush-dsb-ish", "flush-isb")
"""The points of the flush between clear and free, all of them."""
TLB = "tlb"
BY_HARDWARE = {"sc": HARDWARE_WALK_OF_FREED_TABLE, "arm64": HARDWARE_WALK_OF_FREED_TABLE}
IN_TLBS = {"arm64": SAFE, TLB: HARDWARE_WALK_OF_FREED_TABLE}
RELAXED = (RWSEM, _BEFORE_LOCKS, _RELAXED + _BEFORE_LOCKS)
"""Atomics without order, for what follows."""

MUTANTS = (
    # the promoter's lock
    Mutant(
        "no trylock around the promotion",
        (_locked(""),),
        _sc(UAF),
        points=("promotion-lock",),
        model=_sc(USE_AFTER_FREE_READ),
    ),
    Mutant(
        "trylock's failure ignored",
        (_locked("", lock="\tdown_read_trylock(&init_mm.mmap_lock);\n", unlock=UP),),
        _sc(UAF),
    ),
    Mutant("unlocked before the free", (_locked("", lock=TRY + UP),), _sc(UAF)),
    Mutant("never unlocked", (_locked("", lock=TRY),), _sc(NO_PROGRESS)),
    Mutant(
        "unlocked although the trylock failed",
        (_locked("", lock=TRY.replace("return 0;", "goto out;"), unlock="out:\n" + UP),),
        _sc(LOCK_NOT_RELEASED),
    ),
    Mutant("trylock's result inverted", (_locked("", lock=TRY.replace("!", ""), unlock=UP),), _sc(NO_PROGRESS)),
    Mutant(
        "trylock of another semaphore",
        (
            DEFINE_OTHER,
            _locked("", lock=TRY.replace("init_mm.mmap", "other"), unlock=UP.replace("init_mm.mmap", "other")),
        ),
        _sc(UAF),
    ),
    Mutant(
        "locked again, to write, while it holds the lock to read",
        (
            _locked(
                "",
                lock=TRY + "\tdown_write(&init_mm.mmap_lock);\n",
                unlock="\tup_write(&init_mm.mmap_lock);\n" + UP,
            ),
        ),
        _sc(NO_PROGRESS),
    ),
    Mutant(
        "two locks, in the other order than a dump",
        (
            DEFINE_OTHER,
            _locked(
                "",
                lock="\tdown_write(&other_lock);\n\tdown_write(&init_mm.mmap_lock);\n",
                unlock="\tup_write(&init_mm.mmap_lock);\n\tup_write(&other_lock);\n",
            ),
            (
                DUMP,
                DOWN_WRITE,
                f"\textern struct rw_semaphore other_lock;\n\n{DOWN_WRITE}\tdown_write(&other_lock);\n",
            ),
            (DUMP, UP_WRITE, f"\tup_write(&other_lock);\n{UP_WRITE}"),
        ),
        _sc(NO_PROGRESS),
    ),
    Mutant(
        "a lock that waits, to write, instead of the trylock",
        (
            _locked(
                "",
                lock="\tdown_write(&init_mm.mmap_lock);\n",
                unlock="\tup_write(&init_mm.mmap_lock);\n",
            ),
        ),
        _arm64(SAFE),
        "equivalent",
        "A writer excludes every walk, as a reader does; it only waits where the trylock gives up.",
    ),
    # the walker's lock
    Mutant(
        "a dump without the lock",
        ((DUMP, DOWN_WRITE, ""), (DUMP, UP_WRITE, "")),
        _sc(KERNEL_WARNING),
        points=("walk-lock",),
        model=_sc(WALK_WITHOUT_LOCK),
    ),
    Mutant(
        "a dump unlocks before its walk ends",
        (
            (WALK, "\t\treturn -22;\n", "\t\treturn -22;\n\tup_write(&mm->mmap_lock);\n"),
            (DUMP, UP_WRITE, ""),
        ),
        _sc(UAF),
    ),
    Mutant(
        "a dump takes the lock to read",
        (
            (DUMP, DOWN_WRITE, "\twhile (!down_read_trylock(&mm->mmap_lock))\n\t\tbarrier();\n"),
            (DUMP, UP_WRITE, "\tup_read(&mm->mmap_lock);\n"),
        ),
        _sc(UAF),
    ),
    Mutant(
        "a dump looks at a table again after unlocking",
        (
            (DUMP, "static int ptdump_pte_entry", "static pte_t *last;\n\nstatic int ptdump_pte_entry"),
            (DUMP, "\tnote(walk, addr, LEVEL_PTE", "\tlast = pte;\n\tnote(walk, addr, LEVEL_PTE"),
            (DUMP, UP_WRITE, UP_WRITE + "\tif (last)\n\t\tREAD_ONCE(last->pte);\n"),
        ),
        _sc(USE_AFTER_FREE_READ),
    ),
    Mutant(
        "a check of W+X beside a promotion without the trylock",
        (_locked(""),),
        _sc(UAF),
        scenario=WX,
        points=("promotion-lock",),
        model=_sc(USE_AFTER_FREE_READ),
    ),
    Mutant(
        "a check of W+X takes the lock to read",
        (
            (DUMP, DOWN_WRITE, "\twhile (!down_read_trylock(&mm->mmap_lock))\n\t\tbarrier();\n"),
            (DUMP, UP_WRITE, "\tup_read(&mm->mmap_lock);\n"),
        ),
        _sc(UAF),
        scenario=WX,
    ),
    # the lock itself
    Mutant(
        "down_write: acquire made relaxed",
        (RELAXED, (RWSEM, WRITE_FAST, WRITE_FAST.replace("acquire", "relaxed"))),
        {"sc": SAFE, "arm64": UAF},
        points=("walk-lock-acquire",),
        model={"sc": SAFE, "arm64": USE_AFTER_FREE_READ},
    ),
    Mutant(
        "up_write: release made relaxed",
        (RELAXED, (RWSEM, "add_return_release(&sem->count.counter, -W", "add_return_relaxed(&sem->count.counter, -W")),
        {"sc": SAFE, "arm64": UAF},
        points=("walk-unlock-release",),
        model={"sc": SAFE, "arm64": USE_AFTER_FREE_READ},
    ),
    Mutant(
        "down_read_trylock: acquire made relaxed",
        (RELAXED, (RWSEM, "cmpxchg_acquire(&sem->count.counter, c", "cmpxchg_relaxed(&sem->count.counter, c")),
        _arm64(SAFE),
        "equivalent",
        "What it stores and frees depends on the trylock's result by a branch; no other writes what it reads.",
        points=("promotion-lock-acquire",),
        model=_arm64(SAFE),
    ),
    Mutant(
        "up_read: release made relaxed",
        (RELAXED, (RWSEM, "add_return_release(&sem->count.counter, -R", "add_return_relaxed(&sem->count.counter, -R")),
        _arm64(SAFE),
        "equivalent",
        "The flush between the clear and the free ends in DSB ISH, which orders the clear before the unlock.",
        points=("promotion-unlock-release",),
        model=_arm64(SAFE),
    ),
    Mutant(
        "up_read: release made relaxed, and no flush before it",
        (
            RELAXED,
            (RWSEM, "add_return_release(&sem->count.counter, -R", "add_return_relaxed(&sem->count.counter, -R"),
            *_pmd_free("\tfree_table(table);\n", "\tWRITE_ONCE(pmd->pmd, 0);\n"),
            (SMALL_H, "\tdsb(ishst);\n\tisb();\n}\n\nint pmd", "}\n\nint pmd"),
        ),
        {"sc": SAFE, "arm64": FREE_OF_LINKED_TABLE},
        points=("promotion-unlock-release", *FLUSH),
        model={"sc": SAFE, "arm64": FREE_OF_LINKED_TABLE},
    ),
    Mutant(
        "LL/SC: load-acquire exclusive made plain",
        ((RWSEM, "1: ldaxr", "1: ldxr"),),
        {"sc": SAFE, "arm64": UAF},
        atomics="ll-sc",
    ),
    Mutant(
        "down_read_trylock: a writer does not count",
        ((RWSEM, "!(count & (WRITER | WAITERS))", "!(count & WAITERS)"),),
        _sc(UAF),
    ),
    Mutant(
        "down_read_trylock: a store instead of compare-and-swap",
        (
            (
                RWSEM,
                "seen = cmpxchg_acquire(&sem->count.counter, count, count + READER);",
                "seen = count;\n\t\tWRITE_ONCE(sem->count.counter, count + READER);",
            ),
        ),
        _sc(UAF),
    ),
    Mutant(
        "down_read_trylock: who waits does not count",
        ((RWSEM, "!(count & (WRITER | WAITERS))", "!(count & WRITER)"),),
        _arm64(SAFE),
        "equivalent",
        "The bit is there for fairness: readers may pass a writer that has not got the lock.",
    ),
    Mutant(
        "down_write: no wait where the fast path fails",
        ((RWSEM, "\t\trwsem_down_write_slowpath(sem);\n", ""),),
        _sc(LOCK_NOT_RELEASED),
    ),
    Mutant(
        "down_write: who holds the lock is not written down",
        ((RWSEM, "\tWRITE_ONCE(sem->owner.counter, (s64)get_current());\n", "\tget_current();\n"),),
        _arm64(SAFE),
        "equivalent",
        "The small kernel never reads it.",
    ),
    Mutant(
        "up_read: nobody is woken",
        (
            (
                RWSEM,
                "\tif (unlikely((count & (WAITERS | -READER)) == WAITERS))\n\t\trwsem_wake(sem);\n",
                "\t(void)count;\n",
            ),
        ),
        _arm64(SAFE),
        "not seen",
        "Who waits is stood for: it looks at the count, and needs nobody to wake it.",
    ),
    Mutant(
        "relaxed trylock, never unlocked, nobody else takes it",
        (
            RELAXED,
            (RWSEM, "cmpxchg_acquire(&sem->count.counter, c", "cmpxchg_relaxed(&sem->count.counter, c"),
            _locked("", lock=TRY),
        ),
        _sc(LOCK_NOT_RELEASED),
        scenario=ALONE,
    ),
    # clear and free
    Mutant(
        "freed before the entry is cleared", _pmd_free(PMD_CLEAR, "\tfree_table(table);\n"), _sc(FREE_OF_LINKED_TABLE)
    ),
    Mutant(
        "entry not cleared",
        _pmd_free("\tfree_table(table);\n", ""),
        _sc(FREE_OF_LINKED_TABLE),
        points=("free-clear",),
        model=_sc(FREE_OF_LINKED_TABLE),
    ),
    Mutant(
        "entry cleared before the table is looked up",
        (
            (
                MMU,
                "\ttable = pte_offset_kernel(pmd, addr);\n" + PMD_CLEAR,
                PMD_CLEAR + "\ttable = pte_offset_kernel(pmd, addr);\n",
            ),
        ),
        _sc(WILD_ACCESS),
    ),
    Mutant("table freed twice", _pmd_free("\tfree_table(table);\n\tfree_table(table);\n"), _sc(KERNEL_WARNING)),
    Mutant(
        "table freed twice, behind the kernel's own check",
        ((MMU, "\t__free_pages(page, page->order);\n", "\t__free_pages(page, 0);\n\t__free_pages(page, 0);\n"),),
        _sc(DOUBLE_FREE),
    ),
    Mutant("table never freed", _pmd_free("\t(void)table;\n"), _sc(LEAKED_TABLE)),
    Mutant(
        "block set over the table",
        (_locked("\tdone = pmd_set_huge(pmd, phys, prot);\n", lock=TRY, unlock=UP),),
        _sc(LEAKED_TABLE),
    ),
    Mutant(
        "the table above freed too",
        _pmd_free("\tfree_table(table);\n\tfree_table((void *)((u64)pmd & -PAGE_SIZE));\n"),
        _sc(FREE_OF_LINKED_TABLE),
    ),
    Mutant(
        "freer reads the table after its free",
        _pmd_free("\tfree_table(table);\n\tREAD_ONCE(table->pte);\n"),
        _sc(USE_AFTER_FREE_READ),
    ),
    Mutant(
        "freer writes the table after its free",
        _pmd_free("\tfree_table(table);\n\tWRITE_ONCE(table->pte, 0);\n"),
        _sc(USE_AFTER_FREE_WRITE),
    ),
    Mutant("WARN: the page is not marked as a table", ((VMALLOC, "\tpage->table = 1;\n", ""),), _sc(KERNEL_WARNING)),
    Mutant(
        "BUG: mapped again where an unmap left entries",
        ((VMALLOC, "\t\t\tWRITE_ONCE(pte->pte, 0);\n", "\t\t\tREAD_ONCE(pte->pte);\n"),),
        _sc(KERNEL_BUG),
    ),
    Mutant(
        "block written with the bits of a table",
        (
            (
                MMU,
                "set_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID);",
                "set_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID | PTE_TABLE);",
            ),
        ),
        _sc(WILD_ACCESS),
    ),
    Mutant(
        "no flush, and so no DSB, before the free",
        _pmd_free("\tfree_table(table);\n", "\tWRITE_ONCE(pmd->pmd, 0);\n"),
        {"sc": SAFE, "arm64": FREE_OF_LINKED_TABLE},
        points=FLUSH,
        model={"sc": SAFE, "arm64": FREE_OF_LINKED_TABLE, TLB: HARDWARE_WALK_OF_FREED_TABLE},
    ),
    Mutant(
        "flush after the free",
        _pmd_free("\tfree_table(table);\n\tflush_tlb_kernel_pgtable(addr);\n", "\tWRITE_ONCE(pmd->pmd, 0);\n"),
        {"sc": SAFE, "arm64": FREE_OF_LINKED_TABLE},
    ),
    Mutant(
        "new table linked by an atomic, freed while linked",
        ((VMALLOC, LINK, LINK_BY_ATOMIC + "\t__free_pages(virt_to_page(table), 0);\n"),),
        _sc(FREE_OF_LINKED_TABLE),
        scenario=FIRST,
    ),
    # blocks of the level above
    Mutant(
        "PUD: no trylock",
        (_locked("", "pud", "pmd"),),
        _sc(UAF),
        scenario=PUD,
        points=("promotion-lock",),
        model=_sc(USE_AFTER_FREE_READ),
    ),
    Mutant(
        "PUD: trylock's failure ignored",
        (_locked("", "pud", "pmd", lock="\tdown_read_trylock(&init_mm.mmap_lock);\n", unlock=UP),),
        _sc(UAF),
        scenario=PUD,
    ),
    Mutant(
        "PUD: entry not cleared",
        _pud_free("\tfree_table(table);\n", ""),
        _sc(FREE_OF_LINKED_TABLE),
        scenario=PUD,
        points=("free-clear",),
        model=_sc(FREE_OF_LINKED_TABLE),
    ),
    Mutant(
        "PUD: freed before the entry is cleared",
        _pud_free(PUD_CLEAR, "\tfree_table(table);\n"),
        _sc(FREE_OF_LINKED_TABLE),
        scenario=PUD,
    ),
    Mutant(
        "PUD: PTE tables not freed",
        ((MMU, "\t\t\tpmd_free_pte_page(pmd, next);\n", "\t\t\tREAD_ONCE(pmd->pmd);\n"),),
        _sc(LEAKED_TABLE),
        scenario=PUD,
    ),
    Mutant(
        "PUD: PMD table freed before its PTE tables",
        (
            (
                MMU,
                "\tdo {\n\t\tif (READ_ONCE(pmd->pmd) & PTE_VALID)",
                PUD_CLEAR + "\tfree_table(table);\n\tdo {\n\t\tif (READ_ONCE(pmd->pmd) & PTE_VALID)",
            ),
            (MMU, "next != end);\n" + PUD_CLEAR + "\tfree_table(table);\n", "next != end);\n"),
        ),
        _sc(USE_AFTER_FREE_READ),
        scenario=PUD,
    ),
    # the hardware's walks, and what is not asked
    Mutant(
        "DSB instead of the flush before the free",
        _pmd_free("\tfree_table(table);\n", "\tWRITE_ONCE(pmd->pmd, 0);\n\tdsb(ish);\n"),
        _arm64(SAFE),
        "hardware's",
        "Nothing takes the entry out of walk caches.",
        points=("flush-dsb-ishst", "flush-tlbi", "flush-isb"),
        model=IN_TLBS,
        tlbs=BY_HARDWARE,
    ),
    Mutant(
        "no DSB before the TLBI",
        ((MMU, '\tdsb(ishst);\n\tasm volatile("tlbi vaae1is', '\tasm volatile("tlbi vaae1is'),),
        _arm64(SAFE),
        "hardware's",
        "A table walk of the hardware may read the entry before the clear is seen, and after the TLBI.",
        points=("flush-dsb-ishst",),
        model=IN_TLBS,
        tlbs={"sc": SAFE, "arm64": HARDWARE_WALK_OF_FREED_TABLE},
    ),
    Mutant(
        "no DSB after the TLBI",
        ((MMU, '"tlbi vaae1is, %0" :: "r"(operand));\n\tdsb(ish);\n', '"tlbi vaae1is, %0" :: "r"(operand));\n'),),
        _arm64(SAFE),
        "hardware's",
        "Nothing waits for the invalidation.",
        points=("flush-dsb-ish",),
        model=IN_TLBS,
        tlbs=BY_HARDWARE,
    ),
    Mutant(
        "DSB ISHST after the TLBI",
        ((MMU, 'r"(operand));\n\tdsb(ish);\n', 'r"(operand));\n\tdsb(ishst);\n'),),
        _arm64(SAFE),
        "hardware's",
        "Nothing waits for the invalidation.",
        points=("flush-dsb-ish-full",),
        model=IN_TLBS,
        tlbs=BY_HARDWARE,
    ),
    Mutant(
        "no ISB after the flush",
        ((MMU, 'r"(operand));\n\tdsb(ish);\n\tisb();\n', 'r"(operand));\n\tdsb(ish);\n'),),
        _arm64(SAFE),
        "hardware's",
        "The CPU's own walks may have begun before the invalidation.",
        points=("flush-isb",),
        model=IN_TLBS,
        tlbs=BY_HARDWARE,
    ),
    Mutant(
        "no flush of a range that is unmapped",
        ((VMALLOC, "\tflush_tlb_kernel_range(start, end);\n", "\t(void)start;\n"),),
        _arm64(SAFE),
        "hardware's",
        "What is mapped there next may be seen beside what was.",
        scenario=UNMAP,
        points=("unmap-flush-tlbi",),
        model={"arm64": SAFE, TLB: TLB_CONFLICT},
        tlbs={"sc": TLB_CONFLICT, "arm64": TLB_CONFLICT},
    ),
    Mutant(
        "no DSB, ISB after an entry is set",
        ((SMALL_H, "\tdsb(ishst);\n\tisb();\n}\n\nint pmd", "}\n\nint pmd"),),
        _arm64(SAFE),
        "not seen",
        "Who accesses what was just mapped may fault; such accesses are not there.",
    ),
    Mutant(
        "no barrier between zeroing a table and linking it",
        ((VMALLOC, "\tdmb(ishst);\n", ""),),
        _arm64(SAFE),
        "not seen",
        "A page is given zeroed in one step, so no zero comes late.",
    ),
    Mutant(
        "promotion sets no block",
        ((MMU, "\tset_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID);\n", ""),),
        _arm64(SAFE),
        "not seen",
        "What is mapped where is not asked.",
    ),
)
