"""`fuzzvm releases`, `--release`, and `fuzzvm pairs`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fuzzvm.kbuild.modelled import modelled
from tests.cli.running import fuzzvm


def make_tree(path: Path, *, version: str = "VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n") -> Path:
    path.mkdir()
    (path / "Makefile").write_text(f"# SPDX-License-Identifier: GPL-2.0\n{version}", encoding="utf-8")
    return path


def test_they_are_listed_with_what_is_claimed() -> None:
    data = json.loads(fuzzvm("releases", "--json").stdout)
    newest = data["releases"][-1]
    assert newest["name"] == "linux-7.3"
    assert newest["claims"]["x86_64"]["attributes"] == "safe"
    assert data["releases"][0]["claims"]["arm64"]["one_walker"] == "safe"
    assert data["releases"][0]["claims"]["x86_64"]["one_walker"] == "bug"
    assert "linux-6.18  x86_64" in fuzzvm("releases").stdout


def test_a_tree_is_compared_function_by_function(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    functions = modelled()
    for file in {function.file for function in functions}:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text("int another(void) { return 0; }\n", encoding="utf-8")
    (tree / "mm/ptdump.c").unlink()
    done = fuzzvm("releases", "--check", str(tree), "--json")
    assert done.returncode == 1
    drift = {(one["file"], one["function"]): one["what"] for one in json.loads(done.stdout)["drift"]}
    assert len(drift) == len(functions)
    assert drift["mm/ptdump.c", "ptdump_walk_pgd"] == "its file is gone"
    assert drift["mm/vmalloc.c", "vmap_try_huge_pmd"] == "is gone"
    (tree / "mm/vmalloc.c").write_text("static int vmap_try_huge_pmd(void)\n{\n\treturn 0;\n}\n", encoding="utf-8")
    done = fuzzvm("releases", "--check", str(tree))
    assert "vmap_try_huge_pmd" in done.stdout
    assert "differs" in done.stdout
    assert f"{len(functions)} of {len(functions)} modelled functions differ" in done.stdout


def test_6_18_is_compared_with_its_own_texts(tmp_path: Path) -> None:
    """Work items that free tables came later: of those functions nothing is known there."""
    known = [function for function in modelled() if "linux-6.18" in function.digests]
    later = {function.name for function in modelled()} - {function.name for function in known}
    assert later == {
        "__cpa_collapse_large_pages",
        "kernel_pgtable_work_func",
        "pagetable_free_kernel",
        "poke_vmalloc_pages",
    }
    tree = make_tree(tmp_path / "tree", version="VERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 0\n")
    data = json.loads(fuzzvm("releases", "--check", str(tree), "--release", "linux-6.18", "--json").stdout)
    assert data["functions"] == len(data["drift"]) == len(known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("releases", "--check", "{}/nothing"), "is no source tree of Linux"),
        (("releases", "--check", "{}/empty"), "its Makefile names no version"),
        (("releases", "--release", "linux-7.3"), "goes with --check"),
        (("releases", "--check", "{}/tree", "--release", "linux-2.4"), "no release 'linux-2.4'"),
        (("releases", "--check", "{}/tree", "--release", "linux-6.12"), "nothing is known of the sources"),
        (("verify", "--release", "linux-2.4"), "there are linux-6.12, linux-6.18, linux-7.3"),
        (("pairs", "--release", "linux-2.4"), "there are linux-6.12, linux-6.18, linux-7.3"),
        (("verify", "-m", "linux-6.18+linux-7.3"), "are two kernels"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    make_tree(tmp_path / "tree")
    make_tree(tmp_path / "empty", version="")
    done = fuzzvm(*(argument.replace("{}", str(tmp_path)) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_release_is_verified_as_it_is_and_with_a_scheme_tried_on_it() -> None:
    run = ("verify", "--memory", "sc", "-s", "x86-pmd-promotion")
    assert fuzzvm(*run, "--release", "linux-7.3").returncode == 0
    data = json.loads(fuzzvm(*run, "--release", "linux-6.18", "-m", "vmap-trylock", "--json").stdout)
    assert [(one["mitigation"], one["verdict"]) for one in data["runs"]] == [("linux-6.18+vmap-trylock", "safe")]
    data = json.loads(fuzzvm(*run, "--release", "linux-6.18", "--release", "linux-7.3", "--json").stdout)
    assert [one["verdict"] for one in data["runs"]] == ["bug", "safe"]
    assert all(one["as_expected"] for one in data["runs"])


def test_the_matrix_has_the_releases_beside_the_mitigations() -> None:
    data = json.loads(fuzzvm("verify", "--memory", "sc", "-s", "pmd-promotion", "--json").stdout)
    releases = [one for one in data["runs"] if one["mitigation"].startswith("linux-")]
    assert [(one["mitigation"], one["verdict"]) for one in releases] == [
        ("linux-6.12", "safe"),
        ("linux-6.18", "safe"),
        ("linux-7.3", "safe"),
    ]
    assert all(one["as_expected"] for one in data["runs"])
    assert len(data["runs"]) > len(releases)


def test_pairs_end_in_a_table_and_a_page(tmp_path: Path) -> None:
    page = tmp_path / "pairs.md"
    done = fuzzvm("pairs", "--release", "linux-7.3", "--arch", "arm64", "--markdown", str(page))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["promotion-pmd", "safe", "safe", *["-"] * 6] in rows
    assert ["hot-remove", "safe", "safe", "safe", "-", "safe", "safe", "use-after-free-read", "safe"] in rows
    assert "what nobody has mapped" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert "| promotion-pud | safe | safe | - | - | - | - | - | - |" in text
    assert "| kcore |" in text


@pytest.mark.always
def test_pairs_say_in_json_what_goes_wrong() -> None:
    data = json.loads(fuzzvm("pairs", "--release", "linux-7.3", "--arch", "x86_64", "--json").stdout)
    wrong = {(one["freer"], one["walker"]) for one in data["pairs"] if one["verdict"] == "bug"}
    unlocked = ("kcore", "perf-invlpgb", "spurious-fault-invlpgb")
    collapse = {(f"collapse-{level}", walker) for level in ("pmd", "pud") for walker in unlocked}
    # what frees a table while an entry leads to it does so beside every walker
    assert {pair for pair in wrong if pair[0].startswith(("promotion", "collapse"))} == collapse
    freed = {(one["freer"], one["walker"]) for one in data["pairs"] if one["bug"] == "free-of-linked-table"}
    assert wrong - collapse == freed
    assert {freer for freer, _ in freed} == {"hot-remove", "kasan-shadow", "kasan-shadow-unlocked"}
    assert all(one["as_expected"] and one["complete"] for one in data["pairs"])
    assert {one["walker"] for one in data["not_meant_to_meet"]} >= {"kcore", "perf", "attributes"}


@pytest.mark.always
def test_a_pair_whose_search_was_cut_is_not_called_safe() -> None:
    done = fuzzvm("pairs", "--release", "linux-7.3", "--arch", "arm64", "--max-seconds", "0.001")
    assert done.returncode == 1
    # the smallest have ended before anybody looks at the clock
    rows = [line for line in done.stdout.splitlines() if line.startswith("promotion")]
    assert len(rows) == 2
    assert not any(" safe  " in row for row in rows)
    assert all("undecided" in row or "within the bound" in row for row in rows)


def test_what_is_no_file_in_a_tree_is_refused_at_once(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    (tree / "mm").mkdir()
    os.mkfifo(tree / "mm/vmalloc.c")
    done = fuzzvm("releases", "--check", str(tree))
    assert done.returncode == 2
    assert "not a regular file" in done.stderr
