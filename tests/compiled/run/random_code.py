"""C functions drawn at random, in pairs that run beside each other, on a few words and a page that one may free."""

from __future__ import annotations

import random

WORDS = 3
LOCALS = 3
PAGE_WORDS = 2
ARRAY = 24
"""Words of an array of which one function of two reads all, and the other writes all where it meets the first."""

HEAD = f"""
u64 shared_words[{WORDS}];
u64 *shared_page;
u64 outcomes[2];

void random_boot(void)
{{
	struct page *page = alloc_pages_node_noprof(0, 0xdc0, 0);
	u64 *words = page_address(page);

	words[0] = 5;
	shared_words[1] = 3;
	shared_page = words;
}}

static inline u64 load_acquire(u64 *from)
{{
	u64 value;

	asm volatile("ldar %0, %1" : "=r"(value) : "Q"(*from) : "memory");
	return value;
}}

static inline void store_release(u64 *to, u64 value)
{{
	asm volatile("stlr %1, %0" : "=Q"(*to) : "r"(value) : "memory");
}}

static inline u64 add(u64 *to, u64 amount)
{{
	u64 old;

	asm volatile(".arch_extension lse\\n\\tldadd %2, %0, %1" : "=r"(old), "+Q"(*to) : "r"(amount) : "memory");
	return old;
}}

static inline void leave(int cpu, u64 value)
{{
	store_release(&outcomes[cpu], value);
}}

u64 array[{ARRAY}];
u64 array_busy;

void fill_array(void)
{{
	if (load_acquire(&array_busy))
		for (int at = 0; at < {ARRAY}; at++)
			array[at] = 1;
}}

void sum_array(void)
{{
	u64 sum = 0;

	store_release(&array_busy, 1);
	for (int at = 0; at < {ARRAY}; at++)
		sum += array[at];
	leave(1, sum);
}}
"""


def function(rng: random.Random, name: str, cpu: int, *, frees: bool) -> str:
    """Return a function; with `frees` it frees the page somewhere, and uses it no more."""
    length = rng.randint(2, 6)
    freed_at = rng.randrange(length) if frees else length
    lines = [f"\tu64 v{number} = {number};" for number in range(LOCALS)]
    lines += ["\tvolatile u64 stack[2] = { 1, 2 };", "\t(void)stack;"]
    for at in range(length):
        if at == freed_at and frees:
            lines.append("\t__free_pages(virt_to_page(shared_page), 0);")
            continue
        lines.append(_statement(rng, page=not frees or at < freed_at))
    value = " | ".join(f"(v{number} & 7) << {4 * number}" for number in range(LOCALS))
    lines.append(f"\tleave({cpu}, 1ul << 60 | {value});")
    return f"void {name}(void)\n{{\n" + "\n".join(lines) + "\n}\n"


def _statement(rng: random.Random, *, page: bool) -> str:
    local, word = f"v{rng.randrange(LOCALS)}", f"shared_words[{rng.randrange(WORDS)}]"
    slot = f"shared_page[{rng.randrange(PAGE_WORDS)}]"
    constant = rng.randint(1, 6)
    choices = [
        f"\t{local} = READ_ONCE({word});",
        f"\t{local} = READ_ONCE({word});",
        f"\tWRITE_ONCE({word}, {constant});",
        f"\tWRITE_ONCE({word}, {local} + {constant});",
        f"\tif (READ_ONCE({word}) == {constant % 4})\n\t\tWRITE_ONCE({word}, {local});",
        f"\t(void)READ_ONCE({word});",
        f"\t{local} = READ_ONCE(shared_words[READ_ONCE({word}) % {WORDS}]);",
        rng.choice(["\tdmb(ish);", "\tdmb(ishst);", "\tdmb(ishld);"]),
        f"\tstack[{rng.randrange(2)}] = READ_ONCE({word});",
        f"\t{local} = stack[{rng.randrange(2)}];",
        f"\t{local} = load_acquire(&{word});",
        f"\tstore_release(&{word}, {local} + {constant});",
        f"\t{local} = add(&{word}, {constant});",
    ]
    if page:
        choices += [
            f"\t{local} = READ_ONCE({slot});",
            f"\t(void)READ_ONCE({slot});",
            f"\tWRITE_ONCE({slot}, {constant});",
            f"\tfor (int i = 0; i < {PAGE_WORDS}; i++)\n\t\t{local} += READ_ONCE(shared_page[i]);",
        ]
    return rng.choice(choices)


def source(seed: int, pairs: int) -> str:
    """Return C with the functions `random_<pair>_<cpu>` of so many pairs."""
    rng = random.Random(seed)
    parts = [HEAD]
    for pair in range(pairs):
        freeing = rng.choice([None, 0, 1])
        parts += [function(rng, f"random_{pair}_{cpu}", cpu, frees=freeing == cpu) for cpu in range(2)]
    return "\n".join(parts)
