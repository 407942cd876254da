/* Walks page tables, and calls a function for each entry. */
#include "small.h"

static int walk_pte_range(pmd_t *pmd, u64 addr, u64 end, struct mm_walk *walk)
{
	pte_t *pte = pte_offset_kernel(pmd, addr);
	int error = 0;

	do {
		error = walk->ops->pte_entry(pte, addr, addr + PAGE_SIZE, walk);
		if (error)
			break;
	} while (pte++, addr += PAGE_SIZE, addr != end);
	return error;
}

static int walk_pmd_range(pud_t *pud, u64 addr, u64 end, struct mm_walk *walk)
{
	pmd_t *pmd = pmd_offset(pud, addr);
	u64 next;
	int error;

	do {
		next = addr_end(addr, end, PMD_SIZE);
		if (!READ_ONCE(pmd->pmd)) {
			error = walk->ops->pte_hole(addr, next, LEVEL_PMD, walk);
		} else {
			error = walk->ops->pmd_entry(pmd, addr, next, walk);
			if (!error && is_table(READ_ONCE(pmd->pmd)))
				error = walk_pte_range(pmd, addr, next, walk);
		}
		if (error)
			return error;
	} while (pmd++, addr = next, addr != end);
	return 0;
}

static int walk_pud_range(pgd_t *pgd, u64 addr, u64 end, struct mm_walk *walk)
{
	pud_t *pud = pud_offset(pgd, addr);
	u64 next;
	int error;

	do {
		next = addr_end(addr, end, PUD_SIZE);
		if (LEVELS > 2 && !READ_ONCE(pud->pud)) {
			error = walk->ops->pte_hole(addr, next, LEVEL_PUD, walk);
		} else {
			error = walk->ops->pud_entry(pud, addr, next, walk);
			if (!error && (LEVELS <= 2 || is_table(READ_ONCE(pud->pud))))
				error = walk_pmd_range(pud, addr, next, walk);
		}
		if (error)
			return error;
	} while (pud++, addr = next, addr != end);
	return 0;
}

int walk_page_range_debug(struct mm_struct *mm, u64 addr, u64 end, const struct mm_walk_ops *ops, void *private)
{
	struct mm_walk walk = { .ops = ops, .mm = mm, .private = private };
	pgd_t *pgd = pgd_offset(mm, addr);
	u64 next;
	int error;

	/* nobody may walk without the lock; -2 are the bits of readers */
	if (WARN_ON(!READ_ONCE(mm->mmap_lock.count.counter)))
		return -22;
	do {
		next = addr_end(addr, end, PGDIR_SIZE);
		if (LEVELS > 3 && !READ_ONCE(pgd->pgd))
			error = ops->pte_hole(addr, next, LEVEL_PGD, &walk);
		else
			error = walk_pud_range(pgd, addr, next, &walk);
		if (error)
			return error;
	} while (pgd++, addr = next, addr != end);
	return 0;
}
