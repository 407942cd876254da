"""`fuzzvm check` on the small kernel: what a series breaks, mends, leaves as it is, and what cannot be tested."""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.check.answers import BROKEN, FIXED, NO_CHANGE, NOT_LOOKED_AT, STILL_BROKEN, UNDECIDED
from fuzzvm.check.check import Comparison
from tests.clock import PATIENCE
from tests.compiled import small

TAKES = "\tif (!down_read_trylock(&init_mm.mmap_lock))\n\t\treturn 0;\n"
RELEASES = "up_read(&init_mm.mmap_lock);"


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert text.count(old) >= 1, old
        text = text.replace(old, new)
    return text


def patch(path: Path, file: str, *edits: tuple[str, str], reverse: bool = False) -> Path:
    """Write the patch that makes edits to a file of the small kernel, or takes them back."""
    old = (small.SOURCES / file).read_text()
    new = edited(old, *edits)
    if reverse:
        old, new = new, old
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{file}", f"b/{file}")
    path.write_text("".join(lines))
    return path


def check(cache: Path, tree: Path, *arguments: str) -> tuple[int, dict[str, object], str]:
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "check", "--tree", str(tree), "-s", "pmd-promotion", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def pairs_of(data: dict[str, object]) -> list[dict[str, Any]]:
    pairs = data["pairs"]
    assert isinstance(pairs, list)
    return pairs


def functions_of(data: dict[str, object]) -> list[dict[str, Any]]:
    functions = data["functions"]
    assert isinstance(functions, list)
    return functions


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base is built once, for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.always
@small.needs_compiler
def test_a_series_that_drops_the_lock_is_broken_and_one_that_takes_it_mends(tmp_path: Path, cache: Path) -> None:
    drop = (TAKES, ""), (RELEASES, "(void)0;")
    status, data, _ = check(cache, small.SOURCES, "--patch", str(patch(tmp_path / "drop", "mm/vmalloc.c", *drop)))
    assert (status, data["answer"]) == (1, BROKEN)
    pairs = pairs_of(data)
    assert [(one["memory"], one["before"]["verdict"], one["after"]["verdict"]) for one in pairs] == [
        ("sc", "safe", "bug"),
        ("arm64", "safe", "bug"),
    ]
    assert all(one["after"]["schedule"] and one["after"]["complete"] for one in pairs)
    looks = {one["name"]: (one["state"], one["pairs"]) for one in functions_of(data)}
    assert looks == {
        "vmap_try_huge_pmd": ("ran", ["pmd-promotion, sc", "pmd-promotion, arm64"]),
        "vmap_try_huge_pud": ("did not run", []),
    }
    tree = shutil.copytree(small.SOURCES, tmp_path / "tree")
    (tree / "mm/vmalloc.c").write_text(edited((tree / "mm/vmalloc.c").read_text(), *drop))
    mend = patch(tmp_path / "mend", "mm/vmalloc.c", *drop, reverse=True)
    status, data, _ = check(cache, tree, "--patch", str(mend))
    assert (status, data["answer"]) == (0, FIXED)


@small.needs_compiler
@pytest.mark.parametrize(
    ("file", "edits", "why"),
    [
        (
            "mm/vmalloc.c",
            [("static bool vmap_try_huge_pmd(", "static /* so */   bool vmap_try_huge_pmd(")],
            "only comments",
        ),
        ("mm/vmalloc.c", [("end - addr != PMD_SIZE", "(end - addr) != PMD_SIZE")], "the same, byte for byte"),
        # how a kernel is built may matter whoever reads it
        ("Kconfig", [("\n", "\n# nothing\n")], "the same, byte for byte"),
    ],
)
def test_what_changes_nothing_needs_no_verdict(
    tmp_path: Path, cache: Path, file: str, edits: list[tuple[str, str]], why: str
) -> None:
    old, new = edits[0]
    text = (small.SOURCES / file).read_text()
    assert old in text
    found = patch(tmp_path / "patch", file, (text[: text.index(old) + len(old)], text[: text.index(old)] + new))
    status, data, err = check(cache, small.SOURCES, "--patch", str(found))
    assert (status, data["answer"]) == (0, NO_CHANGE), err
    assert why in str(data["why"])
    assert data["pairs"] == []


def without_puds_lock(text: str) -> str:
    """Return mm/vmalloc.c with the lock dropped where a PUD's table is freed, which no scenario with 3 levels does."""
    head, function, rest = text.partition("static bool vmap_try_huge_pud(")
    assert function and rest.count(TAKES) == 1
    return head + function + rest.replace(TAKES, "").replace(RELEASES, "(void)0;", 1)


@small.needs_compiler
def test_a_function_that_no_schedule_runs_is_not_called_unchanged(tmp_path: Path, cache: Path) -> None:
    text = (small.SOURCES / "mm/vmalloc.c").read_text()
    found = patch(tmp_path / "patch", "mm/vmalloc.c", (text, without_puds_lock(text)))
    status, data, err = check(cache, small.SOURCES, "--patch", str(found))
    assert (status, data["answer"]) == (125, NOT_LOOKED_AT), err
    assert "vmap_try_huge_pud (it was entered, and none of its changed lines ran)" in str(data["why"])
    assert [(one["before"]["verdict"], one["after"]["verdict"]) for one in pairs_of(data)] == [("safe", "safe")] * 2
    assert [(one["name"], one["state"]) for one in functions_of(data)] == [("vmap_try_huge_pud", "did not run")]


@small.needs_compiler
def test_that_a_flush_is_gone_is_not_called_no_change(tmp_path: Path, cache: Path) -> None:
    """Images do not follow TLBs: the search finds nothing, and says nothing."""
    clear = "\tWRITE_ONCE(pmd->pmd, 0);\n"
    edit = f"{clear}\tflush_tlb_kernel_pgtable(addr);\n", f"{clear}\tdsb(ish);\n"
    found = patch(tmp_path / "patch", "arch/arm64/mm/mmu.c", edit)
    status, data, err = check(cache, small.SOURCES, "--patch", str(found))
    assert [one["answer"] for one in pairs_of(data)] == [NO_CHANGE] * 2, err
    assert (status, data["answer"]) == (125, NOT_LOOKED_AT)
    assert data["flushes"] == ["pmd_free_pte_page"] and "what TLBs hold is not followed" in str(data["why"])


@pytest.mark.slow
@small.needs_compiler
def test_a_function_that_ran_is_named_with_the_pairs(tmp_path: Path, cache: Path) -> None:
    edits = ("\tpte = pte_offset_kernel(pmd, addr);\n\tdo {", "\tpte = pte_offset_kernel(pmd, addr);\n\tisb();\n\tdo {")
    found = patch(tmp_path / "patch", "mm/vmalloc.c", edits)
    status, data, err = check(cache, small.SOURCES, "--patch", str(found))
    assert (status, data["answer"]) == (0, NO_CHANGE), err
    looks = {one["name"]: one for one in functions_of(data)}
    assert looks["vmap_pte_range"]["state"] == "ran"
    assert looks["vmap_pte_range"]["pairs"] == ["pmd-promotion, sc", "pmd-promotion, arm64"]
    assert looks["vmap_pte_range"]["lines_ran"] == looks["vmap_pte_range"]["lines"] == 1


@small.needs_compiler
def test_a_function_that_is_not_compiled_is_not_called_unchanged(tmp_path: Path, cache: Path) -> None:
    tree = small.copy_tree(tmp_path / "tree")
    vmalloc = tree / "mm/vmalloc.c"
    vmalloc.write_text(vmalloc.read_text() + "#ifdef OFF\nint off(void)\n{\n\treturn 0;\n}\n#endif\n")
    old = vmalloc.read_text().splitlines(True)
    new = [line.replace("return 0", "return 1") if number > len(old) - 4 else line for number, line in enumerate(old)]
    found = tmp_path / "patch"
    found.write_text("".join(difflib.unified_diff(old, new, "a/mm/vmalloc.c", "b/mm/vmalloc.c")))
    status, data, err = check(cache, tree, "--patch", str(found))
    assert (status, data["answer"]) == (125, NOT_LOOKED_AT), err
    assert "off (no image has it in this configuration)" in str(data["why"])


@small.needs_compiler
def test_what_no_image_is_compiled_from_is_named(tmp_path: Path, cache: Path) -> None:
    tree = shutil.copytree(small.SOURCES, tmp_path / "tree")
    for name, expected in (("mm/unused.c", (125, NOT_LOOKED_AT)), ("drivers/unused.c", (0, NO_CHANGE))):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text("int unused;\n")
        found = tmp_path / "patch"
        found.write_text(f"--- a/{name}\n+++ b/{name}\n@@ -1 +1 @@\n-int unused;\n+long unused;\n")
        status, data, err = check(cache, tree, "--patch", str(found))
        assert (status, data["answer"], data["not_looked_at"]) == (*expected, [name]), err


@small.needs_compiler
def test_what_a_comment_swallows_is_no_comment(tmp_path: Path, cache: Path) -> None:
    """A backslash at the end of a comment's line takes the next one in: the lock is gone."""
    hidden = "".join(f"\t// not while \\\n{line}\n" for line in TAKES.splitlines())
    found = patch(tmp_path / "patch", "mm/vmalloc.c", (TAKES, hidden))
    _, data, _ = check(cache, small.SOURCES, "--patch", str(found))
    assert data["answer"] != NO_CHANGE


@small.needs_compiler
@pytest.mark.parametrize(
    ("new", "why"),
    [
        ("\tif (no_such_name)\n\t\treturn 0;\n", "with the series: "),
        ("\t{ extern void nobody_has_this(void); nobody_has_this(); }\n" + TAKES, "nobody_has_this"),
        ('\tasm volatile("mrs x9, cntvct_el0" ::: "x9");\n' + TAKES, "cntvct_el0"),
    ],
)
def test_what_cannot_be_compiled_or_run_is_one_clear_answer(tmp_path: Path, cache: Path, new: str, why: str) -> None:
    found = patch(tmp_path / "patch", "mm/vmalloc.c", (TAKES, new))
    status, data, err = check(cache, small.SOURCES, "--patch", str(found))
    assert (status, data["answer"]) == (125, "cannot be tested"), err
    assert why in str(data["why"]) and "\n" not in str(data["why"])


@small.needs_compiler
def test_what_needs_no_search_is_one_line_of_text(tmp_path: Path) -> None:
    """Each answer of which there is one only: it is the last line, and the exit status says the same."""
    tree = small.copy_tree(tmp_path / "tree")
    (tree / "drivers").mkdir()
    (tree / "drivers/unused.c").write_text("int unused;\n")
    function = "static bool vmap_try_huge_pmd("
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("--- a/drivers/unused.c\n+++ b/drivers/unused.c\n@@ -1 +1 @@\n-int unused;\n+long unused;\n")
    series = {
        "comments": (patch(tmp_path / "comments", "mm/vmalloc.c", (function, f"/* so */ {function}")), 0),
        "elsewhere": (elsewhere, 0),
        "not for this tree": (patch(tmp_path / "reverse", "mm/vmalloc.c", (TAKES, ""), reverse=True), 125),
    }
    for name, line in {
        "not C": "if (no_such_name)",
        "boundary": "{ extern void other(void); other(); }",
        "instruction": 'asm volatile("mrs x9, cntvct_el0" ::: "x9");',
    }.items():
        series[name] = patch(tmp_path / name, "mm/vmalloc.c", (TAKES, f"\t{line}\n{TAKES}")), 125
    said = {}
    for name, (file, status) in series.items():
        done = subprocess.run(
            [sys.executable, "-m", "fuzzvm", "check", "--tree", tree, "--patch", file, "-s", "pmd-promotion"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            check=False,
        )
        assert (done.returncode, done.stderr) == (status, ""), name
        (said[name],) = (line for line in done.stdout.splitlines() if line.startswith("answer: "))
        assert done.stdout.endswith(said[name] + "\n")
    assert said["comments"] == "answer: no change (only comments and white space change)"
    assert said["elsewhere"] == "answer: no change (nothing that it changes is compiled into the image)"
    refused = "answer: cannot be tested ("
    not_this = f"{tmp_path / 'reverse'} does not apply: mm/vmalloc.c has the change already"
    assert said["not for this tree"].startswith(refused + not_this)
    assert said["not C"].startswith(f"{refused}with the series: ") and "mm/vmalloc.c:" in said["not C"]
    assert said["boundary"].startswith(f"{refused}with the series: ") and " other" in said["boundary"]
    assert "mm/vmalloc.c:" in said["instruction"] and "cntvct_el0" in said["instruction"]


def test_what_does_not_apply_is_one_clear_answer(tmp_path: Path, cache: Path) -> None:
    found = patch(tmp_path / "patch", "mm/vmalloc.c", (TAKES, ""), reverse=True)
    status, data, _ = check(cache, small.SOURCES, "--patch", str(found))
    assert (status, data["answer"]) == (125, "cannot be tested")
    assert "does not apply: " in str(data["why"])


@small.needs_compiler
def test_that_another_check_is_at_work_says_nothing_about_the_series(tmp_path: Path) -> None:
    found = patch(tmp_path / "patch", "mm/vmalloc.c", (TAKES, f"\tif (no_such_name)\n{TAKES}"))
    status, data, err = check(tmp_path, small.SOURCES, "--patch", str(found), "--out", str(tmp_path / "out"))
    assert (status, data["answer"]) == (125, "cannot be tested"), err
    with (tmp_path / "out/arm64/head/.fuzzvm-image").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, data, err = check(tmp_path, small.SOURCES, "--patch", str(found), "--out", str(tmp_path / "out"))
    assert (status, data) == (2, {}) and "is at work in" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tree", "{}", "--patch", "{}/patch"), "is no kernel tree"),
        (("--tree", "{}/small", "--patch", "{}/empty"), "holds no patch"),
        (("--tree", "{}/small"), "Missing option '--patch'"),
        (("--tree", "{}/small", "--patch", "{}/patch", "--cc", "gcc -B /tmp"), "must be gcc or clang"),
        (("--tree", "{}/small", "--patch", "{}/none"), "No such file"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "small").symlink_to(small.SOURCES)
    (tmp_path / "empty").write_text("nothing")
    (tmp_path / "patch").write_text("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n")
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "check", *(one.replace("{}", str(tmp_path)) for one in arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.always
@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("safe", "safe", NO_CHANGE),
        ("safe", "bug", BROKEN),
        ("bug", "safe", FIXED),
        ("bug", "bug", STILL_BROKEN),
        ("vacuous", "bug", BROKEN),
        # that nothing goes wrong where nothing happens is no proof
        ("vacuous", "vacuous", UNDECIDED),
        ("safe", "vacuous", UNDECIDED),
        ("bug", "vacuous", UNDECIDED),
        ("vacuous", "safe", UNDECIDED),
        ("cut", "safe", UNDECIDED),
        ("safe", "cut", UNDECIDED),
        ("bug", "cut", UNDECIDED),
        ("cut", "bug", UNDECIDED),
        (None, "safe", UNDECIDED),
        ("safe", None, UNDECIDED),
    ],
)
def test_what_two_verdicts_come_to(
    monkeypatch: pytest.MonkeyPatch, before: str | None, after: str | None, answer: str
) -> None:
    words = {"cut": UNDECIDED, None: UNDECIDED}
    monkeypatch.setattr("fuzzvm.check.check._word", lambda run: words.get(run, run))
    assert Comparison(None, "sc", before, after).answer == answer  # type: ignore[arg-type]
