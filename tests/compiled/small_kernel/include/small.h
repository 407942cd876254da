/* What the files of the small kernel share. Names, structures and tables are called as the kernel calls them. */
#pragma once

typedef unsigned long u64;
typedef long s64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char bool;
typedef u64 phys_addr_t;

#define NULL ((void *)0)
#define inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() asm volatile("" ::: "memory")
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* Geometry: -DPAGE_SHIFT and -DLEVELS are given. */
#define PAGE_SIZE (1ul << PAGE_SHIFT)
#define TABLE_SHIFT (PAGE_SHIFT - 3)
#define PTRS_PER_TABLE (1ul << TABLE_SHIFT)
#define VA_BITS (PAGE_SHIFT + TABLE_SHIFT * LEVELS > 48 ? 48 : PAGE_SHIFT + TABLE_SHIFT * LEVELS)
#define PMD_SHIFT (PAGE_SHIFT + TABLE_SHIFT)
#define PUD_SHIFT (PMD_SHIFT + (LEVELS > 2 ? TABLE_SHIFT : 0))
#define PGDIR_SHIFT (PUD_SHIFT + (LEVELS > 3 ? TABLE_SHIFT : 0))
#define PMD_SIZE (1ul << PMD_SHIFT)
#define PUD_SIZE (1ul << PUD_SHIFT)
#define PGDIR_SIZE (1ul << PGDIR_SHIFT)
#define PTRS_PER_PGD (1ul << (VA_BITS - PGDIR_SHIFT))

/* Entries: bit 0 valid, bit 1 a table or a page; on x86_64 that it can be written. */
typedef struct { u64 pte; } pte_t;
typedef struct { u64 pmd; } pmd_t;
typedef struct { u64 pud; } pud_t;
typedef struct { u64 pgd; } pgd_t;
typedef struct { u64 pgprot; } pgprot_t;
#define PTE_VALID 1ul
#define PTE_TABLE 2ul
#define PTE_ADDRESS (((1ul << 48) - 1) & -PAGE_SIZE)

struct list_head {
	struct list_head *next, *prev;
};

struct page {
	u64 flags;
	union {
		struct list_head lru;
		struct {
			u64 private_data;
			u32 order : 8, table : 1;
		};
	};
	u32 refcount;
	u32 page_type;
	u64 unused[4];
};

typedef struct { s64 counter; } atomic_long_t;

struct rw_semaphore {
	atomic_long_t count;
	atomic_long_t owner;
	u32 wait_lock;
	struct list_head wait_list;
};

struct mm_struct {
	pgd_t *pgd;
	u64 flags;
	struct rw_semaphore mmap_lock;
};

struct task_struct {
	u64 flags;
	u32 preempt_count;
	u32 unused;
};

extern struct mm_struct init_mm;
extern pgd_t swapper_pg_dir[];
extern int debug_level;

/* What another part of a kernel has. */
struct page *alloc_pages_node_noprof(int nid, u32 gfp, u32 order);
void __free_pages(struct page *page, u32 order);
int _printk(const char *text, ...);
void __warn_printk(const char *text, ...);
void _raw_spin_lock(u32 *lock);
void _raw_spin_unlock(u32 *lock);
void *memset(void *to, int byte, u64 size);
struct rw_semaphore *rwsem_down_write_slowpath(struct rw_semaphore *sem);
void rwsem_wake(struct rw_semaphore *sem);

/* The table of bugs. */
struct bug_entry {
	int bug_addr_disp;
	int file_disp;
	u16 line;
	u16 flags;
};
#define BUG() do { BUG_AT(0); __builtin_unreachable(); } while (0)
#define WARN_ON(condition) ({ bool warned = !!(condition); if (unlikely(warned)) BUG_AT(1); warned; })

/* Static keys: a table of code, target, and key with the branch in bit 0. */
struct static_key {
	int enabled;
	u64 entries;
};
/* What differs by architecture. */
#ifdef __x86_64__
#include "x86.h"
#else
#define dsb(domain) asm volatile("dsb " #domain ::: "memory")
#define dmb(domain) asm volatile("dmb " #domain ::: "memory")
#define isb() asm volatile("isb" ::: "memory")
#define PAGE_OFFSET (-(1ul << VA_BITS))
#define VMEMMAP_START (-(1ul << 30) - (1ul << (VA_BITS - 1 - PAGE_SHIFT + 6)))
extern s64 memstart_addr;

static inline bool is_table(u64 entry) { return (entry & 3) == (PTE_VALID | PTE_TABLE); }
static inline struct task_struct *get_current(void)
{
	struct task_struct *task;

	asm("mrs %0, sp_el0" : "=r"(task));
	return task;
}
static inline void *phys_to_virt(phys_addr_t phys) { return (void *)((phys - memstart_addr) | PAGE_OFFSET); }
static inline phys_addr_t virt_to_phys(const void *va) { return ((u64)va & ~PAGE_OFFSET) + memstart_addr; }
static inline struct page *virt_to_page(const void *va)
{
	return (struct page *)VMEMMAP_START + (((u64)va - PAGE_OFFSET) >> PAGE_SHIFT);
}
static inline void *page_address(const struct page *page)
{
	return (void *)PAGE_OFFSET + ((page - (const struct page *)VMEMMAP_START) << PAGE_SHIFT);
}
#define BUG_AT(flags) \
	asm volatile(".pushsection .rodata.str,\"aMS\",%%progbits,1\n14472: .string \"" SMALL_FILE "\"\n.popsection\n" \
		     ".pushsection __bug_table,\"aw\"\n.align 2\n" \
		     "14470: .long 14471f - .\n.long 14472b - .\n.short %c0\n.short %c1\n.popsection\n" \
		     "14471: brk #0x800" :: "i"(__LINE__), "i"(flags))

/* Alternatives: a table of original, replacement, capability, lengths. */
#define ALTERNATIVE_ENTRY(replacement, capability) \
	".pushsection .altinstructions,\"a\"\n.word 661b - .\n.word " replacement " - .\n.hword " capability "\n" \
	".byte 662b - 661b\n.byte 664f - 663f\n.popsection\n"
#define ALTERNATIVE(old, new, capability) \
	"661: " old "\n662:\n" ALTERNATIVE_ENTRY("663f", capability) ".subsection 1\n663: " new "\n664:\n.previous\n"
#define ALTERNATIVE_CALLBACK(old, capability, callback) \
	"661: " old "\n662:\n" ALTERNATIVE_ENTRY(callback, "(1 << 15) | " capability) "663:\n664:\n"
#define HAS_LSE_ATOMICS "2"
#define HAS_OTHER "3"
#define HAS_WRITTEN "4"

static inline bool has_lse_atomics(void)
{
	asm goto(ALTERNATIVE_CALLBACK("b %l[no]", HAS_LSE_ATOMICS, "alt_cb_patch_nops") :::: no);
	return 1;
no:
	return 0;
}

static inline bool static_branch(struct static_key *const key, const bool branch)
{
	asm goto("1: nop\n.pushsection __jump_table,\"aw\"\n.align 3\n"
		 ".long 1b - ., %l[yes] - .\n.quad %c0 - .\n.popsection\n" :: "i"(&((char *)key)[branch]) :: yes);
	return 0;
yes:
	return 1;
}
#endif

extern struct static_key huge_vmap_disabled;

/* Locks. */
void down_write(struct rw_semaphore *sem);
void up_write(struct rw_semaphore *sem);
bool down_read_trylock(struct rw_semaphore *sem);
void up_read(struct rw_semaphore *sem);

/* Tables. */
static inline pgd_t *pgd_offset(struct mm_struct *mm, u64 addr)
{
	return mm->pgd + ((addr >> PGDIR_SHIFT) & (PTRS_PER_PGD - 1));
}
static inline pud_t *pud_offset(pgd_t *pgd, u64 addr)
{
	if (LEVELS <= 3)
		return (pud_t *)pgd;
	return (pud_t *)phys_to_virt(READ_ONCE(pgd->pgd) & PTE_ADDRESS) + ((addr >> PUD_SHIFT) & (PTRS_PER_TABLE - 1));
}
static inline pmd_t *pmd_offset(pud_t *pud, u64 addr)
{
	if (LEVELS <= 2)
		return (pmd_t *)pud;
	return (pmd_t *)phys_to_virt(READ_ONCE(pud->pud) & PTE_ADDRESS) + ((addr >> PMD_SHIFT) & (PTRS_PER_TABLE - 1));
}
static inline pte_t *pte_offset_kernel(pmd_t *pmd, u64 addr)
{
	/* a plain load: the compiler may take the one before */
	return (pte_t *)phys_to_virt(pmd->pmd & PTE_ADDRESS) + ((addr >> PAGE_SHIFT) & (PTRS_PER_TABLE - 1));
}
static inline u64 addr_end(u64 addr, u64 end, u64 size)
{
	u64 next = (addr + size) & -size;

	return next - 1 < end - 1 ? next : end;
}
static inline void set_entry(u64 *entry, u64 value)
{
	WRITE_ONCE(*entry, value);
	dsb(ishst);
	isb();
}

int pmd_set_huge(pmd_t *pmd, phys_addr_t phys, pgprot_t prot);
int pud_set_huge(pud_t *pud, phys_addr_t phys, pgprot_t prot);
int pmd_free_pte_page(pmd_t *pmd, u64 addr);
int pud_free_pmd_page(pud_t *pud, u64 addr);
void flush_tlb_kernel_range(u64 start, u64 end);

/* Walks. */
struct mm_walk {
	const struct mm_walk_ops *ops;
	struct mm_struct *mm;
	void *private;
};
struct mm_walk_ops {
	int (*pgd_entry)(pgd_t *pgd, u64 addr, u64 next, struct mm_walk *walk);
	int (*pud_entry)(pud_t *pud, u64 addr, u64 next, struct mm_walk *walk);
	int (*pmd_entry)(pmd_t *pmd, u64 addr, u64 next, struct mm_walk *walk);
	int (*pte_entry)(pte_t *pte, u64 addr, u64 next, struct mm_walk *walk);
	int (*pte_hole)(u64 addr, u64 next, int depth, struct mm_walk *walk);
};
struct ptdump_range {
	u64 start, end;
};
struct ptdump_state {
	void (*note_page)(struct ptdump_state *state, u64 addr, int level, u64 value);
	const struct ptdump_range *range;
};
enum ptdump_level { LEVEL_PGD, LEVEL_PUD, LEVEL_PMD, LEVEL_PTE, LEVEL_NONE = -1 };

int walk_page_range_debug(struct mm_struct *mm, u64 addr, u64 end, const struct mm_walk_ops *ops, void *private);
void ptdump_walk_pgd(struct ptdump_state *state, struct mm_struct *mm);
