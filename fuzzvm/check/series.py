"""What a check applies to a tree: patches as files, or the difference of two commits of a git tree.

Of a git tree two commits are read and nothing else: neither the user's checkout nor the index nor any reference is
written to. The base is unpacked below the cache, once for each commit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.check.git import environment, git, last_line
from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.patches import Patch
from fuzzvm.kbuild.source import ASIDE, ASIDE_SOURCES, is_tree

STANDARD_INPUT = "standard input"
KEPT = 3
"""Base commits whose trees and images stay in the cache: the ones that were used last."""
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")


@dataclass(frozen=True)
class Series:
    """Patches, read, and the files that they are in. `outside` are changed files of which no patch is among them.

    `titles` are what the series is called where it comes from a git tree, a commit each.
    """

    files: tuple[Path, ...]
    patches: tuple[Patch, ...]
    outside: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return what its patches are called, with their subjects."""
        if self.titles:
            return self.titles
        return tuple(f"{patch.name}: {patch.subject}" if patch.subject else patch.name for patch in self.patches)


def from_files(files: Sequence[Path], standard_input: Path | None = None) -> Series:
    """Return the patches of files; one of them may hold what was read from standard input. Raises KbuildError."""
    found = []
    for file in files:
        try:
            read = patching.read(file)
        except KbuildError as error:
            if file != standard_input:
                raise
            raise KbuildError(str(error).replace(str(file), STANDARD_INPUT)) from error
        for patch in read:
            name = patch.name.replace(str(file), STANDARD_INPUT) if file == standard_input else patch.name
            found.append(Patch(name, patch.text, patch.files, patch.subject))
    return Series(tuple(files), tuple(found))


def commit(tree: Path, revision: str) -> str:
    """Return the commit that a revision of a git tree names. Raises KbuildError."""
    return git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()


def between(tree: Path, base: str, head: str, into: Path) -> Series:
    """Return the difference of two commits as one patch, written to a file. Raises KbuildError.

    Files that no object needs, and those that patch(1) cannot change, are `outside`.
    """
    raw = (
        git(tree, "diff", *_DIFF, "--raw", "-z", "--abbrev=40", base, head).decode(errors="surrogateescape").split("\0")
    )
    changed = {name: fields.split() for fields, name in zip(raw[::2], raw[1::2], strict=False)}
    numbers = git(tree, "diff", *_DIFF, "--numstat", "-z", base, head).decode(errors="surrogateescape").split("\0")
    binary = {line.split("\t", 2)[2] for line in numbers if line.startswith("-\t-\t")}
    plain = {":000000", ":100644", ":100755", "000000", "100644", "100755"}
    inside = [
        name
        for name, fields in changed.items()
        # where the mode alone changes, patch(1) has nothing to do
        if {fields[0], fields[1]} <= plain and fields[2] != fields[3] and name not in binary and not _aside(name)
    ]
    outside = tuple(sorted(changed.keys() - set(inside)))
    titles = git(tree, "log", "--reverse", "--format=%h %s", f"{base}..{head}").decode(errors="replace").splitlines()
    titles = titles or [f"{base[:12]} to {head[:12]}"]
    if not inside:
        return Series((), (), outside, tuple(titles))
    # a file each, as the names may be more than a command takes
    text = b"".join(
        git(tree, "--literal-pathspecs", "diff", *_DIFF, base, head, "--", *inside[start : start + 100])
        for start in range(0, len(inside), 100)
    )
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_bytes(text)
    names = tuple(sorted(inside))
    return Series((into,), (Patch(f"{base[:12]}..{head[:12]}", text, names),), outside, tuple(titles))


def unpacked(tree: Path, base: str, cache: Path, progress: Callable[[str], None]) -> Path:
    """Return a folder with the files of a commit that objects may need, unpacked once. Raises KbuildError."""
    folder = cache / base
    # another process may be at the same
    into, half = folder / "tree", folder / f"tree.{os.getpid()}"
    if not into.is_dir():
        progress(f"unpacking {base[:12]}")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        left_out = [f":(exclude,glob){one}/**/{files}" for one in ASIDE for files in ASIDE_SOURCES]
        command = ["git", "-C", str(tree), "archive", "--format=tar", base, "--", ".", *left_out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as archive:
            assert archive.stdout is not None and archive.stderr is not None
            untar = ["tar", "xf", "-", "-C", str(half)]
            ran = subprocess.run(untar, stdin=archive.stdout, capture_output=True, check=False)
            # it need not wait for tar, which may have ended before it
            archive.stdout.close()
            said = archive.stderr.read()
        if archive.returncode or ran.returncode:
            raise KbuildError(f"{tree} at {base[:12]}: {last_line(said) or last_line(ran.stderr)}")
        if not is_tree(half):
            raise KbuildError(f"{tree} at {base[:12]} is no kernel tree")
        try:
            half.rename(into)
        except OSError:
            if not into.is_dir():
                raise
            shutil.rmtree(half)
    os.utime(folder)
    _forget(cache, folder)
    return into


def _forget(cache: Path, current: Path) -> None:
    """Remove what was made for the commits that were used longest ago."""
    made = [path for path in cache.iterdir() if _COMMIT.fullmatch(path.name) and path != current and path.is_dir()]
    for path in sorted(made, key=lambda one: one.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _aside(name: str) -> bool:
    return any(name.startswith(f"{folder}/") for folder in ASIDE)
