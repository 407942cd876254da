"""The trees of base commits that are kept."""

from __future__ import annotations

import os
from pathlib import Path

from fuzzvm.check.series import KEPT, unpacked
from tests.cli.test_check_inputs import git


def test_the_bases_that_were_used_last_are_kept(tmp_path: Path) -> None:
    tree, cache = tmp_path / "linux", tmp_path / "cache"
    tree.mkdir()
    git(tree, "init", "-q")
    commits = []
    for number in range(KEPT + 1):
        for name in ("Kbuild", "Kconfig", "Makefile"):
            (tree / name).write_text(f"# {number}\n")
        for name in ("drivers/x/one.c", "drivers/x/Kconfig", "mm/one.c"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).touch()
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", str(number))
        commits.append(git(tree, "rev-parse", "HEAD").strip())
    cache.mkdir()
    (cache / "mine").mkdir()
    for number, commit in enumerate(commits[:KEPT]):
        folder = unpacked(tree, commit, cache, lambda text: None)
        assert (folder / "Makefile").read_text() == f"# {number}\n"
        os.utime(cache / commit, (number, number))
    # sources of drivers are for no image, and what is configured by is there
    assert not (folder / "drivers/x/one.c").exists() and (folder / "drivers/x/Kconfig").exists()
    unpacked(tree, commits[0], cache, lambda text: None)
    unpacked(tree, commits[-1], cache, lambda text: None)
    assert {path.name for path in cache.iterdir()} == {"mine", commits[0], commits[2], commits[3]}
