/* What is done with each entry of a dump. */
#include "dump.h"

void ptdump_walk_pgd_level_debugfs(void *m, struct mm_struct *mm, bool user)
{
	struct dump dump = { .state = { note_page, ranges }, .level = LEVEL_NONE };

	ptdump_walk_pgd(&dump.state, mm);
}

bool ptdump_walk_pgd_level_checkwx(void)
{
	struct dump dump = { .state = { note_page, ranges }, .level = LEVEL_NONE };

	ptdump_walk_pgd(&dump.state, &init_mm);
	return !dump.wx;
}
