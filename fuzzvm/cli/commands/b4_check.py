"""`fuzzvm b4-check`: a review check command of b4.

b4 (0.16, b4/review/checks.py) runs such a command in the top folder of the git tree, with a message on standard input
and, where the series has a review branch, the name of a file with its tracking data in B4_TRACKING_FILE. It takes a
JSON array of objects with tool, status (pass, warn or fail), summary, url and details.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from fuzzvm.check.git import git
from fuzzvm.cli.checking import Asked, Given, check_options, checked, spooled
from fuzzvm.cli.common import ended_like_ctrl_c, print_json
from fuzzvm.files.reading import read_bytes
from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.patches import MAX_BYTES, Patch
from fuzzvm.report.check_mail import check_mail

TRACKING = "B4_TRACKING_FILE"
MAX_TRACKING = 16 << 20
STATUS = {"no change": "pass", "fixed": "pass", "broken": "fail"}
"""All other answers warn: what was broken before, or could not be said, is not the series' doing."""
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_NAME = re.compile(r"[\w./+-]+")


@click.command("b4-check")
@click.option(
    "--tree",
    default=".",
    type=click.Path(path_type=Path, file_okay=False),
    help="Kernel source. Default: the git tree of the current folder.",
)
@click.option("--base", metavar="REV", help="Commit to apply a patch to. Default: the files as they are checked out.")
@click.option("--series", is_flag=True, help="Check the whole series of the review branch, whatever the message is.")
@check_options
def b4_check(tree: Path, base: str | None, series: bool, given: Given) -> int:
    """Check the patch of a message on standard input, as b4's review check commands do.

    Prints a JSON array with one result, or [] where the patch touches nothing that page-table code may depend on. A
    series that b4 has on a review branch is checked commit by commit, or as a whole with --series. Exit status 0, and 2
    where it could not run.

    \b
    git config b4.review-series-check-cmd "fuzzvm b4-check --series"
    git config b4.review-perpatch-check-cmd "fuzzvm b4-check"
    """
    with ended_like_ctrl_c(), spooled(sys.stdin.buffer.read(MAX_BYTES + 1)) as file:
        patch = _patch(file)
        top = Path(git(tree, "rev-parse", "--show-toplevel").decode().removesuffix("\n"))
        commits = _commits(top)
        if series and commits:
            asked = Asked(top, base=f"{commits[0]}~1", head=commits[-1])
        elif patch is None:
            raise KbuildError(
                "the message has no patch, and b4 tells of no review branch: "
                + ("give --series" if commits else f"{TRACKING} names none")
            )
        elif (commit := _commit_of(patch, top, commits)) is not None:
            asked = Asked(top, base=f"{commit}~1", head=commit)
        else:
            asked = Asked(top, (file,), base, None, file)
        data = checked(asked, given, ours=True)
    print_json([] if data is None or _is_not_ours(data) else [_result(data)])
    return 0


def _patch(file: Path) -> Patch | None:
    """Return the patch of a message, None for one that has none, such as a cover letter."""
    try:
        found = patching.read(file)
    except KbuildError:
        return None
    return found[0] if len(found) == 1 else None


def _commits(tree: Path) -> list[str]:
    """Return the commits of the series' patches on its review branch, none where b4 tells of no branch.

    Raises KbuildError for tracking data that are not b4's.
    """
    path = os.environ.get(TRACKING)
    if not path:
        return []
    try:
        series = json.loads(read_bytes(Path(path), MAX_TRACKING))["series"]
        first, branch = series["first-patch-commit"], f"b4/review/{series['change-id']}"
    except (ValueError, KeyError, TypeError) as error:
        raise KbuildError(f"{path} is no tracking data of b4") from error
    if not (isinstance(first, str) and _COMMIT.fullmatch(first) and _NAME.fullmatch(branch)):
        raise KbuildError(f"{path} names no commit of a first patch")
    # the last commit of the branch is b4's own
    range_ = f"{first}~1..refs/heads/{branch}~1"
    return git(tree, "rev-list", "--reverse", "--topo-order", range_).decode().split()


def _commit_of(patch: Patch, tree: Path, commits: list[str]) -> str | None:
    """Return the commit on the review branch that a patch has become, None where none has its subject alone."""
    found = [one for one in commits if _subject(tree, one) == patch.subject]
    return found[0] if len(found) == 1 else None


def _subject(tree: Path, commit: str) -> str:
    return " ".join(git(tree, "show", "--no-patch", "--format=%s", commit).decode(errors="replace").split())


def _is_not_ours(data: dict[str, Any]) -> bool:
    """Return whether nothing that the series changes is compiled into the image."""
    return data["answer"] == "no change" and bool(data["changed"]) and data["changed"] == data["not_looked_at"]


def _result(data: dict[str, Any]) -> dict[str, str]:
    pairs = [f"{pair['scenario']}, {pair['memory']}" for pair in data["pairs"] if pair["answer"] == data["answer"]]
    said = data["why"] or "; ".join(pairs)
    return {
        "tool": "fuzzvm",
        "status": STATUS.get(data["answer"], "warn"),
        "summary": f"{data['answer']}: {said}" if said else data["answer"],
        "url": "",
        # a mail without its subject: what was tested, and the schedule
        "details": check_mail(data).partition("\n\n")[2],
    }
