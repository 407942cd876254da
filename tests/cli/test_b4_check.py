"""`fuzzvm b4-check`, called as b4 calls it: a message on standard input, tracking data by name. Nothing is built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_check import patch
from tests.cli.test_check_inputs import COMMENT, commit, git
from tests.clock import PATIENCE
from tests.compiled import small

NEW_DRIVER = "--- /dev/null\n+++ b/drivers/x/one.c\n@@ -0,0 +1 @@\n+int one;\n"
REVIEW = "b4/review/20261130-lock-v1"


def message(subject: str, body: str) -> str:
    return f"From: A <a@example.org>\nSubject: {subject}\nMessage-ID: <1@example.org>\n\nText.\n---\n{body}-- \n2.39\n"


def b4_check(tree: Path, text: str, *arguments: str, tracking: Path | None = None) -> tuple[int, Any, str]:
    environment = {name: value for name, value in os.environ.items() if name != "B4_TRACKING_FILE"}
    environment |= {"XDG_CACHE_HOME": str(tree.parent / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    if tracking is not None:
        environment["B4_TRACKING_FILE"] = str(tracking)
    done = subprocess.run(
        [sys.executable, "-m", "fuzzvm", "b4-check", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tree,
        env=environment,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    tree = small.copy_tree(tmp_path / "linux")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "start")
    return tree


@pytest.fixture
def tracking(repository: Path) -> Path:
    """A review branch with two patches, and what stands in the tree is another commit that nobody asks about."""
    start = git(repository, "rev-parse", "HEAD").strip()
    commit(repository, "mm: a comment", "mm/vmalloc.c", COMMENT)
    first = git(repository, "rev-parse", "HEAD").strip()
    commit(repository, "mm: another", "mm/vmalloc.c", ("/* so */ static", "/* or so */ static"))
    git(repository, "commit", "-q", "--allow-empty", "-m", "b4's own")
    git(repository, "branch", REVIEW)
    git(repository, "checkout", "-q", "--detach", start)
    (repository / "mm/vmalloc.c").write_text("nothing that a patch applies to")
    path = repository.parent / "tracking.json"
    change = REVIEW.removeprefix("b4/review/")
    path.write_text(json.dumps({"series": {"change-id": change, "first-patch-commit": first, "base-commit": start}}))
    return path


def test_what_touches_nothing_of_ours_is_an_empty_array(repository: Path) -> None:
    assert b4_check(repository, message("[PATCH] x: one", NEW_DRIVER)) == (0, [], "")
    assert not (repository.parent / "cache").exists()


def test_a_patch_is_checked_on_the_tree_as_it_stands(repository: Path, tmp_path: Path) -> None:
    text = patch(tmp_path / "one", "mm/vmalloc.c", COMMENT).read_text()
    status, results, err = b4_check(repository, message("[PATCH v2] mm: a comment", text))
    assert status == 0 and len(results) == 1, err
    (result,) = results
    assert set(result) == {"tool", "status", "summary", "url", "details"}
    assert all(isinstance(value, str) for value in result.values())
    assert (result["tool"], result["status"]) == ("fuzzvm", "pass")
    assert result["summary"] == "no change: only comments and white space change"
    assert "standard input: mm: a comment" in result["details"]
    (repository / "mm/vmalloc.c").write_text("another\n")
    status, results, _ = b4_check(repository, message("[PATCH] mm: a comment", text))
    assert (status, results[0]["status"]) == (0, "warn")
    assert results[0]["summary"].startswith("cannot be tested: standard input does not apply")
    # the commit is asked for: what is checked out is not read
    status, results, err = b4_check(repository, message("[PATCH] mm: a comment", text), "--base", "HEAD")
    assert (status, results[0]["status"]) == (0, "pass"), err


def test_a_series_is_that_of_the_review_branch(repository: Path, tracking: Path) -> None:
    cover = "From: A <a@example.org>\nSubject: [PATCH 0/2] cover\n\n mm/vmalloc.c | 2 +-\n"
    status, results, err = b4_check(repository, cover, "--series", tracking=tracking)
    assert status == 0, err
    assert results[0]["status"] == "pass"
    assert "mm: a comment" in results[0]["details"] and "mm: another" in results[0]["details"]
    assert "b4's own" not in results[0]["details"]


def test_a_patch_of_the_review_branch_is_compared_with_the_commit_before(
    repository: Path, tracking: Path, tmp_path: Path
) -> None:
    text = patch(tmp_path / "one", "mm/vmalloc.c", COMMENT).read_text().replace("so", "or so")
    status, results, err = b4_check(repository, message("[PATCH 2/2] mm: another", text), tracking=tracking)
    assert status == 0, err
    assert results[0]["status"] == "pass"
    assert "mm: another" in results[0]["details"] and "mm: a comment" not in results[0]["details"]


@pytest.mark.parametrize(
    ("text", "data", "said"),
    [
        ("Subject: [PATCH 0/2] cover\n\nNo patch.\n", None, "B4_TRACKING_FILE names none"),
        ("", None, "the message has no patch"),
        (message("[PATCH] x", NEW_DRIVER), "no JSON", "is no tracking data of b4"),
        (message("[PATCH] x", NEW_DRIVER), "[]", "is no tracking data of b4"),
        (
            message("[PATCH] x", NEW_DRIVER),
            '{"series": {"first-patch-commit": "--all", "change-id": "x"}}',
            "no commit",
        ),
    ],
)
def test_what_could_not_run_has_a_status_and_no_array(
    repository: Path, tmp_path: Path, text: str, data: str | None, said: str
) -> None:
    path = None
    if data is not None:
        path = tmp_path / "tracking.json"
        path.write_text(data)
    status, results, err = b4_check(repository, text, tracking=path)
    assert (status, results) == (2, None)
    assert said in err and "Traceback" not in err
