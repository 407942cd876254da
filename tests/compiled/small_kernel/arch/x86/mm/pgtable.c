/* Sets blocks, and frees the tables that they replace. */
#include "small.h"

int debug_level;

int pmd_set_huge(pmd_t *pmd, phys_addr_t phys, pgprot_t prot)
{
	set_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID | PTE_PSE);
	return 1;
}

int pud_set_huge(pud_t *pud, phys_addr_t phys, pgprot_t prot)
{
	set_entry(&pud->pud, phys | prot.pgprot | PTE_VALID | PTE_PSE);
	return 1;
}

static noinline void free_table(void *table)
{
	struct page *page = virt_to_page(table);

	if (WARN_ON(!page->table))
		__warn_printk("not a table");
	page->table = 0;
	__free_pages(page, page->order);
}

int pmd_free_pte_page(pmd_t *pmd, u64 addr)
{
	pte_t *table = pte_offset_kernel(pmd, addr);

	WRITE_ONCE(pmd->pmd, 0);
	flush_tlb_kernel_range(addr, addr + PAGE_SIZE - 1);
	free_table(table);
	return 1;
}

int pud_free_pmd_page(pud_t *pud, u64 addr)
{
	pmd_t *table = pmd_offset(pud, addr);
	int i;

	WRITE_ONCE(pud->pud, 0);
	flush_tlb_kernel_range(addr, addr + PAGE_SIZE - 1);
	for (i = 0; i < PTRS_PER_TABLE; i++)
		if (is_table(table[i].pmd))
			free_table(phys_to_virt(table[i].pmd & PTE_ADDRESS));
	free_table(table);
	return 1;
}

/* An alternative whose new code depends on where it stands, and one for CPUs that lack a feature. */
u64 alternative_forms(u64 argument)
{
	asm volatile(ALTERNATIVE("xor %%eax, %%eax", "movl debug_level(%%rip), %%eax; call pmd_set_huge", "35", "0")
		     ALTERNATIVE("nop", "jmp pud_set_huge", "35", "1") ALTERNATIVE("ud2", "", "21", "0")
		     :: "r"(argument) : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
	return argument;
}

u64 zeros;

/* Two CPUs each write and read what the other writes: one at least sees it, if a full barrier stands between. */
void store_buffering(u64 *mine, u64 *theirs, bool fenced)
{
	u64 one = 1;

	WRITE_ONCE(*mine, 1);
	if (fenced)
		/* smp_mb() */
		asm volatile("lock addl $0, -4(%%rsp)" ::: "memory", "cc");
	if (READ_ONCE(*theirs))
		return;
	asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(zeros) :: "memory", "cc");
	if (one)
		BUG();
}

u64 written[2];
extern u64 not_there;

/* Reads a per-CPU variable that another object has. */
u64 read_per_cpu(void)
{
	u64 value;

	asm volatile("movq %%gs:%1, %0" : "=r"(value) : "m"(not_there));
	return value;
}

/* Reads a flag that the instruction before leaves undefined. */
bool undefined_flag(u64 argument)
{
	bool zero;

	asm volatile("imul $3, %1, %1\n\tsete %0" : "=r"(zero), "+r"(argument) :: "cc");
	return zero;
}
