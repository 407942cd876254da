"""Twenty and more deliberately broken variants of what frees, walks and locks in 7.3: each is caught, by name.

A variant is one change of text in a copy of fuzzvm/, as a slip in the kernel's C would be, and `verify` runs on that.
Without it the same cell is what the release claims.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tomli_w

ROOT = Path(__file__).resolve().parents[2]
OF_BLOCK = ["vmap(page=0, nr_pages=2, max_page_shift='pmd')"]
SPLITS = [["set_memory_ro(page=0, nr_pages=1)"], ["set_memory_ro(page=1, nr_pages=1)"]]
REMAPS = [["hugetlb_vmemmap_optimize_folio(page=0, nr_pages=2)"]] * 2
IOMMU = [["set_memory_ro(page=0, nr_pages=1)", "set_memory_rox(page=0, nr_pages=2)"]]
OF_TWO_SPLITS: dict[str, object] = {"arch": "x86_64", "setup": OF_BLOCK, "cpus": SPLITS}
OF_ARM64_SPLITS: dict[str, object] = OF_TWO_SPLITS | {"arch": "arm64"}
OF_TWO_REMAPS: dict[str, object] = OF_TWO_SPLITS | {"cpus": REMAPS}
OF_IOMMU: dict[str, object] = OF_TWO_SPLITS | {"cpus": IOMMU, "iommu_sva": True}


class Variant(NamedTuple):
    """`old` stands in a file below fuzzvm/kernel once, and becomes `new`; the cell, and the error that it has then."""

    name: str
    file: str
    old: str
    new: str
    scenario: str | dict[str, object]
    error: str
    memory: str = "sc"
    scheme: str = "linux-7.3"
    options: tuple[str, ...] = ()


def lines(*of: str, indent: int = 4) -> str:
    return "".join(f"{' ' * indent}{line}\n" for line in of)


CPA = "arch/x86_64/set_memory.py"
X86_HOT_REMOVE = "arch/x86_64/hot_remove.py"
ARM64_HOT_REMOVE = "arch/arm64/hot_remove.py"
PAGEATTR = "arch/arm64/pageattr.py"
VMEMMAP = "hugetlb_vmemmap.py"

VARIANTS = [
    Variant(
        "promotion: init_mm's lock is let go before the table is freed",
        "vmap.py",
        lines(
            "freed = yield from k.arch.pmd_free_pte_page(k, pmdp, addr)",
            "if freed:",
            "    yield from k.arch.set_pxd(k, pmdp, block)",
            "yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)",
        ),
        lines(
            "yield from k.mitigation.after_promotion(k.in_role(PROMOTION), Level.PMD)",
            "freed = yield from k.arch.pmd_free_pte_page(k, pmdp, addr)",
            "if freed:",
            "    yield from k.arch.set_pxd(k, pmdp, block)",
        ),
        "pair-arm64-promotion-pmd-ptdump",
        "use-after-free-read",
        "arm64",
    ),
    Variant(
        "promotion: a trylock that fails is taken for one that succeeds",
        "vmap.py",
        'if not answer(k.mitigation, "before_promotion", go_on):\n        yield PromotionEnds()\n        return False\n'
        "    freed = yield from k.arch.pud_free_pmd_page",
        "freed = yield from k.arch.pud_free_pmd_page",
        "pair-x86_64-promotion-pud-ptdump",
        "unlock-without-lock",
        "tso",
    ),
    Variant(
        "collapse: init_mm's lock is let go before the tables are freed",
        CPA,
        lines(
            "yield from __cpa_collapse_large_pages(k, locks, addr, numpages)",
            "if holds_cpa_lock:",
            "    yield from spin_unlock(k.cpu, locks.cpa_lock)",
            "yield from k.mitigation.after_collapse(k.in_role(COLLAPSE), token)",
        ),
        lines(
            "yield from k.mitigation.after_collapse(k.in_role(COLLAPSE), token)",
            "yield from __cpa_collapse_large_pages(k, locks, addr, numpages)",
            "if holds_cpa_lock:",
            "    yield from spin_unlock(k.cpu, locks.cpa_lock)",
        ),
        "pair-x86_64-collapse-pmd-ptdump",
        "use-after-free-read",
        "tso",
    ),
    Variant(
        "collapse: the flush comes after the free",
        CPA,
        lines("yield from flush_tlb_all(k)", "token = yield from k.mitigation.before_collapse_free", indent=8)[:-1],
        lines("token = yield from k.mitigation.before_collapse_free", indent=8)[:-1],
        "pair-x86_64-collapse-pmd-perf",
        "use-after-free-read",
    ),
    Variant(
        "collapse: a table is freed twice",
        CPA,
        lines(
            "yield from pagetable_free(k, pgtables[index][0], pgtables[index][1])",
            indent=12,
        ),
        lines(
            "yield from pagetable_free(k, pgtables[index][0], pgtables[index][1])",
            "yield from pagetable_free(k, pgtables[index][0], pgtables[index][1])",
            indent=12,
        ),
        "pair-x86_64-collapse-pmd-ptdump",
        "double-free",
    ),
    Variant(
        "collapse: without pgd_lock",
        CPA,
        lines("yield from spin_lock(k.cpu, locks.pgd_lock)", "pudp = yield from _pud_offset(k, addr)"),
        lines("pudp = yield from _pud_offset(k, addr)"),
        "pair-x86_64-collapse-pmd-ptdump",
        "unlock-without-lock",
    ),
    Variant(
        "split: cpa_lock is held while memory is allocated",
        CPA,
        lines(
            "yield from spin_unlock(k.cpu, locks.cpa_lock)",
            "yield from k.mitigation.before_split_alloc(k.in_role(ATTRIBUTES))",
        ),
        lines("yield from k.mitigation.before_split_alloc(k.in_role(ATTRIBUTES))"),
        OF_TWO_SPLITS,
        "sleep-in-atomic",
    ),
    Variant(
        "split: nobody looks whether another CPU was first",
        CPA,
        lines(
            "again = yield from lookup_address(k, address)",
            "if again != place:",
            "    yield from spin_unlock(k.cpu, locks.pgd_lock)",
            "    return False",
        ),
        "",
        OF_TWO_SPLITS,
        "leaked-table",
    ),
    Variant(
        "split: without PT_kernel",
        "iommu_sva.py",
        lines("yield Rmw(k.unmarked_tables, _Remove(table), point=PTDESC_SET_KERNEL)"),
        "",
        OF_IOMMU,
        "iommu-walk-of-freed-table",
        scheme="linux-7.3+deferred-free",
    ),
    Variant(
        "text poking: the lock is let go before the look-up",
        "page_lookup.py",
        lines(
            "yield from vmalloc_to_page(k, addr)", "if locks:", "    yield from mmap_read_unlock(k, k.init_mm, LOOKUP)"
        ),
        lines(
            "if locks:", "    yield from mmap_read_unlock(k, k.init_mm, LOOKUP)", "yield from vmalloc_to_page(k, addr)"
        ),
        "pair-x86_64-collapse-pmd-text-poke",
        "use-after-free-read",
    ),
    Variant(
        "perf: interrupts are on again before the walk",
        "page_lookup.py",
        lines(
            "size = yield from perf_get_pgtable_size(k, addr)",
            "yield from _reader_ends(k)",
            "yield from local_irq_restore(k, flags)",
        ),
        lines(
            "yield from _reader_ends(k)",
            "yield from local_irq_restore(k, flags)",
            "size = yield from perf_get_pgtable_size(k, addr)",
        ),
        "pair-x86_64-collapse-pmd-perf",
        "use-after-free-read",
    ),
    Variant(
        "perf: interrupts stay off",
        "page_lookup.py",
        lines("yield from local_irq_restore(k, flags)", "return int(size)"),
        lines("return int(size)"),
        "pair-x86_64-collapse-pmd-perf",
        "no-progress",
    ),
    Variant(
        "a denied write: interrupts are on again before the walk",
        "page_lookup.py",
        lines(
            "spurious = yield from spurious_kernel_fault(k, addr)",
            "yield from _reader_ends(k)",
            "yield from local_irq_restore(k, flags)",
        ),
        lines(
            "yield from _reader_ends(k)",
            "yield from local_irq_restore(k, flags)",
            "spurious = yield from spurious_kernel_fault(k, addr)",
        ),
        "pair-x86_64-collapse-pmd-spurious-fault",
        "use-after-free-read",
    ),
    Variant(
        "hot-remove, arm64: a table is freed before its entry is cleared",
        ARM64_HOT_REMOVE,
        lines(
            "yield Store(entryp, 0)",
            "yield from flush_tlb_kernel_pgtable(addr, level)",
            "yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))",
            indent=16,
        ),
        lines(
            "yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))",
            "yield Store(entryp, 0)",
            "yield from flush_tlb_kernel_pgtable(addr, level)",
            indent=16,
        ),
        "pair-arm64-hot-remove-ptdump",
        "free-of-linked-table",
    ),
    Variant(
        "hot-remove, arm64: the flush comes after the free",
        ARM64_HOT_REMOVE,
        lines(
            "yield from flush_tlb_kernel_pgtable(addr, level)",
            "yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))",
            indent=16,
        ),
        lines(
            "yield from free_hotplug_pgtable_page(k, pxd_pgtable(entry))",
            "yield from flush_tlb_kernel_pgtable(addr, level)",
            indent=16,
        ),
        "pair-arm64-hot-remove-ptdump",
        "hardware-walk-of-freed-table",
        options=("--tlb",),
    ),
    Variant(
        "hot-remove: tables that are not empty are freed",
        "memory_hotplug.py",
        lines("if not pxd_none(entry):", "    return False", indent=8),
        "",
        "pair-arm64-hot-remove-ptdump",
        "map-over-mapping",
    ),
    Variant(
        "hot-remove: without a destructor",
        ARM64_HOT_REMOVE,
        "destructed=k.mitigation.functions.hot_remove_destructs",
        "destructed=False",
        "pair-arm64-hot-remove-ptdump",
        "missing-destructor",
    ),
    Variant(
        "hot-remove: mem_hotplug_lock is let go before the tables are freed",
        "memory_hotplug.py",
        lines("yield from k.arch.arch_remove_memory(k, start, end)", "yield from mem_hotplug_done(k)"),
        lines("yield from mem_hotplug_done(k)", "yield from k.arch.arch_remove_memory(k, start, end)"),
        "pair-arm64-hot-remove-ptdump",
        "use-after-free-read",
    ),
    Variant(
        "ptdump: without get_online_mems()",
        "memory_hotplug.py",
        lines("yield from down_read(k.cpu, k.mem_hotplug_lock, HOTPLUG_LOCK)"),
        lines("yield from ()"),
        "pair-arm64-hot-remove-ptdump",
        "unlock-without-lock",
    ),
    Variant(
        "vmemmap: memory is allocated under page_table_lock",
        VMEMMAP,
        lines(
            "yield from spin_unlock(k.cpu, k.page_table_lock)",
            "if pxd_leaf(entry):",
            "    ret = yield from vmemmap_split_pmd(k, entryp, entry, addr)",
            indent=8,
        ),
        lines("if pxd_leaf(entry):", "    ret = yield from vmemmap_split_pmd(k, entryp, entry, addr)", indent=8),
        OF_TWO_REMAPS,
        "sleep-in-atomic",
    ),
    Variant(
        "vmemmap: nobody looks whether another CPU was first",
        VMEMMAP,
        lines("pmd = yield Load(pmdp)", "if pxd_leaf(pmd):"),
        lines("if pxd_leaf(pmd):"),
        OF_TWO_REMAPS,
        "leaked-table",
    ),
    Variant(
        "vmemmap: init_mm's lock stays taken",
        VMEMMAP,
        lines("yield from mmap_read_unlock(k, k.init_mm, REMAP)"),
        "",
        OF_TWO_REMAPS,
        "lock-not-released",
    ),
    Variant(
        "attributes, arm64: pgtable_split_lock is let go before the split",
        PAGEATTR,
        lines("yield from mutex_lock(k.cpu, lock)"),
        lines("yield from mutex_lock(k.cpu, lock)", "yield from mutex_unlock(k.cpu, lock)"),
        OF_ARM64_SPLITS,
        "unlock-without-lock",
    ),
    Variant(
        "attributes, arm64: two CPUs split under different locks",
        PAGEATTR,
        "lock = k.arch_data.pgtable_split_lock",
        "lock = k.page_table_lock if k.cpu else k.arch_data.pgtable_split_lock",
        OF_ARM64_SPLITS,
        "leaked-table",
    ),
]


def verified(package: Path, variant: Variant, folder: Path) -> tuple[str, str | None]:
    """Return the verdict and the error of a variant's cell, by the `fuzzvm` that lies beside that package."""
    scenario = variant.scenario
    if isinstance(scenario, dict):
        path = folder / "scenario.toml"
        path.write_text(tomli_w.dumps({"page_size": "4K", "levels": 4, "fanout": 2, **scenario}))
        scenario = str(path)
    command = [sys.executable, "-m", "fuzzvm", "verify", "-m", variant.scheme, "-s", scenario, "--memory"]
    ran = subprocess.run(
        [*command, variant.memory, "--json", *variant.options],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout, ran.stderr
    (run,) = json.loads(ran.stdout)["runs"]
    return run["verdict"], run["bug"]


@pytest.mark.product
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_it_is_caught_by_name(variant: Variant, tmp_path: Path) -> None:
    assert verified(ROOT, variant, tmp_path) == ("safe", None)
    shutil.copytree(ROOT / "fuzzvm", tmp_path / "fuzzvm", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "fuzzvm" / "kernel" / variant.file
    source = changed.read_text(encoding="utf-8")
    assert source.count(variant.old) == 1, "the text of this variant is not there, or more than once"
    changed.write_text(source.replace(variant.old, variant.new), encoding="utf-8")
    assert verified(tmp_path, variant, tmp_path) == ("bug", variant.error)


def test_there_are_twenty() -> None:
    assert len({variant.name for variant in VARIANTS}) >= 20
