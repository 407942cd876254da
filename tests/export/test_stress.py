"""The stress program of a finding: what it holds, that its user-space half compiles, and what is refused."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from fuzzvm.corpus.format import TestCase, parse, read
from fuzzvm.export.errors import ExportError
from fuzzvm.export.stress import stress_program
from fuzzvm.export.stress_words import REPORTS, Told
from fuzzvm.files.reading import read_text
from fuzzvm.realkernel.build import guest_sources
from fuzzvm.scenario.calls import parse_call

CORPUS = Path(__file__).resolve().parents[2] / "corpus" / "regressions"
PMD = "none-use-after-free-read-4f5a29210ff8"
PUD = "none-use-after-free-read-97403cd7bf16"
COLLAPSE = "none-use-after-free-read-0ec585fbf92f"
ARM = "none-use-after-free-read-c77cd3c19dbc"


def case(name: str) -> TestCase:
    return read(CORPUS / f"{name}.toml")


def told(error: str = "use-after-free-read", listing: tuple[str, ...] = ("  1  read pmd[0]",)) -> Told:
    return Told(error, "walk", "a freed table was read", "the model", "9 steps", listing, "Below.", "fuzzvm replay F")


def program(of: TestCase) -> dict[str, str]:
    return stress_program(of, told())


def with_calls(of: TestCase, cpu0: tuple[str, ...], cpu1: tuple[str, ...]) -> TestCase:
    cpus = tuple(tuple(parse_call(call) for call in calls) for calls in (cpu0, cpu1))
    return replace(of, scenario=replace(of.scenario, cpus=cpus))


def function(text: str, name: str) -> list[str]:
    body = re.search(rf"^static int {name}\(unsigned long at\)\n\{{\n(.*?)^\}}", text, re.MULTILINE | re.DOTALL)
    assert body is not None
    return [line.strip() for line in body[1].splitlines() if "do_" in line]


def test_the_calls_of_the_scenario_are_made_at_the_places_of_a_real_kernel() -> None:
    files = program(case(PMD))
    module = files["fuzzvm_stress.c"]
    assert function(module, "setup") == [
        'err = do_vmap(at + 0x0UL, 0x1000UL, phys + 0x0UL, 0x1000UL, "rw");',
        "do_vunmap(at + 0x0UL, 0x1000UL);",
    ]
    assert function(module, "cpu0") == ['err = do_vmap(at + 0x0UL, 0x200000UL, phys + 0x0UL, 0x200000UL, "rw");']
    assert "#define SPAN 0x200000UL" in module and "#define SPAN 0x200000UL" in files["reader.c"]
    assert "cpus[THREADS] = {0};" in module and '{1, {"cat", NULL}},' in files["reader.c"]
    assert set(files) == {"fuzzvm_stress.c", "reader.c", "Makefile", "run.sh", "schedule.toml"}
    assert parse(files["schedule.toml"], Path("schedule.toml")) == case(PMD)


def test_nothing_is_left_of_the_templates() -> None:
    for name, text in program(case(COLLAPSE)).items():
        assert not re.search(r"@[A-Z]+@", text), name


def test_it_has_the_same_calls_as_the_module_of_the_guest() -> None:
    files = program(case(PMD))
    calls = read_text(guest_sources() / "module" / "calls.h", 1 << 20).partition("\n")[2].strip()
    readers = read_text(guest_sources() / "readers.h", 1 << 20).partition("\n")[2].strip()
    assert calls in files["fuzzvm_stress.c"] and readers in files["reader.c"]


def test_a_setup_that_only_makes_tables_maps_single_pages() -> None:
    """A PUD has 262,144 pages; and each of the pages of the model is the first one of its table."""
    setup = tuple(map(parse_call, ("vmap(page=0, nr_pages=4, max_page_shift='pte')", "vunmap(page=0, nr_pages=4)")))
    of = replace(case(PUD), scenario=replace(case(PUD).scenario, setup=setup))
    lines = function(program(of)["fuzzvm_stress.c"], "setup")
    assert 'err = do_vmap(at + 0x200000UL, 0x1000UL, phys + 0x200000UL, 0x1000UL, "rw");' in lines
    assert len(lines) == 8 and all("0x1000UL" in line for line in lines)


def test_a_collapse_needs_every_page_of_the_table() -> None:
    module = program(case(COLLAPSE))["fuzzvm_stress.c"]
    assert "err = do_set_memory(set_memory_rox_at, at + 0x0UL, 0x200);" in module
    assert all("0x1000UL, phys" not in line for line in function(module, "setup"))


def test_areas_of_vmalloc_are_freed_after_each_round() -> None:
    of = with_calls(case(PMD), ("vmalloc_huge(nr_pages=2, area='a')", "vfree(area='a')"), ("check_wx_pages()",))
    files = program(of)
    assert function(files["fuzzvm_stress.c"], "cpu0") == ["err = do_vmalloc(0, 0x200000UL, true);", "do_vfree(0);"]
    undo = files["fuzzvm_stress.c"].partition("static void undo")[2].partition("}")[0]
    assert "do_vfree(0);" in undo and "vm_unmap_aliases();" in undo
    assert "vmalloc chooses its own addresses" in files["fuzzvm_stress.c"]
    assert "CONFIG_DEBUG_WX=y" in files["fuzzvm_stress.c"]


def test_the_comment_says_what_is_to_be_known_and_does_not_end_early() -> None:
    text = stress_program(case(PMD), told(listing=("  1  read */ pmd",)))["fuzzvm_stress.c"]
    comment = text[: text.index("*/")]
    for part in (
        "Stress for use-after-free-read in walk",
        "the model",
        "9 steps",
        "CONFIG_KASAN=y",
        "PTDUMP_DEBUGFS=y",
    ):
        assert part in comment
    for part in ("./run.sh", "Expected: `BUG: KASAN", "When to stop", "fuzzvm replay F", "vmap(page=0", "read * / pmd"):
        assert part in comment


@pytest.mark.parametrize(
    ("cpu0", "cpu1", "why"),
    [
        (("vmap(page=0, nr_pages=2, max_page_shift='pmd')",), ("text_poke(page=0)",), "text_poke cannot be driven"),
        (
            ("call(function='pmd_free_pte_page', arguments=['pmd:0', 'page:0'])",),
            ("cat_kernel_page_tables()",),
            r"pmd_free_pte_page\(\), which is called by its name",
        ),
        (("check_wx_pages()",), ("cat_kernel_page_tables()",), "no CPU changes page tables"),
        (("vmap(page=0, nr_pages=2, max_page_shift='pmd')",), (), "one CPU alone"),
    ],
)
def test_calls_that_cannot_be_driven_are_refused_by_name(
    cpu0: tuple[str, ...], cpu1: tuple[str, ...], why: str
) -> None:
    with pytest.raises(ExportError, match=why):
        program(with_calls(case(PMD), cpu0, cpu1))


def test_contiguous_blocks_and_changes_of_attributes_on_arm64_are_refused() -> None:
    walk = ("cat_kernel_page_tables()",)
    with pytest.raises(ExportError, match="contiguous blocks"):
        program(with_calls(case(ARM), ("vmap(page=0, nr_pages=2, max_page_shift='contpte')",), walk))
    with pytest.raises(ExportError, match="set_memory_ro of arm64"):
        program(with_calls(case(ARM), ("set_memory_ro(page=0, nr_pages=1)",), walk))


def test_an_error_that_no_kernel_reports_is_refused() -> None:
    assert "tlb-conflict" not in REPORTS
    with pytest.raises(ExportError, match="no kernel reports tlb-conflict"):
        stress_program(case(PMD), told("tlb-conflict"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
@pytest.mark.parametrize("name", [PMD, COLLAPSE])
def test_the_reader_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    (tmp_path / "reader.c").write_text(program(case(name))["reader.c"])
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", str(tmp_path / "reader"), str(tmp_path / "reader.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _run(tmp_path: Path, said: str, reader: str) -> subprocess.CompletedProcess[str]:
    """Run run.sh where insmod, rmmod and dmesg are stood for; what they were called with is in `log`."""
    programs = {
        "insmod": f'echo "insmod $*" >>{tmp_path}/log',
        "rmmod": f'echo "rmmod $*" >>{tmp_path}/log',
        "dmesg": f"cat {tmp_path}/said",
        "reader": reader,
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "said").write_text(said)
    (tmp_path / "run.sh").write_text(program(case(PMD))["run.sh"])
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(tmp_path / "run.sh"), "2", "instances=3"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


LOADED = "fuzzvm_stress: 64 instances of 0x200000 bytes from ffffc90000000000 on\n"


@pytest.mark.parametrize(
    ("said", "reader", "status", "out"),
    [
        (f"BUG: KASAN: an old one\n{LOADED}", "exec sleep 60", 0, "no report\n"),
        (f"{LOADED}BUG: KASAN: new\n", "exec sleep 60", 1, "BUG: KASAN: new\n"),
        (LOADED, "exit 2", 2, ""),
    ],
)
def test_run_stops_at_a_report_since_the_module_was_loaded(
    tmp_path: Path, said: str, reader: str, status: int, out: str
) -> None:
    done = _run(tmp_path, said, reader)
    assert (done.returncode, done.stdout) == (status, out), done.stderr
    insmod, rmmod = (tmp_path / "log").read_text().splitlines()
    assert "get_vm_area_at=" in insmod and insmod.endswith(" instances=3") and rmmod == "rmmod fuzzvm_stress"
