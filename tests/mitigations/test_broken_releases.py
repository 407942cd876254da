"""Linux 7.3 with one thing broken at a time: each is found, by name.

A variant is a function of the model with one piece of its text replaced, so that what is broken is what is modelled,
and a variant whose text is no longer there fails.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from types import FunctionType, ModuleType
from typing import NamedTuple

import pytest

from fuzzvm.exhaustive import Limits
from fuzzvm.kernel.errors import (
    FREE_OF_LINKED_TABLE,
    HARDWARE_WALK_OF_FREED_TABLE,
    LEAKED_TABLE,
    MISSING_DESTRUCTOR,
    SLEEP_IN_ATOMIC,
    UNLOCK_WITHOUT_LOCK,
    WALK_WITHOUT_LOCK,
)
from fuzzvm.machine.errors import DOUBLE_FREE, NO_PROGRESS, USE_AFTER_FREE_READ
from fuzzvm.scenario import shipped
from fuzzvm.scenario.calls import CatKernelPageTables, SetMemoryRo, Vmap, Vunmap
from fuzzvm.scenario.hotplug_calls import HugetlbVmemmapOptimizeFolio, TryRemoveMemory
from fuzzvm.scenario.pairs import scenarios
from fuzzvm.scenario.scenario import Scenario
from fuzzvm.verify.matrix import Bounds, Cell, verify_cell

NEWEST = "linux-7.3"
KERNEL = "fuzzvm.kernel"
CPA = f"{KERNEL}.arch.x86_64.set_memory"


class Variant(NamedTuple):
    """`before` stands once in the text of `function`, and `after` in its place in the variant."""

    name: str
    function: str
    before: str
    after: str
    scenario: str
    error: str


OWN = {
    "split-beside-split": Scenario(
        arch="x86_64",
        page_size="4K",
        levels=4,
        fanout=2,
        setup=(Vmap(0, 2, "pmd"),),
        cpus=((SetMemoryRo(0, 1),), (SetMemoryRo(1, 1),)),
    ),
    "tlb-hot-remove": Scenario(
        arch="arm64",
        page_size="4K",
        levels=4,
        fanout=2,
        setup=(Vmap(0, 4, "pte"),),
        cpus=((TryRemoveMemory(0, 4),), (CatKernelPageTables(),)),
        tlb=True,
    ),
    "remap-of-a-block": Scenario(
        arch="x86_64",
        page_size="4K",
        levels=4,
        fanout=2,
        setup=(Vmap(0, 2, "pmd"),),
        cpus=((HugetlbVmemmapOptimizeFolio(0, 2),),),
    ),
    "change-beside-change": Scenario(
        arch="arm64",
        page_size="4K",
        levels=4,
        fanout=2,
        setup=(Vmap(0, 2, "pmd"),),
        cpus=((SetMemoryRo(0, 1),), (SetMemoryRo(1, 1),)),
    ),
    "first-maps": Scenario(
        setup=(), arch="x86_64", page_size="4K", levels=4, fanout=2, cpus=((Vmap(0, 1, "pte"),), (Vmap(1, 1, "pte"),))
    ),
    "tlb-pud-promotion": Scenario(
        arch="x86_64",
        page_size="4K",
        levels=4,
        fanout=2,
        setup=(Vmap(0, 4, "pte"), Vunmap(0, 4)),
        cpus=((Vmap(0, 4, "pud"),), (CatKernelPageTables(),)),
        tlb=True,
    ),
}

VARIANTS = [
    Variant(
        "unlock of init_mm before the free",
        f"{KERNEL}.vmap:vmap_try_huge_pmd",
        "    freed = yield from k.arch.pmd_free_pte_page(k, pmdp, addr)\n",
        "    yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)\n"
        "    freed = yield from k.arch.pmd_free_pte_page(k, pmdp, addr)\n    return True\n",
        "pmd-promotion",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "no unlock of init_mm after the promotion",
        f"{KERNEL}.vmap:vmap_try_huge_pmd",
        "    yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)\n",
        "",
        "x86-pmd-promotion",
        NO_PROGRESS,
    ),
    Variant(
        "trylock whose failure is not looked at",
        "fuzzvm.mitigations.vmap_trylock:VmapTrylock.before_promotion",
        "return (yield from mmap_read_trylock(k, k.init_mm))",
        "yield from mmap_read_trylock(k, k.init_mm)\n    return True",
        "x86-pmd-promotion",
        UNLOCK_WITHOUT_LOCK,
    ),
    Variant(
        "unlock of init_mm where it was not taken",
        f"{KERNEL}.vmap:vmap_try_huge_pmd",
        "        yield PromotionEnds()\n        return False\n",
        "        yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)\n        return False\n",
        "x86-pmd-promotion",
        UNLOCK_WITHOUT_LOCK,
    ),
    Variant(
        "walk of another mm without the lock of init_mm",
        "fuzzvm.mitigations.ptdump_locks_init_mm:PtdumpLocksInitMm.walk_locked",
        "if mm != k.init_mm:",
        "if False:",
        "x86-other-mm",
        WALK_WITHOUT_LOCK,
    ),
    Variant(
        "walk that unlocks before it walks",
        f"{KERNEL}.ptdump:ptdump_walk_pgd",
        "    while True:\n",
        "    yield from mmap_write_unlock(k, mm, WALK)\n    while True:\n",
        "pmd-promotion",
        WALK_WITHOUT_LOCK,
    ),
    Variant(
        "free before the clear, PMD",
        f"{KERNEL}.arch.x86_64.pgtable:pmd_free_pte_page",
        '    yield Store(pmdp, 0, Order.PLAIN, "free-clear")\n',
        "    yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)\n"
        '    yield Store(pmdp, 0, Order.PLAIN, "free-clear")\n    return True\n',
        "x86-pmd-promotion",
        FREE_OF_LINKED_TABLE,
    ),
    Variant(
        "free before the flush, PMD",
        f"{KERNEL}.arch.x86_64.pgtable:pmd_free_pte_page",
        "    # INVLPG clears",
        "    yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)\n    return True\n    # INVLPG clears",
        "tlb-x86-promotion",
        HARDWARE_WALK_OF_FREED_TABLE,
    ),
    Variant(
        "no flush, PUD",
        f"{KERNEL}.arch.x86_64.pgtable:pud_free_pmd_page",
        "    yield from flush_tlb_kernel_range(k, addr, addr + k.geometry.size(Level.PTE), FLUSH_TLBI[Level.PUD])\n",
        "",
        "tlb-pud-promotion",
        HARDWARE_WALK_OF_FREED_TABLE,
    ),
    Variant(
        "table freed twice",
        f"{KERNEL}.arch.x86_64.pgtable:pmd_free_pte_page",
        "    yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)\n",
        "    yield from k.mitigation.free_table(k, pxd_pgtable(pmd), Level.PMD)\n" * 2,
        "x86-pmd-promotion",
        DOUBLE_FREE,
    ),
    Variant(
        "PTE tables forgotten, PUD",
        f"{KERNEL}.arch.x86_64.pgtable:pud_free_pmd_page",
        "        if pxd_table(pmd):",
        "        if False:",
        "x86-pud-promotion",
        LEAKED_TABLE,
    ),
    Variant(
        "PMD table freed before the PTE tables that it leads to are",
        f"{KERNEL}.arch.x86_64.pgtable:pud_free_pmd_page",
        "    yield from k.mitigation.before_free(k, Level.PUD, token)\n",
        "    yield from k.mitigation.free_table(k, table, Level.PUD)\n",
        "x86-pud-promotion",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "no flush, PMD of arm64",
        f"{KERNEL}.arch.arm64.flush:flush_tlb_kernel_pgtable",
        '    yield Tlbi("vaae1is", addr, FLUSH_TLBI.get(level, ""))\n',
        "",
        "tlb-promotion",
        HARDWARE_WALK_OF_FREED_TABLE,
    ),
    Variant(
        "no page_table_lock where two CPUs make the first table",
        f"{KERNEL}.vmap:pxd_alloc",
        "        entry = yield Load(parent)\n        if pxd_none(entry):\n            # smp_wmb()",
        "        if pxd_none(entry):\n            # smp_wmb()",
        "first-maps",
        LEAKED_TABLE,
    ),
    Variant(
        "collapse before init_mm's lock is taken",
        f"{CPA}:cpa_collapse_large_pages",
        "    token = yield from k.mitigation.before_collapse(k.in_role(COLLAPSE))\n",
        "    yield from __cpa_collapse_large_pages(k, locks, addr, numpages)\n"
        "    token = yield from k.mitigation.before_collapse(k.in_role(COLLAPSE))\n",
        "pair-x86_64-collapse-pmd-ptdump",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "collapse that frees before it flushes",
        f"{CPA}:__cpa_collapse_large_pages",
        "        yield from flush_tlb_all(k)\n",
        "",
        "pair-x86_64-collapse-pmd-perf",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "collapse that frees a table twice",
        f"{CPA}:collapse_pmd_page",
        "pxd_pgtable(old_pmd), Level.PMD), *pgtables",
        "pxd_pgtable(pmd), Level.PMD), (pxd_pgtable(pmd), Level.PMD), *pgtables",
        "pair-x86_64-collapse-pmd-ptdump",
        DOUBLE_FREE,
    ),
    Variant(
        "allocation of a split under cpa_lock",
        f"{CPA}:split_large_page",
        "    yield from spin_unlock(k.cpu, locks.cpa_lock)\n",
        "",
        "x86-cpa-split",
        SLEEP_IN_ATOMIC,
    ),
    Variant(
        "read lock of init_mm taken again under cpa_lock after the allocation of a split",
        f"{CPA}:split_large_page",
        "    yield from k.mitigation.after_split_alloc(k.in_role(ATTRIBUTES))\n"
        "    yield from spin_lock(k.cpu, locks.cpa_lock)\n",
        "    yield from spin_lock(k.cpu, locks.cpa_lock)\n"
        "    yield from k.mitigation.after_split_alloc(k.in_role(ATTRIBUTES))\n",
        "x86-cpa-split",
        SLEEP_IN_ATOMIC,
    ),
    Variant(
        "split that does not look whether somebody else was first",
        f"{CPA}:__split_large_page",
        "    if again != place:\n",
        "    if not again.kpte:\n",
        "split-beside-split",
        LEAKED_TABLE,
    ),
    Variant(
        "text poking that unlocks before it looks up",
        f"{KERNEL}.page_lookup:poke_vmalloc_pages",
        "    yield from vmalloc_to_page(k, addr)\n    if locks:\n"
        "        yield from mmap_read_unlock(k, k.init_mm, LOOKUP)\n",
        "    yield from mmap_read_unlock(k, k.init_mm, LOOKUP)\n    yield from vmalloc_to_page(k, addr)\n",
        "pair-x86_64-collapse-pmd-text-poke",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "kcore that takes init_mm's lock under the spinlock of the areas",
        f"{KERNEL}.page_lookup:aligned_vread_iter",
        "    yield from _reader_begins(k)\n",
        "    yield from mmap_read_lock(k, k.init_mm, LOOKUP)\n",
        "pair-x86_64-collapse-pmd-kcore",
        SLEEP_IN_ATOMIC,
    ),
    Variant(
        "perf's walk with interrupts on",
        f"{KERNEL}.page_lookup:perf_get_page_size",
        "    flags = yield from local_irq_save(k)\n",
        "    flags = yield from local_irq_save(k)\n    yield from local_irq_restore(k, flags)\n"
        "    return (yield from perf_get_pgtable_size(k, addr))\n",
        "pair-x86_64-collapse-pmd-perf",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "hot-remove that lets walks in before it frees",
        f"{KERNEL}.memory_hotplug:try_remove_memory",
        "    yield from k.arch.arch_remove_memory(k, start, end)\n    yield from mem_hotplug_done(k)\n",
        "    yield from mem_hotplug_done(k)\n    yield from k.arch.arch_remove_memory(k, start, end)\n",
        "pair-arm64-hot-remove-ptdump",
        USE_AFTER_FREE_READ,
    ),
    Variant(
        "hot-remove of arm64 that frees before it flushes",
        f"{KERNEL}.arch.arm64.hot_remove:free_empty_table",
        "                yield from flush_tlb_kernel_pgtable(addr, level)\n"
        "                yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))\n",
        "                yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))\n"
        "                yield from flush_tlb_kernel_pgtable(addr, level)\n",
        "tlb-hot-remove",
        HARDWARE_WALK_OF_FREED_TABLE,
    ),
    Variant(
        "hot-remove of arm64 that frees before it clears",
        f"{KERNEL}.arch.arm64.hot_remove:free_empty_table",
        "                yield Store(entryp, 0)\n",
        "                yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))\n",
        "pair-arm64-hot-remove-ptdump",
        FREE_OF_LINKED_TABLE,
    ),
    Variant(
        "hot-remove of arm64 that forgets a destructor",
        f"{KERNEL}.arch.arm64.hot_remove:free_hotplug_pgtable_page",
        "destructed=k.mitigation.functions.hot_remove_destructs",
        "destructed=False",
        "pair-arm64-hot-remove-ptdump",
        MISSING_DESTRUCTOR,
    ),
    Variant(
        "remapping of vmemmap that splits under page_table_lock",
        f"{KERNEL}.hugetlb_vmemmap:vmemmap_split_pmd",
        "    # pte_alloc_one_kernel(): GFP_PGTABLE_KERNEL, with init_mm's lock held\n",
        "    yield from spin_lock(k.cpu, k.page_table_lock)\n",
        "remap-of-a-block",
        SLEEP_IN_ATOMIC,
    ),
    Variant(
        "split of arm64 that is let go of before it is done",
        f"{KERNEL}.arch.arm64.pageattr:split_kernel_leaf_mapping",
        "    yield from mutex_lock(k.cpu, lock)\n",
        "    yield from mutex_lock(k.cpu, lock)\n    yield from mutex_unlock(k.cpu, lock)\n"
        "    yield from split_kernel_leaf_mapping_locked(k, start if _ffs(start) < _ffs(end) else end)\n    return\n",
        "change-beside-change",
        LEAKED_TABLE,
    ),
    Variant(
        "flush that does not wait for CPUs with interrupts off",
        f"{KERNEL}.arch.x86_64.tlbflush:flush_tlb_all",
        "        yield from csd_lock_wait(k)\n",
        "",
        "pair-x86_64-collapse-pmd-perf",
        USE_AFTER_FREE_READ,
    ),
]


@pytest.mark.slow
def test_what_is_broken_here_is_safe_as_it_is() -> None:
    for name in sorted({variant.scenario for variant in VARIANTS}):
        if name != "pair-x86_64-collapse-pmd-kcore":
            assert _error(name) == "", name


@pytest.mark.always
@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name for variant in VARIANTS])
def test_a_broken_variant_is_found(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    module_name, _, path = variant.function.partition(":")
    module = importlib.import_module(module_name)
    *outer, name = path.split(".")
    owner = getattr(module, outer[0]) if outer else module
    source = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert source.count(variant.before) == 1
    made: dict[str, object] = {}
    # the module's own globals: what the function calls is what it called before
    exec(compile(source.replace(variant.before, variant.after), module_name, "exec"), vars(module), made)
    for other in [owner] if outer else _modules_that_have(getattr(owner, name)):
        monkeypatch.setattr(other, name, made[name])
    assert _error(variant.scenario) == variant.error


def _modules_that_have(function: FunctionType) -> list[ModuleType]:
    """Return the modules that call a function by its name, which have imported it."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("fuzzvm.") and getattr(module, function.__name__, None) is function
    ]


def _error(name: str) -> str:
    """Return the error that 7.3 comes to in a scenario under sc, '' where it is safe."""
    scenario = OWN.get(name) or scenarios().get(name) or shipped.get(name)
    run = verify_cell(Cell(NEWEST, scenario, "sc", ()), Bounds(Limits()))
    assert run.verdict.complete
    return "" if run.verdict.failure is None else run.verdict.failure.error
