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
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "calls.h"

#define CPUS 8

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

static int do_reserved(unsigned long phys, unsigned long bytes)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	phys_addr_t start, size;

	if (reserve_mem_find_by_name("fuzzvm", &start, &size) && start == phys && size == bytes)
		return 0;
#endif
	return -ENXIO;
}

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
