/* What is done with each entry of a dump. */
#include "small.h"

static const struct ptdump_range ranges[] = {
	{ -(1ul << (VA_BITS - 1)), 0 },
	{ 0, 0 },
};

struct dump {
	struct ptdump_state state;
	u64 start, value;
	int level;
	bool wx;
};

static void note_page(struct ptdump_state *state, u64 addr, int level, u64 value)
{
	struct dump *dump = (struct dump *)state;

	if (level == dump->level && value == dump->value)
		return;
	if (dump->level != LEVEL_NONE)
		_printk("%lx %d %lx", dump->start, dump->level, dump->value);
	dump->start = addr;
	dump->level = level;
	dump->value = value;
}

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
