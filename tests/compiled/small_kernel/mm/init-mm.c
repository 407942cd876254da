#include "small.h"

#ifdef __x86_64__
#define swapper_pg_dir init_top_pgt
extern pgd_t init_top_pgt[];
#endif

struct mm_struct init_mm = {
	.pgd = swapper_pg_dir,
	.mmap_lock = { .wait_list = { &init_mm.mmap_lock.wait_list, &init_mm.mmap_lock.wait_list } },
};
