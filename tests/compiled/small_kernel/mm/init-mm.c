#include "small.h"

struct mm_struct init_mm = {
	.pgd = swapper_pg_dir,
	.mmap_lock = { .wait_list = { &init_mm.mmap_lock.wait_list, &init_mm.mmap_lock.wait_list } },
};
