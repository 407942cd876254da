"""Small kernels for x86_64 that differ from the right one in one way each, as `mutations` has them for arm64.

What both architectures compile is changed as it is there; verdicts are those of x86_64's own memory models.
"""

from __future__ import annotations

from dataclasses import replace

from fuzzvm.compiled.errors import KERNEL_BUG, KERNEL_WARNING, WILD_ACCESS
from fuzzvm.kernel.errors import FREE_OF_LINKED_TABLE, LEAKED_TABLE, LOCK_NOT_RELEASED
from fuzzvm.machine.errors import DOUBLE_FREE, NO_PROGRESS, USE_AFTER_FREE_READ, USE_AFTER_FREE_WRITE
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, CheckWxPages, Vmap, Vunmap
from fuzzvm.scenario.scenario import Scenario
from tests.compiled.run import mutations
from tests.compiled.run.mutations import RWSEM, SAFE, UAF, Mutant

PMD = shipped.get("x86-pmd-promotion")
WX = replace(PMD, cpus=(PMD.cpus[0], (CheckWxPages(),)), name="x86-check-wx")
ALONE = replace(PMD, cpus=PMD.cpus[:1], name="x86-promotion-alone")
FIRST = replace(ALONE, setup=(), cpus=((Vmap(0, 1, max_page_shift="pte"),),), name="x86-first-mapping")
PUD = Scenario(
    "x86_64",
    "4K",
    4,
    2,
    (Vmap(0, 1, max_page_shift="pte"), Vunmap(0, 1)),
    ((Vmap(0, 4, max_page_shift="pud"),), (CatKernelPageTables(),)),
    name="x86-pud-promotion",
)
UNMAP = replace(PMD, cpus=((*PMD.cpus[0], Vunmap(0, 2)), PMD.cpus[1]), name="x86-unmapped-block")

PGTABLE = "arch/x86/mm/pgtable.c"
CLEAR = "\tWRITE_ONCE(pmd->pmd, 0);\n"
FLUSH = "\tflush_tlb_kernel_range(addr, addr + PAGE_SIZE - 1);\n"
FREE = "\tfree_table(table);\n"
TAIL = "\treturn 1;\n}\n\nint pud"
PUD_CLEAR = "\tWRITE_ONCE(pud->pud, 0);\n"
SET_PMD = "\tset_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID | PTE_PSE);\n"
LOOK_UP = "\tpte_t *table = pte_offset_kernel(pmd, addr);\n\n"
STORE_WRITER = """\
s64 seen = READ_ONCE(sem->count.counter);

	if (!seen)
		WRITE_ONCE(sem->count.counter, WRITER);
	if (unlikely(seen)) {"""
FULL_BARRIER = '\tasm volatile("lock addl $0, -4(%%rsp)" ::: "memory", "cc");\n'


def _both(error: str) -> dict[str, str]:
    return {"sc": error, "tso": error}


def _tso(error: str) -> dict[str, str]:
    """Return verdicts of what only a store that is seen late makes wrong."""
    return {"sc": SAFE, "tso": error}


SHARED = {
    "no trylock around the promotion": (PMD, _both(UAF)),
    "trylock's failure ignored": (PMD, _both(UAF)),
    "unlocked before the free": (PMD, _both(UAF)),
    "never unlocked": (PMD, _both(NO_PROGRESS)),
    "unlocked although the trylock failed": (PMD, _both(LOCK_NOT_RELEASED)),
    "trylock's result inverted": (PMD, _both(NO_PROGRESS)),
    "trylock of another semaphore": (PMD, _both(UAF)),
    "two locks, in the other order than a dump": (PMD, _both(NO_PROGRESS)),
    "a lock that waits, to write, instead of the trylock": (PMD, _both(SAFE)),
    "a dump without the lock": (PMD, _both(KERNEL_WARNING)),
    "a dump unlocks before its walk ends": (PMD, _both(UAF)),
    "a dump takes the lock to read": (PMD, _both(UAF)),
    "a dump looks at a table again after unlocking": (PMD, _both(USE_AFTER_FREE_READ)),
    "a check of W+X beside a promotion without the trylock": (WX, _both(UAF)),
    "down_read_trylock: a writer does not count": (PMD, _both(UAF)),
    "down_read_trylock: a store instead of compare-and-swap": (PMD, _both(UAF)),
    "down_read_trylock: who waits does not count": (PMD, _both(SAFE)),
    "down_write: no wait where the fast path fails": (PMD, _both(LOCK_NOT_RELEASED)),
    "WARN: the page is not marked as a table": (PMD, _both(KERNEL_WARNING)),
    "BUG: mapped again where an unmap left entries": (PMD, _both(KERNEL_BUG)),
    "block set over the table": (PMD, _both(LEAKED_TABLE)),
    "PUD: no trylock": (PUD, _both(UAF)),
    "PUD: trylock's failure ignored": (PUD, _both(UAF)),
    "no flush of a range that is unmapped": (UNMAP, _both(SAFE)),
}
"""Mutants of files that x86_64 has too, with the scenario here and the verdicts."""


def _pmd_free(new: str) -> tuple[mutations.Edit, ...]:
    return ((PGTABLE, CLEAR + FLUSH + FREE + TAIL, new + TAIL),)


def _pud(old: str, new: str) -> tuple[mutations.Edit, ...]:
    return ((PGTABLE, old, new),)


_LOOP = """\
	for (i = 0; i < PTRS_PER_TABLE; i++)
		if (is_table(table[i].pmd))
			free_table(phys_to_virt(table[i].pmd & PTE_ADDRESS));
"""

OWN = (
    # clear and free
    Mutant(
        "freed before the entry is cleared", _pmd_free(FREE + CLEAR + FLUSH), _both(FREE_OF_LINKED_TABLE), scenario=PMD
    ),
    Mutant("entry not cleared", _pmd_free(FLUSH + FREE), _both(FREE_OF_LINKED_TABLE), scenario=PMD),
    Mutant(
        "entry cleared before the table is looked up",
        ((PGTABLE, LOOK_UP + CLEAR, "\tpte_t *table;\n\n" + CLEAR + "\ttable = pte_offset_kernel(pmd, addr);\n"),),
        _both(WILD_ACCESS),
        scenario=PMD,
    ),
    Mutant("no IPI before the free", _pmd_free(CLEAR + FREE), _tso(FREE_OF_LINKED_TABLE), scenario=PMD),
    Mutant("IPI after the free", _pmd_free(CLEAR + FREE + FLUSH), _tso(FREE_OF_LINKED_TABLE), scenario=PMD),
    Mutant("table freed twice", _pmd_free(CLEAR + FLUSH + FREE + FREE), _both(KERNEL_WARNING), scenario=PMD),
    Mutant(
        "table freed twice, behind the kernel's own check",
        _pud("\t__free_pages(page, page->order);\n", "\t__free_pages(page, 0);\n\t__free_pages(page, 0);\n"),
        _both(DOUBLE_FREE),
        scenario=PMD,
    ),
    Mutant("table never freed", _pmd_free(CLEAR + FLUSH + "\t(void)table;\n"), _both(LEAKED_TABLE), scenario=PMD),
    Mutant(
        "freer reads the table after its free",
        _pmd_free(CLEAR + FLUSH + FREE + "\tREAD_ONCE(table->pte);\n"),
        _both(USE_AFTER_FREE_READ),
        scenario=PMD,
    ),
    Mutant(
        "freer writes the table after its free",
        _pmd_free(CLEAR + FLUSH + FREE + "\tWRITE_ONCE(table->pte, 0);\n"),
        _both(USE_AFTER_FREE_WRITE),
        scenario=PMD,
    ),
    Mutant(
        "block written without the bit that makes it one",
        _pud(
            "set_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID | PTE_PSE)", "set_entry(&pmd->pmd, phys | PTE_VALID)"
        ),
        _both(WILD_ACCESS),
        scenario=PMD,
    ),
    # blocks of the level above
    Mutant(
        "PUD: entry not cleared",
        _pud(PUD_CLEAR + FLUSH, FLUSH),
        _both(FREE_OF_LINKED_TABLE),
        scenario=PUD,
    ),
    Mutant("PUD: PTE tables not freed", _pud(_LOOP, "\t(void)i;\n"), _both(LEAKED_TABLE), scenario=PUD),
    Mutant(
        "PUD: PMD table freed before its PTE tables",
        _pud(_LOOP + FREE, FREE + _LOOP),
        _both(USE_AFTER_FREE_READ),
        scenario=PUD,
    ),
    # the lock's own instructions
    Mutant(
        "down_write: a store instead of compare-and-swap",
        (
            (
                RWSEM,
                "if (unlikely(cmpxchg_acquire(&sem->count.counter, 0, WRITER) != 0)) {",
                STORE_WRITER,
            ),
        ),
        _both(f"{UAF} or {LOCK_NOT_RELEASED}"),
        scenario=PMD,
    ),
    # what is not followed
    Mutant(
        "a barrier of this CPU alone instead of the IPI",
        _pmd_free(CLEAR + FULL_BARRIER + FREE),
        _both(SAFE),
        "not seen",
        "TLBs and walk caches are not followed for images: the clear is seen by who looks at memory.",
        scenario=PMD,
    ),
    Mutant(
        "promotion sets no block",
        _pud(SET_PMD, ""),
        _both(SAFE),
        "not seen",
        "What is mapped where is not asked.",
        scenario=PMD,
    ),
)


def _shared() -> list[Mutant]:
    by_name = {one.name: one for one in mutations.MUTANTS}
    return [
        replace(by_name[name], scenario=scenario, verdicts=verdicts) for name, (scenario, verdicts) in SHARED.items()
    ]


MUTANTS = (*_shared(), *OWN)
