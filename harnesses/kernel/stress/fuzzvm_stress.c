// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
@HEADER@
 */
#define pr_fmt(format) KBUILD_MODNAME ": " format

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/instruction_pointer.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

@CALLS@

static unsigned long phys;
module_param(phys, ulong, 0400);
MODULE_PARM_DESC(phys, "physical address of memory to map that nobody else uses; by default it is allocated");

/*
 * The scenario. Its addresses are offsets into an instance, SPAN bytes of the vmalloc area, and into the memory that all
 * instances map. Instances lie side by side: a reader that walks all of them is often in one.
 */
@SCENARIO@

static unsigned int instances = INSTANCES;
module_param(instances, uint, 0400);
MODULE_PARM_DESC(instances, "how often the scenario's range is laid out, one behind the other");
static unsigned long area;
module_param(area, ulong, 0400);
MODULE_PARM_DESC(area, "read only: the address of the first instance");

static struct task_struct *threads[THREADS];
static atomic_t arrived = ATOMIC_INIT(0);

/* wait until every thread has come here as often as this one; false when the module is to go */
static bool meet(int *times)
{
	*times += THREADS;
	atomic_inc(&arrived);
	while (atomic_read(&arrived) - *times < 0) {
		if (kthread_should_stop())
			return false;
		cpu_relax();
		cond_resched();
	}
	return true;
}

static void check(int err, const char *what, unsigned int number)
{
	if (err)
		pr_err_ratelimited("%s %u: error %d\n", what, number, err);
}

/*
 * All instances are set up before the first call: what a call frees is not handed out again before the last one is made,
 * so that a use of it is seen.
 */
static int run(void *data)
{
	unsigned int me = (unsigned long)data, n;
	int times = 0;

	while (!kthread_should_stop()) {
		for (n = 0; !me && n < instances; n++)
			check(setup(area + n * SPAN), "setup of instance", n);
		for (n = 0; n < instances && meet(&times); n++)
			check(calls[me](area + n * SPAN), "calls of thread", me);
		if (!meet(&times))
			break;
		for (n = 0; !me && n < instances; n++)
			undo(area + n * SPAN);
		cond_resched();
	}
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

/* memory that is mapped: its contents are never looked at by the threads */
static int __init find_memory(void)
{
	struct page *page;

	if (!phys && get_order(MEMORY) <= MAX_PAGE_ORDER) {
		/* never given back: a change of attributes is also one of its linear mapping */
		page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, get_order(MEMORY));
		phys = page ? page_to_phys(page) : 0;
	}
	if (phys && IS_ALIGNED(phys, PMD_SIZE) && pfn_valid(PHYS_PFN(phys)) && pfn_valid(PHYS_PFN(phys + MEMORY - 1)))
		return 0;
	pr_err("no memory of %#lx bytes: give phys=, aligned to the largest block\n", (unsigned long)MEMORY);
	return -ENOMEM;
}

static void stop(void)
{
	unsigned int i;

	for (i = 0; i < THREADS; i++)
		if (threads[i])
			kthread_stop(threads[i]);
	for (i = 0; i < instances; i++)
		undo(area + i * SPAN);
	free_vm_area(reserved);
}

static int __init fuzzvm_stress_init(void)
{
	unsigned int i;
	int err;

	if (!vmap_page_range_at || !vunmap_range_at || !get_vm_area_at) {
		pr_err("load it by run.sh, which looks addresses up in /proc/kallsyms\n");
		return -EINVAL;
	}
	for (i = 0; i < THREADS; i++)
		if (!cpu_online(cpus[i])) {
			pr_err("there is no CPU %u\n", cpus[i]);
			return -ENODEV;
		}
	instances = max(instances, 1U);
	err = find_memory();
	if (!err)
		err = do_area(VMALLOC_START, VMALLOC_END, SPAN * (instances + 1));
	if (err)
		return err;
	area = ALIGN((unsigned long)reserved->addr, SPAN);
	for (i = 0; i < THREADS; i++) {
		struct task_struct *thread = kthread_create(run, (void *)(unsigned long)i, KBUILD_MODNAME "/%u", cpus[i]);

		if (IS_ERR(thread)) {
			stop();
			return PTR_ERR(thread);
		}
		kthread_bind(thread, cpus[i]);
		threads[i] = thread;
	}
	pr_info("%u instances of %#lx bytes from %#lx on\n", instances, SPAN, area);
	for (i = 0; i < THREADS; i++)
		wake_up_process(threads[i]);
	return 0;
}

static void __exit fuzzvm_stress_exit(void)
{
	stop();
}

module_init(fuzzvm_stress_init);
module_exit(fuzzvm_stress_exit);
MODULE_DESCRIPTION("the calls of a scenario, on all its CPUs at once, for ever");
MODULE_LICENSE("Dual MIT/GPL");
