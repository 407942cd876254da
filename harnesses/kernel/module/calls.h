/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The kernel calls of a scenario. What the kernel does not export to modules comes as addresses in the module's
 * parameters, as /proc/kallsyms and System.map have them.
 */
static unsigned long vmap_page_range_at, vunmap_range_at, get_vm_area_at, set_memory_ro_at, set_memory_rox_at;
module_param(vmap_page_range_at, ulong, 0);
module_param(vunmap_range_at, ulong, 0);
module_param(get_vm_area_at, ulong, 0);
module_param(set_memory_ro_at, ulong, 0);
module_param(set_memory_rox_at, ulong, 0);

#define SLOTS 16

static struct vm_struct *reserved;
static void *slots[SLOTS];
static unsigned long sizes[SLOTS];

static __maybe_unused pgprot_t prot_of(const char *name)
{
	if (!strcmp(name, "ro"))
		return PAGE_KERNEL_RO;
	if (!strcmp(name, "rox"))
		return PAGE_KERNEL_ROX;
	if (!strcmp(name, "rwx"))
		return PAGE_KERNEL_EXEC;
	return PAGE_KERNEL;
}

/* reserve so many bytes of the vmalloc area between two addresses, and a guard page */
static __maybe_unused int do_area(unsigned long first, unsigned long end, unsigned long bytes)
{
	struct vm_struct *(*get_vm_area_caller)(unsigned long, unsigned long, unsigned long, unsigned long,
						const void *) = (void *)get_vm_area_at;

	reserved = get_vm_area_caller(bytes, VM_MAP, first, end, (void *)_RET_IP_);
	return reserved ? 0 : -ENOMEM;
}

/* chunk bytes a call: no entry is larger than that */
static __maybe_unused int do_vmap(unsigned long addr, unsigned long bytes, unsigned long phys, unsigned long chunk,
				  const char *prot)
{
	int (*map)(unsigned long, unsigned long, phys_addr_t, pgprot_t) = (void *)vmap_page_range_at;
	unsigned long end = addr + bytes;
	int err = 0;

	while (addr < end && !err) {
		unsigned long next = min(end, (addr | (chunk - 1)) + 1);

		err = map(addr, next, phys, prot_of(prot));
		phys += next - addr;
		addr = next;
		if (chunk == PAGE_SIZE)
			cond_resched();
	}
	return err;
}

static __maybe_unused void do_vunmap(unsigned long addr, unsigned long bytes)
{
	((void (*)(unsigned long, unsigned long))vunmap_range_at)(addr, addr + bytes);
}

static __maybe_unused int do_set_memory(unsigned long at, unsigned long addr, int pages)
{
	return at ? ((int (*)(unsigned long, int))at)(addr, pages) : -EOPNOTSUPP;
}

static __maybe_unused int do_vmalloc(unsigned int slot, unsigned long bytes, bool huge)
{
	void *p = huge ? vmalloc_huge(bytes, GFP_KERNEL) : vmalloc(bytes);

	if (!p)
		return -ENOMEM;
	slots[slot] = p;
	sizes[slot] = bytes;
	return 0;
}

static __maybe_unused void do_vfree(unsigned int slot)
{
	vfree(slots[slot]);
	slots[slot] = NULL;
}
