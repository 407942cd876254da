/* Sets blocks, and frees the tables that they replace. */
#include "small.h"

int debug_level;

static inline void flush_tlb_kernel_pgtable(u64 addr)
{
	u64 operand = addr >> 12 & ((1ul << 44) - 1);

	dsb(ishst);
	asm volatile("tlbi vaae1is, %0" :: "r"(operand));
	dsb(ish);
	isb();
}

void flush_tlb_kernel_range(u64 start, u64 end)
{
	dsb(ishst);
	if (end - start >= PMD_SIZE)
		asm volatile("tlbi vmalle1is");
	else
		for (; start != end; start += PAGE_SIZE)
			asm volatile("tlbi vaale1is, %0" :: "r"(start >> 12 & ((1ul << 44) - 1)));
	dsb(ish);
	isb();
}

int pmd_set_huge(pmd_t *pmd, phys_addr_t phys, pgprot_t prot)
{
	prot.pgprot &= ~PTE_TABLE;
	set_entry(&pmd->pmd, phys | prot.pgprot | PTE_VALID);
	return 1;
}

int pud_set_huge(pud_t *pud, phys_addr_t phys, pgprot_t prot)
{
	prot.pgprot &= ~PTE_TABLE;
	set_entry(&pud->pud, phys | prot.pgprot | PTE_VALID);
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
	pte_t *table;

	if (!is_table(READ_ONCE(pmd->pmd))) {
		__warn_printk("no table");
		return 1;
	}
	table = pte_offset_kernel(pmd, addr);
	WRITE_ONCE(pmd->pmd, 0);
	flush_tlb_kernel_pgtable(addr);
	free_table(table);
	return 1;
}

int pud_free_pmd_page(pud_t *pud, u64 addr)
{
	pmd_t *table = pmd_offset(pud, addr), *pmd = table;
	u64 next = addr, end = addr + PUD_SIZE;

	do {
		if (READ_ONCE(pmd->pmd) & PTE_VALID)
			pmd_free_pte_page(pmd, next);
	} while (pmd++, next += PMD_SIZE, next != end);
	WRITE_ONCE(pud->pud, 0);
	flush_tlb_kernel_pgtable(addr);
	free_table(table);
	return 1;
}

/* Its code is written at boot by a function that is not known to anybody. */
u64 written_at_boot(u64 argument)
{
	asm volatile(ALTERNATIVE_CALLBACK("nop", HAS_WRITTEN, "write_at_boot"));
	return argument;
}

/* Data between instructions, and an instruction that may fault. */
u64 data_in_text(u64 *from)
{
	u64 value;

	asm volatile("b 1f\n\t.word 0xdeadbeef\n1: ldr %0, [%1]\n2:\n"
		     ".pushsection __ex_table,\"a\"\n.align 2\n.long 1b - .\n.long 2b - .\n.short 0\n.short 0\n.popsection"
		     : "=r"(value) : "r"(from) : "memory");
	return value;
}

/* One alternative of each form whose new code depends on where it stands. */
u64 alternative_forms(u64 argument)
{
	u64 result = argument;

	asm volatile(ALTERNATIVE("nop\n\tnop", "adrp %0, memstart_addr\n\tadd %0, %0, :lo12:memstart_addr", HAS_OTHER)
		     : "+r"(result));
	asm volatile(ALTERNATIVE("nop\n\tnop", "cbz %0, 665f\n\tbl pmd_set_huge\n665:", HAS_OTHER) :: "r"(argument)
		     : "x30", "memory");
	return result;
}
