/* A dump as text: entries that are alike are one line. */
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
