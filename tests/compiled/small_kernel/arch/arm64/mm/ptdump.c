/* What is done with each entry of a dump. */
#include "dump.h"

static void note_page_wx(struct ptdump_state *state, u64 addr, int level, u64 value)
{
	struct dump *dump = (struct dump *)state;

	/* valid, and neither read-only nor never executed */
	if ((value & (PTE_VALID | 1ul << 7 | 1ul << 53)) == PTE_VALID)
		dump->wx = 1;
}

void ptdump_walk(void)
{
	struct dump dump = { .state = { note_page, ranges }, .level = LEVEL_NONE };

	ptdump_walk_pgd(&dump.state, &init_mm);
}

bool ptdump_check_wx(void)
{
	struct dump dump = { .state = { note_page_wx, ranges }, .level = LEVEL_NONE };

	ptdump_walk_pgd(&dump.state, &init_mm);
	return !dump.wx;
}
