/* A walker that nobody has modelled: at which level an address is mapped, and by what. `--object mm/lookup.o` adds it. */
#include "small.h"

u32 lookup_lock;
u64 lookups;

/* nobody defines these */
u64 account_lookup(u64 addr, u64 *seen);
int count_lookup(u64 *number);

u64 lookup_kernel_address(u64 addr, u32 *level)
{
	pgd_t *pgd = pgd_offset(&init_mm, addr);
	pud_t *pud;
	pmd_t *pmd;

	*level = 0;
	if (LEVELS > 3 && !READ_ONCE(pgd->pgd))
		return 0;
	pud = pud_offset(pgd, addr);
	if (LEVELS > 2 && !is_table(READ_ONCE(pud->pud)))
		return READ_ONCE(pud->pud);
	pmd = pmd_offset(pud, addr);
	*level = 2;
	if (!is_table(READ_ONCE(pmd->pmd)))
		return READ_ONCE(pmd->pmd);
	*level = 1;
	/* the entry is read a second time, and may be another one */
	return READ_ONCE(pte_offset_kernel(pmd, addr)->pte);
}

u64 lookup_and_account(u64 addr, u32 *level)
{
	u64 seen = 0, entry = lookup_kernel_address(addr, level);

	if (account_lookup(addr, &seen) != addr >> PAGE_SHIFT || seen != entry)
		BUG();
	return entry;
}

u64 lookup_counted(u64 addr, u32 *level)
{
	u64 number = 0;

	if (count_lookup(&number) || !number || number > READ_ONCE(lookups))
		BUG();
	return lookup_kernel_address(addr, level);
}

void clear_entry(pmd_t *pmd)
{
	set_entry(&pmd->pmd, 0);
}

enum fixed_addresses { FIX_HOLE, __end_of_fixed_addresses };
enum fixed_addresses fixmap_entries = __end_of_fixed_addresses;

/* as tables are changed that the linear map does not have yet */
u64 read_through_fixmap(void)
{
	return READ_ONCE(*(u64 *)(-(1ul << 23) - PAGE_SIZE));
}
