"""Functions of C source that differ, and their lines."""

from __future__ import annotations

import pytest

from fuzzvm.kbuild.changed_functions import ChangedFunction, Function, changed_functions, functions

SOURCE = """\
#include <linux/mm.h>
#define each(x) do { \\
	x; \\
} while (0)

struct pair { int a, b; };
static const struct ops ops = {
	.call = first(1),
};
/* not_me(int) { */
static inline bool __attribute__((weak)) first(int a)
{
	return a;	/* } */
}

int
second(char *text)
__releases(lock)
{
#ifdef A
	if (text[0] == '{') {
#else
	if (text[1]) {
#endif
		return "}{"[0];
	}
	return 0;
}

SYSCALL_DEFINE1(third, int, a)
{
	return a;
}
"""


def test_definitions_are_found_with_their_lines() -> None:
    assert functions(SOURCE) == [
        Function("first", 11, 14),
        Function("second", 16, 28),
        Function("SYSCALL_DEFINE1", 30, 33),
    ]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("return a;\t/* } */", "return a + 1;", [("first", {13}, {13})]),
        ("return a;\t/* } */", "return  a;  // so", []),
        ("\treturn 0;\n", "", [("second", {27}, set())]),
        ("\treturn 0;\n", "\tlock();\n\treturn 0;\n", [("second", set(), {27})]),
        ("struct pair { int a, b; };", "struct pair { int b, a; };", []),
        ("int\nsecond(", "long\nsecond(", [("second", {16}, {16})]),
        ("SYSCALL", "static void fourth(void)\n{\n}\n\nSYSCALL", [("fourth", set(), {30, 31, 32})]),
    ],
)
def test_what_differs_is_named(old: str, new: str, found: list[tuple[str, set[int], set[int]]]) -> None:
    assert SOURCE.count(old) == 1
    expected = [ChangedFunction(name, "f.c", frozenset(before), frozenset(after)) for name, before, after in found]
    assert changed_functions("f.c", SOURCE, SOURCE.replace(old, new)) == expected
