/* What small.h has for arm64 only, for x86_64. */
#define dsb(domain) barrier()
#define dmb(domain) barrier()
#define isb() barrier()
#define PAGE_OFFSET 0xffff888000000000ul
#define VMEMMAP_START 0xffffea0000000000ul
#define PTE_PSE (1ul << 7)

extern u64 phys_base;

static inline bool is_table(u64 entry) { return (entry & (PTE_VALID | PTE_PSE)) == PTE_VALID; }

/* Per-CPU variables are relative to gs. */
extern struct task_struct *current_task;
extern u32 __preempt_count;
static inline struct task_struct *get_current(void)
{
	struct task_struct *task;

	asm("movq %%gs:%1, %0" : "=r"(task) : "m"(current_task));
	return task;
}
#define preempt_disable() asm volatile("incl %%gs:%0" : "+m"(__preempt_count) :: "memory")
#define preempt_enable() \
	do { \
		bool zero; \
		asm volatile("decl %%gs:%0" : "+m"(__preempt_count), "=@cce"(zero) :: "memory"); \
		if (unlikely(zero)) \
			asm volatile("push %%rbp; mov %%rsp, %%rbp; call preempt_schedule_thunk; pop %%rbp" ::: "memory"); \
	} while (0)

static inline void *phys_to_virt(phys_addr_t phys) { return (void *)(phys + PAGE_OFFSET); }
static inline phys_addr_t virt_to_phys(const void *va) { return (u64)va - PAGE_OFFSET + phys_base; }
static inline struct page *virt_to_page(const void *va)
{
	return (struct page *)VMEMMAP_START + (((u64)va - PAGE_OFFSET) >> PAGE_SHIFT);
}
static inline void *page_address(const struct page *page)
{
	return (void *)PAGE_OFFSET + ((page - (const struct page *)VMEMMAP_START) << PAGE_SHIFT);
}

#define BUG_AT(flags) \
	asm volatile(".pushsection .rodata.str,\"aMS\",@progbits,1\n14472: .string \"" SMALL_FILE "\"\n.popsection\n" \
		     ".pushsection __bug_table,\"aw\"\n.align 4\n" \
		     "14470: .long 14471f - .\n.long 14472b - .\n.short %c0\n.short %c1\n.popsection\n" \
		     "14471: ud2" :: "i"(__LINE__), "i"(flags))

/* Alternatives: a table of original, replacement, feature, flags, lengths. */
#define ALTERNATIVE(old, new, feature, flags) \
	"661: " old "\n662:\n.skip -(((664f-663f)-(662b-661b)) > 0) * ((664f-663f)-(662b-661b)), 0x90\n665:\n" \
	".pushsection .altinstructions,\"a\"\n.long 661b - .\n.long 663f - .\n.short " feature "\n.short " flags "\n" \
	".byte 665b - 661b\n.byte 664f - 663f\n.popsection\n" \
	".pushsection .altinstr_replacement,\"ax\"\n663: " new "\n664:\n.popsection\n"

static inline bool static_branch(struct static_key *const key, const bool branch)
{
	asm goto("1: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n.pushsection __jump_table,\"aw\"\n.align 8\n"
		 ".long 1b - ., %l[yes] - .\n.quad %c0 - .\n.popsection\n" :: "i"(&((char *)key)[branch]) :: yes);
	return 0;
yes:
	return 1;
}
