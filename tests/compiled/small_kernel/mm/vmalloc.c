/* Maps and unmaps ranges; a block takes the place of a table that has been emptied. */
#include "small.h"

struct static_key huge_vmap_disabled;

static void *alloc_table(void)
{
	/* GFP_KERNEL | __GFP_ZERO */
	struct page *page = alloc_pages_node_noprof(0, 0xdc0, 0);

	if (!page)
		return NULL;
	page->table = 1;
	return page_address(page);
}

static noinline int populate(u64 *entry)
{
	void *table = alloc_table();

	if (!table)
		return -12;
	dmb(ishst);
	set_entry(entry, virt_to_phys(table) | PTE_VALID | PTE_TABLE);
	return 0;
}

static int vmap_pte_range(pmd_t *pmd, u64 addr, u64 end, phys_addr_t phys, pgprot_t prot)
{
	pte_t *pte;

	if (!READ_ONCE(pmd->pmd) && populate(&pmd->pmd))
		return -12;
	pte = pte_offset_kernel(pmd, addr);
	do {
		if (unlikely(READ_ONCE(pte->pte)))
			BUG();
		WRITE_ONCE(pte->pte, phys | prot.pgprot | PTE_VALID | PTE_TABLE);
	} while (pte++, phys += PAGE_SIZE, addr += PAGE_SIZE, addr != end);
	dsb(ishst);
	isb();
	return 0;
}

/* an architecture may have its own */
bool __attribute__((weak)) arch_vmap_pmd_supported(pgprot_t prot)
{
	return 1;
}

static bool vmap_try_huge_pmd(pmd_t *pmd, u64 addr, u64 end, phys_addr_t phys, pgprot_t prot, u32 max_page_shift)
{
	bool done = 0;

	if (static_branch(&huge_vmap_disabled, 0) || !arch_vmap_pmd_supported(prot))
		return 0;
	if (max_page_shift < PMD_SHIFT)
		return 0;
	if (end - addr != PMD_SIZE || ((addr | phys) & (PMD_SIZE - 1)))
		return 0;
	if (!(pmd->pmd & PTE_VALID))
		return pmd_set_huge(pmd, phys, prot);
#ifndef NO_TRYLOCK
	if (!down_read_trylock(&init_mm.mmap_lock))
		return 0;
#endif
	if (pmd_free_pte_page(pmd, addr))
		done = pmd_set_huge(pmd, phys, prot);
#ifndef NO_TRYLOCK
	up_read(&init_mm.mmap_lock);
#endif
	return done;
}

static int vmap_pmd_range(pud_t *pud, u64 addr, u64 end, phys_addr_t phys, pgprot_t prot, u32 max_page_shift)
{
	pmd_t *pmd;
	u64 next;
	int error;

	if (LEVELS > 2 && !READ_ONCE(pud->pud) && populate(&pud->pud))
		return -12;
	pmd = pmd_offset(pud, addr);
	do {
		next = addr_end(addr, end, PMD_SIZE);
		if (vmap_try_huge_pmd(pmd, addr, next, phys, prot, max_page_shift))
			continue;
		error = vmap_pte_range(pmd, addr, next, phys, prot);
		if (error)
			return error;
	} while (pmd++, phys += next - addr, addr = next, addr != end);
	return 0;
}

static bool vmap_try_huge_pud(pud_t *pud, u64 addr, u64 end, phys_addr_t phys, pgprot_t prot, u32 max_page_shift)
{
	bool done = 0;

	if (LEVELS <= 2 || max_page_shift < PUD_SHIFT || end - addr != PUD_SIZE || ((addr | phys) & (PUD_SIZE - 1)))
		return 0;
	if (!(pud->pud & PTE_VALID))
		return pud_set_huge(pud, phys, prot);
#ifndef NO_TRYLOCK
	if (!down_read_trylock(&init_mm.mmap_lock))
		return 0;
#endif
	if (pud_free_pmd_page(pud, addr))
		done = pud_set_huge(pud, phys, prot);
#ifndef NO_TRYLOCK
	up_read(&init_mm.mmap_lock);
#endif
	return done;
}

int vmap_range_noflush(u64 addr, u64 end, phys_addr_t phys, pgprot_t prot, u32 max_page_shift)
{
	pgd_t *pgd = pgd_offset(&init_mm, addr);
	u64 next, after;
	pud_t *pud;
	int error;

	if (WARN_ON(addr >= end))
		return -22;
	do {
		next = addr_end(addr, end, PGDIR_SIZE);
		if (LEVELS > 3 && !READ_ONCE(pgd->pgd) && populate(&pgd->pgd))
			return -12;
		pud = pud_offset(pgd, addr);
		do {
			after = addr_end(addr, next, PUD_SIZE);
			if (vmap_try_huge_pud(pud, addr, after, phys, prot, max_page_shift))
				continue;
			error = vmap_pmd_range(pud, addr, after, phys, prot, max_page_shift);
			if (error)
				return error;
		} while (pud++, phys += after - addr, addr = after, addr != next);
	} while (pgd++, addr != end);
	return 0;
}

int vmap_page_range(u64 addr, u64 end, phys_addr_t phys, pgprot_t prot)
{
	return vmap_range_noflush(addr, end, phys, prot, 63);
}

static void vunmap_pmd_range(pud_t *pud, u64 addr, u64 end)
{
	pmd_t *pmd = pmd_offset(pud, addr);
	pte_t *pte;
	u64 next;

	do {
		next = addr_end(addr, end, PMD_SIZE);
		if (!is_table(READ_ONCE(pmd->pmd))) {
			if (READ_ONCE(pmd->pmd))
				set_entry(&pmd->pmd, 0);
			continue;
		}
		pte = pte_offset_kernel(pmd, addr);
		do
			WRITE_ONCE(pte->pte, 0);
		while (pte++, addr += PAGE_SIZE, addr != next);
	} while (pmd++, addr = next, addr != end);
}

void vunmap_range(u64 addr, u64 end)
{
	u64 start = addr, next, after;
	pgd_t *pgd = pgd_offset(&init_mm, addr);
	pud_t *pud;

	do {
		next = addr_end(addr, end, PGDIR_SIZE);
		if (LEVELS > 3 && !READ_ONCE(pgd->pgd))
			continue;
		pud = pud_offset(pgd, addr);
		do {
			after = addr_end(addr, next, PUD_SIZE);
			if (LEVELS <= 2 || is_table(READ_ONCE(pud->pud)))
				vunmap_pmd_range(pud, addr, after);
			else if (READ_ONCE(pud->pud))
				set_entry(&pud->pud, 0);
		} while (pud++, addr = after, addr != next);
	} while (pgd++, addr = next, addr != end);
	flush_tlb_kernel_range(start, end);
}

/* Walks as a reader of /proc/kcore does: without a lock. */
struct page *vmalloc_to_page(const void *va)
{
	u64 addr = (u64)va;
	pgd_t *pgd = pgd_offset(&init_mm, addr);
	pud_t *pud;
	pmd_t *pmd;
	u64 entry;

	if (LEVELS > 3 && !READ_ONCE(pgd->pgd))
		return NULL;
	pud = pud_offset(pgd, addr);
	if (LEVELS > 2 && !is_table(READ_ONCE(pud->pud)))
		return NULL;
	pmd = pmd_offset(pud, addr);
	entry = READ_ONCE(pmd->pmd);
	if (!is_table(entry))
		return entry ? virt_to_page(phys_to_virt(entry & PTE_ADDRESS)) + ((addr & (PMD_SIZE - 1)) >> PAGE_SHIFT) : NULL;
	entry = READ_ONCE(pte_offset_kernel(pmd, addr)->pte);
	return entry & PTE_VALID ? virt_to_page(phys_to_virt(entry & PTE_ADDRESS)) : NULL;
}
