"""The files that a kernel's objects were made from, as kbuild's command files name them."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_USED = re.compile(r"^(?:source_\S+ := |  )(\S+?)(?: \\)?$", re.MULTILINE)


def command_file(name: str) -> str:
    """Return where kbuild says what it made an object from."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/.{file}.cmd"


def used(folder: Path, commands: Sequence[Path]) -> Iterator[Path]:
    """Yield every file that objects were made from, as kbuild's command files name it; relative to make's folder."""
    seen = set()
    for command in commands:
        for name in _USED.findall(command.read_text(encoding="utf-8", errors="replace")):
            if name not in seen and not name.startswith("$("):
                seen.add(name)
                yield folder / name


def named(used: Sequence[Path], tree: Path, folder: Path) -> dict[str, Path]:
    """Return files by their names in the tree or in make's folder; those of the compiler are left out."""
    names: dict[str, Path] = {}
    for path in used:
        for root in (folder, tree):
            if path.is_relative_to(root):
                names[os.path.normpath(path.relative_to(root))] = path
                break
    return names


def contents(used: Sequence[Path], tree: Path, folder: Path) -> str:
    """Return the digest of the names and contents of files; those of the compiler are left out."""
    names = named(used, tree, folder)
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name} {hashlib.sha256(names[name].read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
