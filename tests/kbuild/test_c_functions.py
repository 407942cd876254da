"""Functions found in C source, and their digests."""

from __future__ import annotations

import pytest

from fuzzvm.kbuild.c_functions import definitions, digest, same_code, without_comments

SOURCE = r"""
/* int f(void) { in a comment } */
static int f(int a);            // a declaration
#define g(x) f(x)
static inline struct page *
g(int a, int (*call)(int))
{
	if (a) { call('{'); /* } */ }
	return lookup("}{");
}

int __must_check f(int a) __acquires(lock)
{
	return g(a, f) ? 1 : 0;
}
#ifdef CONFIG_X86_64
int twice(void) { return 1; }
#else
int twice(void) { return 2; }
#endif
int uses = twice();
"""


def test_a_definition_is_found_and_a_declaration_is_none() -> None:
    (text,) = definitions(SOURCE, "f")
    assert text.startswith("int __must_check f(int a)")
    assert text.endswith("}")


def test_brackets_in_literals_do_not_count() -> None:
    (text,) = definitions(SOURCE, "g")
    assert 'lookup("}{")' in text
    assert text.startswith("static inline struct page *")
    assert text.count("\n") == 5


def test_one_for_each_way_of_the_preprocessor() -> None:
    assert [text.split()[-2] for text in definitions(SOURCE, "twice")] == ["1;", "2;"]


def test_what_is_not_there_has_none() -> None:
    assert definitions(SOURCE, "h") == []
    assert definitions("int f(void) {", "f") == ["int f(void) {"]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("int f(int a)\n{ return a; }", True),
        ("int f(int a) { /* why */ return a; // so\n}", True),
        ("int f(int a) { return (a); }", False),
        ("int f(int a) { return b; }", False),
        ("int f(int a) { ret urn a; }", False),
    ],
)
def test_a_digest_is_of_what_a_compiler_sees(other: str, *, same: bool) -> None:
    before = digest(definitions("int f(int a) { return a; }", "f"))
    assert (digest(definitions(other, "f")) == before) is same


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("int a; /* so */\n", "int   a; // thus\n\n", True),
        ("\tif (a)\n\t\tb();\n", "if (a)\n    b();\n", True),
        ("#define F (x)\n", "#define F(x)\n", False),
        ("a + ++b;", "a++ + b;", False),
        ("a & &b;", "a && b;", False),
        ("#include <a//b.h>\n", "#include <a//c.h>\n", False),
        ("S(a -> b)", "S(a->b)", False),
        ("\tadd x0\n\tret\n", "\tadd x0 ret\n", False),
        ("// why\nlock();\n", "// why \\\nlock();\n", False),
        ("#define A b \\\n c\n", "#define A b c\n", True),
    ],
)
def test_comments_and_distances_are_no_code(old: str, new: str, *, same: bool) -> None:
    assert same_code(old, new) is same


def test_literals_keep_what_looks_like_a_comment() -> None:
    assert without_comments('a("/* b */"); /* c */ d; // e') == 'a("/* b */");   d;  '
