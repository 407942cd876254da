"""`fuzzvm verify --image` as users call it, on the small kernel: safe, broken, vacuous, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import small

pytestmark = small.needs_compiler

LOCK = """\
#ifndef NO_TRYLOCK
	if (!down_read_trylock(&init_mm.mmap_lock))
		return 0;
#endif
	if (pmd_free_pte_page"""


def verify(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzzvm", "verify", "--image", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.build_image(tmp_path_factory.mktemp("verified"))


@pytest.mark.always
def test_a_kernel_that_takes_the_lock_is_safe(folder: Path) -> None:
    done = verify(folder, "-s", "pmd-promotion", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    data = json.loads(done.stdout)
    assert [run["memory"] for run in data["runs"]] == ["sc", "tso", "arm64"]
    for run in data["runs"]:
        assert (run["verdict"], run["complete"], run["missing"]) == ("safe", True, [])
        assert run["met"] == ["promotion", "table-freed", "walked-table-freed"]


@pytest.mark.always
def test_one_that_does_not_has_a_story_with_source_lines(tmp_path: Path) -> None:
    done = verify(small.build_image(tmp_path, config=small.FRAGMENT), "-s", "pmd-promotion", "--memory", "sc")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("BUG: "))
    assert lines[at].split()[1] in ("use-after-free-read", "wild-access")
    source = (small.SOURCES / "mm/pagewalk.c").read_text().splitlines()
    walks = [line.split() for line in lines if line.startswith(" walk_p")]
    assert walks and all(source[int(words[1].rpartition(":")[2]) - 1].strip() for words in walks)
    assert any(line.lstrip().startswith("CPU 0  vmap_try_huge_pmd()  mm/vmalloc.c:") for line in lines)
    assert "= PTE table" in done.stdout and "-> " not in lines[at]


def test_a_table_that_a_walk_cache_may_lead_to_is_freed(tmp_path: Path) -> None:
    """The TLBI has no DSB after it: by `--tlb` alone, and no context switch is needed."""
    edit = {
        "arch/arm64/mm/mmu.c": (
            '"tlbi vaae1is, %0" :: "r"(operand));\n\tdsb(ish);\n',
            '"tlbi vaae1is, %0" :: "r"(operand));\n',
        )
    }
    image = small.build_image(tmp_path, edits=edit)
    runs = {}
    for options in ((), ("--tlb",)):
        done = verify(image, "-s", "pmd-promotion", "--memory", "sc", "--json", *options)
        assert (done.returncode, done.stderr) == (len(options), "")
        (run,) = json.loads(done.stdout)["runs"]
        runs[run["tlb"]] = run
    assert runs[False]["verdict"] == "safe"
    assert (runs[True]["bug"], runs[True]["complete"]) == ("hardware-walk-of-freed-table", True)
    assert "for which it takes a DSB ISH" in runs[True]["message"]


def test_one_that_never_promotes_is_vacuous(tmp_path: Path) -> None:
    edit = {"mm/vmalloc.c": ("if (end - addr != PMD_SIZE ||", "if (1 || end - addr != PMD_SIZE ||")}
    image = small.build_image(tmp_path, edits=edit)
    done = verify(image, "-s", "pmd-promotion", "--memory", "sc")
    assert done.returncode == 1
    assert "pmd-promotion  sc      vacuous" in done.stdout
    assert "pmd-promotion, sc: vacuous: in no schedule vmap cleared an entry" in done.stdout


def test_a_bound_is_said(folder: Path) -> None:
    done = verify(folder, "-s", "pmd-promotion", "--memory", "sc", "--max-states", "10")
    assert done.returncode == 1
    assert "safe within the bound" in done.stdout
    assert "not everything was explored: --max-states 10 reached" in done.stdout


def test_a_function_that_nobody_has_is_named_with_the_line_that_calls_it(tmp_path: Path) -> None:
    edit = {
        "mm/vmalloc.c": (
            LOCK,
            LOCK.replace("#ifndef", "\t{ extern void nobody_has_this(void); nobody_has_this(); }\n#ifndef", 1),
        )
    }
    done = verify(small.build_image(tmp_path, edits=edit), "-s", "pmd-promotion", "--memory", "sc")
    line = next(
        n for n, text in enumerate((tmp_path / "tree/mm/vmalloc.c").read_text().splitlines(), 1) if "{ ext" in text
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fuzzvm: mm/vmalloc.c:{line}: nobody_has_this (0x")
    assert done.stderr.endswith("nobody_has_this is called, which the image does not define and nobody stands for\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "none"), "--image and --mitigation exclude each other"),
        (("--jobs", "2"), "--image and --jobs exclude each other"),
        (("-s", "x86-pmd-promotion"), "it is of x86_64, and the image of arm64"),
        (("-s", "contpte"), "contiguous blocks are not there for images"),
        (("-s", "tlb-x86-promotion"), "it is of x86_64, and the image of arm64"),
    ],
)
def test_what_is_not_for_images_is_refused(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    done = verify(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_a_folder_that_holds_no_image(tmp_path: Path) -> None:
    done = verify(tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "holds no image" in done.stderr
