"""What `fuzzvm check` takes: standard input, mailboxes, commits of a git tree. None of these needs a search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.check.answers import NO_CHANGE, NOT_LOOKED_AT, UNTESTED
from tests.cli.test_check import TAKES, patch
from tests.clock import PATIENCE
from tests.compiled import small

COMMENT = ("static bool vmap_try_huge_pmd(", "/* so */ static bool vmap_try_huge_pmd(")


def check(cwd: Path, *arguments: str | Path, stdin: str = "") -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "check", "-s", "pmd-promotion", "--json", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=cwd,
        env={**os.environ, "XDG_CACHE_HOME": str(cwd / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def git(tree: Path, *arguments: str) -> str:
    names = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(tree), *names, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def commit(tree: Path, subject: str, file: str, *edits: tuple[str, str]) -> None:
    path = tree / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.is_file() else ""
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text or "int unused(void)\n{\n\treturn 0;\n}\n")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", subject)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git tree of the small kernel with one commit, `start`."""
    tree = small.copy_tree(tmp_path / "linux")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "start")
    git(tree, "tag", "start")
    return tree


def test_standard_input_is_a_series(tmp_path: Path) -> None:
    one = patch(tmp_path / "one", "mm/vmalloc.c", COMMENT).read_text()
    mail = f"From: A <a@example.org>\nSubject: [PATCH] mm: so it is\n\nText.\n---\n{one}-- \n2.39\n"
    status, data, err = check(tmp_path, "--tree", small.SOURCES, "--patch", "-", stdin=mail)
    assert (status, data["answer"]) == (0, NO_CHANGE), err
    assert data["series"] == ["standard input: mm: so it is"]
    # the file that it is kept in meanwhile is named nowhere
    status, data, err = check(tmp_path, "--tree", small.SOURCES, "--patch", "-", stdin=one.replace("\n-", "\n-x"))
    assert (status, data["answer"]) == (125, UNTESTED), err
    assert str(data["why"]).startswith("standard input does not apply: ")
    status, data, err = check(tmp_path, "--tree", small.SOURCES, "--patch", "-", stdin="nothing")
    assert status == 2 and "standard input holds no patch" in err and not data


def test_commits_are_read_and_the_checkout_is_not(tmp_path: Path, repository: Path) -> None:
    commit(repository, "mm: a comment", "mm/vmalloc.c", COMMENT)
    commit(repository, "drivers: one", "drivers/x/one.c")
    git(repository, "tag", "topic")
    # what is checked out is another commit, with changes that nobody asks about
    git(repository, "checkout", "-q", "--detach", "start")
    (repository / "mm/vmalloc.c").write_text("nothing that compiles")
    before = [git(repository, "status", "--porcelain"), git(repository, "worktree", "list"), git(repository, "reflog")]
    index = (repository / ".git/index").read_bytes()
    status, data, err = check(tmp_path, "--tree", repository, "--base", "start", "--head", "topic")
    assert (status, data["answer"], data["comments_only"]) == (0, NO_CHANGE, ["mm/vmalloc.c"]), err
    assert [one.partition(" ")[2] for one in data["series"]] == ["mm: a comment", "drivers: one"]
    assert data["not_looked_at"] == ["drivers/x/one.c"] and data["images"] == []
    after = [git(repository, "status", "--porcelain"), git(repository, "worktree", "list"), git(repository, "reflog")]
    assert before == after and (repository / ".git/index").read_bytes() == index
    # a patch goes on a commit as well
    other = patch(tmp_path / "other", "mm/vmalloc.c", COMMENT)
    status, data, err = check(tmp_path, "--tree", repository, "--base", "start", "--patch", other)
    assert (status, data["answer"]) == (0, NO_CHANGE), err


@small.needs_compiler
def test_a_second_run_with_the_same_base_builds_one_tree(tmp_path: Path, repository: Path) -> None:
    commit(repository, "mm: does not compile", "mm/vmalloc.c", (TAKES, "\tif (no_such_name)\n\t\treturn 0;\n"))
    git(repository, "tag", "first")
    git(repository, "checkout", "-q", "--detach", "start")
    commit(repository, "mm: has a name that is not used", "mm/unused.c")
    git(repository, "checkout", "-q", "--detach", "start")
    status, data, err = check(tmp_path, "--tree", repository, "--base", "start", "--head", "first")
    assert (status, data["answer"]) == (125, UNTESTED), err
    assert "no_such_name" in data["why"]
    (built,) = (tmp_path / "cache").rglob("base/image.json")
    made = built.stat().st_mtime_ns
    status, data, err = check(tmp_path, "--tree", repository, "--base", "start", "--head", "HEAD@{1}")
    assert (status, data["answer"]) == (125, NOT_LOOKED_AT), err
    assert "unused (no image has it" in data["why"] and built.stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--base", "nothing-like-it"), "knows no nothing-like-it"),
        (("--base", "start", "--head", "nothing-like-it"), "knows no nothing-like-it"),
        (("--head", "start"), "--head goes with --base"),
        (("--base", "start", "--head", "start", "--patch", "-"), "--head goes with --base, and without --patch"),
        (("--patch", "-", "--patch", "-"), "standard input can be read once"),
        ((), "give --patch, or --base"),
        (("--base=--output=x",), "knows no --output=x"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, repository: Path, arguments: tuple[str, ...], message: str) -> None:
    status, data, err = check(tmp_path, "--tree", repository, *arguments)
    assert status == 2 and not data
    assert message in err and "Traceback" not in err


def test_a_folder_that_git_does_not_know_is_one_line(tmp_path: Path) -> None:
    status, _, err = check(tmp_path, "--tree", tmp_path, "--base", "HEAD")
    assert status == 2 and "not a git repository" in err and "Traceback" not in err


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path: Path, repository: Path) -> None:
    commit(repository, "mm: a comment", "mm/vmalloc.c", COMMENT)
    (tmp_path / "file").touch()
    status, _, err = check(tmp_path, "--tree", repository, "--base", "start", "--out", tmp_path / "file/out")
    assert status == 2 and "Not a directory" in err and "Traceback" not in err


def test_no_difference_is_no_change(tmp_path: Path, repository: Path) -> None:
    status, data, err = check(tmp_path, "--tree", repository, "--base", "start")
    assert (status, data["answer"], data["why"]) == (0, NO_CHANGE, "no file changes"), err
