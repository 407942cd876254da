"""git, asked about a tree: it reads, and writes neither to checkout, index nor references."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from fuzzvm.kbuild.errors import KbuildError


def git(tree: Path, *arguments: str) -> bytes:
    """Return what a command of git prints that reads a tree. Raises KbuildError with the first thing that it says."""
    if shutil.which("git") is None:
        raise KbuildError("packages are missing: apt-get install git")
    ran = subprocess.run(
        ["git", "-C", str(tree), "-c", "core.quotePath=false", *arguments],
        capture_output=True,
        check=False,
        env=environment(),
    )
    if ran.returncode:
        what = last_line(ran.stderr) or f"git {arguments[0]} knows no {arguments[-1].removesuffix('^{commit}')}"
        raise KbuildError(f"{tree}: {what}")
    return ran.stdout


def environment() -> dict[str, str]:
    """Return what git is started with."""
    # a hook or an alias of git has them set to another tree
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return own | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def last_line(said: bytes) -> str:
    """Return the last line of what git has said, "" where it has said nothing."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("fatal: ") if lines else ""
