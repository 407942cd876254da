"""The small kernel as near to Linux 7.3 as the model is, and variants of it that are wrong in several ways each."""

from __future__ import annotations

from tests.compiled.run.mutations import DUMP, MMU, PMD_CLEAR, RELAXED, RWSEM, VMALLOC, WALK, Edit, Mutant

ASSERTION = """\
static inline bool rwsem_assert_held_write_nolockdep(struct rw_semaphore *sem)
{
	return READ_ONCE(sem->count.counter) & 1;
}

"""
AS_7_3: tuple[Edit, ...] = (
    # the small kernel's own static key
    (VMALLOC, "static_branch(&huge_vmap_disabled, 0) || ", ""),
    # an assertion that is called as the kernel's
    (
        WALK,
        "int walk_page_range_debug(",
        f"{ASSERTION}int walk_page_range_debug(",
    ),
    (WALK, "!READ_ONCE(mm->mmap_lock.count.counter)", "!rwsem_assert_held_write_nolockdep(&mm->mmap_lock)"),
    # an entry of the root is read before what is below it, and a block is not looked at again (ACTION_CONTINUE)
    (WALK, "if (LEVELS > 3 && !READ_ONCE(pgd->pgd))", "if (!READ_ONCE(pgd->pgd))"),
    (
        WALK,
        "\t\t\tif (!error && is_table(READ_ONCE(pmd->pmd)))",
        "\t\t\tif (error == 1)\n\t\t\t\terror = 0;\n\t\t\telse if (!error && is_table(READ_ONCE(pmd->pmd)))",
    ),
    (
        DUMP,
        "\t\tnote(walk, addr, LEVEL_PMD, value);\n\treturn 0;",
        "\t\tnote(walk, addr, LEVEL_PMD, value);\n\treturn !is_table(value);",
    ),
)
WRONG: tuple[Edit, ...] = (
    # a load twice
    (
        DUMP,
        "\tnote(walk, addr, LEVEL_PTE, READ_ONCE(pte->pte));",
        "\tREAD_ONCE(pte->pte);\n\tnote(walk, addr, LEVEL_PTE, READ_ONCE(pte->pte));",
    ),
    # a barrier removed
    (MMU, '"tlbi vaae1is, %0" :: "r"(operand));\n\tdsb(ish);\n', '"tlbi vaae1is, %0" :: "r"(operand));\n'),
    # an order swapped
    (MMU, PMD_CLEAR, "\tflush_tlb_kernel_pgtable(addr);\n\tWRITE_ONCE(pmd->pmd, 0);\n"),
    # a release gone
    RELAXED,
    (RWSEM, "add_return_release(&sem->count.counter, -R", "add_return_relaxed(&sem->count.counter, -R"),
)


def files(*edits: Edit) -> dict[str, tuple[str, str]]:
    """Return edits as `small.build_image` takes them."""
    return Mutant("", (*AS_7_3, *edits), {}).files()
