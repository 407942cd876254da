"""What differs between the objects of two builds, on objects that the cross compiler makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fuzzvm.compiled.arm64.image import ARCH
from fuzzvm.compiled.object_code import CodeChanges, code_changes
from fuzzvm.kbuild.arch import ARM64
from tests.compiled.small import needs_compiler

SOURCE = """\
#define noinline __attribute__((noinline))
struct ops { int (*call)(int); };
int limit = 3;
extern int printk(const char *text);

static noinline int first(int a)
{
	return a < limit ? a : 0;
}

static noinline int second(int a)
{
	printk("second");
	return a + 1;
}

struct ops ops = { first };

noinline int third(int a)
{
	asm volatile("1: nop\\n.pushsection __jump_table, \\"aw\\"\\n.long 1b - ., 1b - .\\n.quad ops - .\\n.popsection");
	return first(a) + second(a);
}

int fourth(int a)
{
	return third(a) + first(a + 1) + ops.call(a);
}
"""


def compiled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "f.c").write_text(text)
    command = [ARM64.gcc, "-O2", "-g", "-c", "-ffreestanding", "-o", str(folder / "f.o"), str(folder / "f.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "functions", "data"),
    [
        ("int first", "\n\n/* lines move */ int first", set(), set()),
        # what stands behind it moves, and is called from elsewhere
        ("return a + 1", "return a * a * a + 7", {"second"}, set()),
        ("limit = 3", "limit = 4", set(), {"limit"}),
        ('"second"', '"another"', {"second"}, set()),
        ("= { first }", "= { second }", set(), {"ops"}),
        ("return first(a) + second", "return second(a) + second", {"third"}, set()),
        # the code is the same, and what it is patched by is not
        ("ops - .", "third - .", {"third"}, set()),
        ("int fourth", "int fifth", {"fourth", "fifth"}, set()),
    ],
)
def test_what_differs_is_named_and_nothing_else(
    tmp_path: Path, old: str, new: str, functions: set[str], data: set[str]
) -> None:
    assert SOURCE.count(old) == 1
    base, head = compiled(tmp_path / "base", SOURCE), compiled(tmp_path / "head", SOURCE.replace(old, new))
    assert code_changes(base, head, ["f.o"], ARCH) == CodeChanges(frozenset(functions), frozenset(data))


WARNS = r"""
#define ENTRY(line, flags) "2: .long 1b - .\n.long text - .\n.long file - .\n.short " #line ", " #flags "\n.popsection"
#define WARN(line, flags) ({ \
	long at; \
	asm volatile("1: adr %0, 2f\n.pushsection __bug_table, \"aw\"\n" ENTRY(line, flags) : "=r"(at)); \
	at; \
})
const char text[] = "so it is", file[] = "f.c";

long before(void)
{
	return WARN(7, 1);
}

long behind(void)
{
	return WARN(12, 1) + WARN(13, 1);
}
"""


@needs_compiler
@pytest.mark.parametrize(
    ("edits", "functions"),
    [
        # what stands before it moves it in the table, and so do lines of the source
        ([("return WARN(7, 1)", "return 0"), ("12", "11"), ("13", "12")], {"before"}),
        ([("13, 1", "13, 3")], {"behind"}),
        ([("WARN(12, 1) + ", "")], {"behind"}),
    ],
)
def test_a_warning_is_compared_by_all_but_its_line(
    tmp_path: Path, edits: list[tuple[str, str]], functions: set[str]
) -> None:
    text = WARNS
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    base, head = compiled(tmp_path / "base", WARNS), compiled(tmp_path / "head", text)
    assert code_changes(base, head, ["f.o"], ARCH) == CodeChanges(frozenset(functions), frozenset())


FLUSHES = r"""
extern void flush_tlb_kernel_range(long start, long end), free_pages(long page), other(void);

void by_call(long page)
{
	other();
	flush_tlb_kernel_range(page, page + 1);
	free_pages(page);
}

void by_instruction(long page)
{
	asm volatile("dsb ishst\n\ttlbi vaae1is, %0\n\tdsb ish" :: "r"(page) : "memory");
	free_pages(page);
}
"""


@needs_compiler
@pytest.mark.parametrize(
    ("old", "new", "function", "flushes"),
    [
        ("\tflush_tlb_kernel_range(page, page + 1);\n", "", "by_call", True),
        (
            "\tflush_tlb_kernel_range(page, page + 1);\n\tfree_pages(page);\n",
            "\tfree_pages(page);\n\tflush_tlb_kernel_range(page, page + 1);\n",
            "by_call",
            True,
        ),
        ("\\n\\tdsb ish", "", "by_instruction", True),
        ("tlbi vaae1is", "tlbi vae1is", "by_instruction", True),
        ("\tother();\n", "", "by_call", False),
    ],
)
def test_maintenance_of_tlbs_that_differs_is_named(
    tmp_path: Path, old: str, new: str, function: str, *, flushes: bool
) -> None:
    assert FLUSHES.count(old) == 1
    base, head = compiled(tmp_path / "base", FLUSHES), compiled(tmp_path / "head", FLUSHES.replace(old, new))
    found = code_changes(base, head, ["f.o"], ARCH)
    assert found.functions == {function} and found.flushes == ({function} if flushes else set())


ALTERNATIVES = r"""
#define ALTERNATIVE(new) asm volatile("661: nop\n.pushsection .altinstructions, \"a\"\n" \
	".word 661b - .\n.word 663f - .\n.hword 3\n.byte 4, 4\n.popsection\n" \
	".pushsection .replaced, \"ax\"\n663: " new "\n.popsection")

void before(void)
{
	ALTERNATIVE("isb");
}

void behind(void)
{
	ALTERNATIVE("dmb ish");
}
"""


@needs_compiler
def test_an_alternative_is_its_own_code_and_not_that_behind_it(tmp_path: Path) -> None:
    base = compiled(tmp_path / "base", ALTERNATIVES)
    for number, (old, new, name) in enumerate([("isb", "yield", "before"), ("dmb ish", "dmb ishst", "behind")]):
        head = compiled(tmp_path / f"head{number}", ALTERNATIVES.replace(old, new))
        assert code_changes(base, head, ["f.o"], ARCH).functions == {name}


@needs_compiler
def test_all_of_a_new_object_differs(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    found = code_changes(tmp_path / "base", compiled(tmp_path / "head", SOURCE), ["f.o"], ARCH)
    assert found.functions == {"first", "second", "third", "fourth"} and found.data == {"limit", "ops"}
