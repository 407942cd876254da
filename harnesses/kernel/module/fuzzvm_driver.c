// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * Makes the kernel calls of a scenario from user space, one a write to /sys/kernel/debug/fuzzvm:
 *
 *	area START BYTES                 reserve [START, START + BYTES) of the vmalloc area
 *	release                          unmap and give back the area reserved last
 *	vmap ADDR BYTES PHYS CHUNK PROT  map it, CHUNK bytes a call: no entry is larger than that
 *	vunmap ADDR BYTES                unmap it, leave the tables
 *	set_memory_ro ADDR PAGES         change what is mapped there (x86_64)
 *	set_memory_rox ADDR PAGES        likewise, and let it be collapsed into blocks
 *	reserved PHYS BYTES              fail if the memory set aside at boot is not that
 *	device PHYS BYTES                add memory as a device's driver does: memremap_pages()
 *	device_fails PHYS BYTES          likewise, where adding it must fail
 *	undevice PHYS                    take out what was added there: memunmap_pages()
 *	shadow ADDR BYTES                add KASAN's shadow of memory that is not there: kasan_add_zero_shadow()
 *	unshadow ADDR BYTES              take it away: kasan_remove_zero_shadow(), with no lock held
 *	vmalloc SLOT BYTES               allocate, remember as SLOT
 *	vmalloc_huge SLOT BYTES          likewise, by blocks where possible
 *	vfree SLOT
 *	vm_unmap_aliases
 *	park                             wait where the debugger finds this CPU, until it moves the program counter on
 *
 * The kernel is not relocated: the addresses in the module's parameters are those of System.map. Each call that fails
 * returns its error from the write.
 */
#include <linux/debugfs.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "calls.h"

#define CPUS 8
#define DEVICES 4

static unsigned long kasan_add_zero_shadow_at, kasan_remove_zero_shadow_at;
module_param(kasan_add_zero_shadow_at, ulong, 0);
module_param(kasan_remove_zero_shadow_at, ulong, 0);

void fuzzvm_gate(void);

#ifdef CONFIG_PREEMPTION
/* of each CPU, where it is counted how often preemption is disabled: the debugger adds to that of a parked one */
static void *preempt_counts[CPUS];
#define PREEMPT_COUNTS ((unsigned long)preempt_counts)

static void *preempt_count_here(void)
{
#if defined(CONFIG_ARM64)
	return &current_thread_info()->preempt.count;
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
	return &this_cpu_ptr(&pcpu_hot)->preempt_count;
#else
	return (void *)this_cpu_ptr(&__preempt_count);
#endif
}
#else
#define PREEMPT_COUNTS 0UL
#endif

/* the debugger finds this CPU there; only what is pinned to one CPU comes here */
static void park(void)
{
#ifdef CONFIG_PREEMPTION
	unsigned int cpu = get_cpu();

	if (cpu < CPUS)
		preempt_counts[cpu] = preempt_count_here();
	put_cpu();
#endif
	fuzzvm_gate();
}

/*
 * A jump to itself, interrupts on: the debugger moves the program counter past it when the CPU is to go on. The nop
 * before it is where the debugger sees a CPU arrive, and not those that are there already.
 */
asm(".pushsection .text\n"
    ".globl fuzzvm_gate\n"
    ".type fuzzvm_gate, @function\n"
    "fuzzvm_gate:\n"
    "	nop\n"
#ifdef CONFIG_X86_64
    "	.byte 0xeb, 0xfe\n"
#else
    "	b .\n"
#endif
    "	ret\n"
    ".size fuzzvm_gate, . - fuzzvm_gate\n"
    ".popsection\n");

static int do_shadow(unsigned long addr, unsigned long bytes)
{
	if (!kasan_add_zero_shadow_at || !kasan_remove_zero_shadow_at)
		return -EOPNOTSUPP;
	return ((int (*)(void *, unsigned long))kasan_add_zero_shadow_at)((void *)addr, bytes);
}

static int do_reserved(unsigned long phys, unsigned long bytes)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	phys_addr_t start, size;

	if (reserve_mem_find_by_name("fuzzvm", &start, &size) && start == phys && size == bytes)
		return 0;
#endif
	return -ENXIO;
}

#ifdef CONFIG_ZONE_DEVICE
static struct dev_pagemap devices[DEVICES];

/* the one that begins there; of 0, one that is free */
static struct dev_pagemap *device_at(unsigned long phys)
{
	for (int i = 0; i < DEVICES; i++)
		if (devices[i].range.start == phys)
			return &devices[i];
	return NULL;
}

static int do_device(unsigned long phys, unsigned long bytes)
{
	struct dev_pagemap *device = device_at(0);
	void *map;

	if (!phys || !bytes || !device || device_at(phys))
		return -EINVAL;
	device->type = MEMORY_DEVICE_GENERIC;
	device->range.start = phys;
	device->range.end = phys + bytes - 1;
	device->nr_range = 1;
	map = memremap_pages(device, NUMA_NO_NODE);
	if (!IS_ERR(map))
		return 0;
	memset(device, 0, sizeof(*device));
	return PTR_ERR(map);
}

static int do_undevice(unsigned long phys)
{
	struct dev_pagemap *device = device_at(phys);

	if (!phys || !device)
		return -EINVAL;
	memunmap_pages(device);
	memset(device, 0, sizeof(*device));
	return 0;
}
#else
static int do_device(unsigned long phys, unsigned long bytes)
{
	return -EOPNOTSUPP;
}

static int do_undevice(unsigned long phys)
{
	return -EOPNOTSUPP;
}
#endif

static int run(char *line)
{
	unsigned long a, b, c, d;
	unsigned int slot;
	char call[20], prot[8];

	if (sscanf(line, "%19s", call) != 1)
		return -EINVAL;
	if (!strcmp(call, "park")) {
		park();
		return 0;
	}
	if (!strcmp(call, "vm_unmap_aliases")) {
		vm_unmap_aliases();
		return 0;
	}
	if (!strcmp(call, "release")) {
		if (!reserved)
			return -EINVAL;
		free_vm_area(reserved);
		reserved = NULL;
		return 0;
	}
	if (sscanf(line, "area %lx %lx", &a, &b) == 2)
		/* VM_IOREMAP would ask for an alignment that START has anyway */
		return do_area(a, a + b + PAGE_SIZE, b);
	if (sscanf(line, "vmap %lx %lx %lx %lx %7s", &a, &b, &c, &d, prot) == 5)
		return do_vmap(a, b, c, d, prot);
	if (sscanf(line, "vunmap %lx %lx", &a, &b) == 2) {
		do_vunmap(a, b);
		return 0;
	}
	if (sscanf(line, "set_memory_rox %lx %lx", &a, &b) == 2)
		return do_set_memory(set_memory_rox_at, a, b);
	if (sscanf(line, "set_memory_ro %lx %lx", &a, &b) == 2)
		return do_set_memory(set_memory_ro_at, a, b);
	if (sscanf(line, "reserved %lx %lx", &a, &b) == 2)
		return do_reserved(a, b);
	if (sscanf(line, "device %lx %lx", &a, &b) == 2)
		return do_device(a, b);
	if (sscanf(line, "device_fails %lx %lx", &a, &b) == 2)
		return do_device(a, b) ? 0 : -EEXIST;
	if (sscanf(line, "undevice %lx", &a) == 1)
		return do_undevice(a);
	if (sscanf(line, "shadow %lx %lx", &a, &b) == 2)
		return do_shadow(a, b);
	if (sscanf(line, "unshadow %lx %lx", &a, &b) == 2) {
		((void (*)(void *, unsigned long))kasan_remove_zero_shadow_at)((void *)a, b);
		return 0;
	}
	if (sscanf(line, "vfree %u", &slot) == 1 && slot < SLOTS) {
		do_vfree(slot);
		return 0;
	}
	if (sscanf(line, "vmalloc_huge %u %lx", &slot, &a) == 2 || sscanf(line, "vmalloc %u %lx", &slot, &a) == 2)
		return slot < SLOTS ? do_vmalloc(slot, a, !strcmp(call, "vmalloc_huge")) : -EINVAL;
	return -EINVAL;
}

static ssize_t driver_write(struct file *file, const char __user *from, size_t length, loff_t *offset)
{
	char line[128];
	int err;

	if (length >= sizeof(line) || copy_from_user(line, from, length))
		return -EINVAL;
	line[length] = '\0';
	err = run(line);
	return err ? err : length;
}

/* the slots, a line each: number, address, bytes */
static ssize_t driver_read(struct file *file, char __user *to, size_t length, loff_t *offset)
{
	char text[SLOTS * 48];
	int used = 0, slot;

	for (slot = 0; slot < SLOTS; slot++)
		if (slots[slot])
			used += scnprintf(text + used, sizeof(text) - used, "%d %lx %lx\n", slot, (unsigned long)slots[slot],
					  sizes[slot]);
	return simple_read_from_buffer(to, length, offset, text, used);
}

static const struct file_operations driver_operations = {
	.owner = THIS_MODULE,
	.read = driver_read,
	.write = driver_write,
};

static struct dentry *driver_file;

static int __init fuzzvm_init(void)
{
	driver_file = debugfs_create_file("fuzzvm", 0600, NULL, NULL, &driver_operations);
	pr_info("fuzzvm: gate %lx %lx\n", (unsigned long)fuzzvm_gate, PREEMPT_COUNTS);
	return PTR_ERR_OR_ZERO(driver_file);
}

static void __exit fuzzvm_exit(void)
{
	debugfs_remove(driver_file);
}

module_init(fuzzvm_init);
module_exit(fuzzvm_exit);
MODULE_DESCRIPTION("kernel calls of a scenario, one a write");
MODULE_LICENSE("Dual MIT/GPL");
