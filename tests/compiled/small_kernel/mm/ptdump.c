/* Dumps page tables: what it sees of each entry it hands to note_page. */
#include "small.h"

static inline void note(struct mm_walk *walk, u64 addr, enum ptdump_level level, u64 value)
{
	struct ptdump_state *state = walk->private;

	state->note_page(state, addr, level, value);
}

static int ptdump_pud_entry(pud_t *pud, u64 addr, u64 next, struct mm_walk *walk)
{
	u64 value = READ_ONCE(pud->pud);

	if (LEVELS > 2 && !is_table(value))
		note(walk, addr, LEVEL_PUD, value);
	return 0;
}

static int ptdump_pmd_entry(pmd_t *pmd, u64 addr, u64 next, struct mm_walk *walk)
{
	u64 value = READ_ONCE(pmd->pmd);

	if (!is_table(value))
		note(walk, addr, LEVEL_PMD, value);
	return 0;
}

static int ptdump_pte_entry(pte_t *pte, u64 addr, u64 next, struct mm_walk *walk)
{
	note(walk, addr, LEVEL_PTE, READ_ONCE(pte->pte));
	return 0;
}

static int ptdump_hole(u64 addr, u64 next, int depth, struct mm_walk *walk)
{
	note(walk, addr, depth, 0);
	return 0;
}

static const struct mm_walk_ops ptdump_ops = {
	.pud_entry = ptdump_pud_entry,
	.pmd_entry = ptdump_pmd_entry,
	.pte_entry = ptdump_pte_entry,
	.pte_hole = ptdump_hole,
};

void ptdump_walk_pgd(struct ptdump_state *state, struct mm_struct *mm)
{
	const struct ptdump_range *range = state->range;

	down_write(&mm->mmap_lock);
	while (range->start != range->end) {
		walk_page_range_debug(mm, range->start, range->end, &ptdump_ops, state);
		range++;
	}
	up_write(&mm->mmap_lock);
}
