/* Static keys; who patches the code is another part of a kernel. */
#include "small.h"

void jump_label_update(struct static_key *key);

/* names the type of the table's entries for readers of the debug information */
struct bug_entry *find_bug(u64 addr, struct bug_entry *from)
{
	while (from->bug_addr_disp && (u64)&from->bug_addr_disp + from->bug_addr_disp != addr)
		from++;
	return from;
}

void static_key_enable(struct static_key *key)
{
	if (READ_ONCE(key->enabled))
		return;
	WRITE_ONCE(key->enabled, 1);
	jump_label_update(key);
}

bool huge_vmap_is_disabled(void)
{
	return !static_branch(&huge_vmap_disabled, 1);
}
