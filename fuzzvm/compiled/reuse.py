"""Takes the objects of a tree's build for one of the same tree with patches, so that make compiles what these change.

Make's folder of the base is copied, times included, and the base's source and folder are replaced by the new ones in
kbuild's command files. Make then finds every command as it was, and of all files only the patched ones newer than the
objects. That is done where nothing but the content of files of C and assembler changes. What make did is checked
afterwards, since an object that was not compiled anew would show the code without the patch (docs/decisions/0019).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.compiled import make_folder, manifest, read_files
from fuzzvm.compiled.manifest import FRAGMENT

_CODE = (".c", ".h", ".S")
_MAKES = ("scripts/", "tools/", "usr/")
"""Folders of what builds a kernel."""


def begun(
    base: Path, tree: Path, fragment: str, compiler: str, out: Path, source: Path, patched: Sequence[str]
) -> Reuse | None:
    """Return how a build of a patched tree begins with the objects of an image of the tree, None where it must not."""
    made = manifest.read(base)
    same = (made.source, made.compiler, made.patches) == (str(tree.resolve()), compiler, [])
    if not same or source == tree.resolve() or (base / FRAGMENT).read_text(encoding="utf-8") != fragment:
        return None
    found = Reuse(base, tree.resolve(), out, source, tuple(patched))
    return found if found.possible else None


@dataclass(frozen=True)
class Reuse:
    """A build below `out` of `source`, which is `tree` with `patched` files, and the image of `tree` below `base`.

    Both are made with the same options by the same compiler.
    """

    base: Path
    tree: Path
    out: Path
    source: Path
    patched: tuple[str, ...]

    @property
    def possible(self) -> bool:
        """Whether the build can begin with the objects of the base.

        Files that come, go or are links, and files of how a kernel is built, are left to a build from the start: make
        does not know who would read them, and the kernel may be configured otherwise.
        """
        return make_folder.is_settled(self.base) and all(map(self._is_plain, self.patched))

    def _is_plain(self, name: str) -> bool:
        there = all((root / name).is_file() and not (root / name).is_symlink() for root in (self.tree, self.source))
        return there and name.endswith(_CODE) and not name.startswith(_MAKES)

    def take(self, key: str) -> Path:
        """Return make's folder of the build, with what that of the base has made."""
        old, new = _folder(self.base), _folder(self.out)
        make_folder.begin_again(self.out, key)
        if new.exists():
            shutil.rmtree(new)
        shutil.copytree(old, new, symlinks=True)
        paths = {str(old): str(new), str(self.tree): str(self.source)}
        named = re.compile("|".join(rf"(?:(?<=-I)|(?<![\w./-])){re.escape(path)}(?![\w.-])" for path in paths))
        for command in new.rglob(".*.cmd"):
            text = command.read_text(encoding="utf-8", errors="surrogateescape")
            text = named.sub(lambda found: paths[found[0]], text)
            command.write_text(text, encoding="utf-8", errors="surrogateescape")
        return new

    def is_whole(self) -> bool:
        """Return whether make has made anew all that is made of patched files.

        Nothing may be made of a file of the base's tree or folder either.
        """
        old, new = _folder(self.base), _folder(self.out)
        changed = {str(self.source / name) for name in self.patched}
        for command in new.rglob(".*.cmd"):
            made = command.with_name(command.name[1 : -len(".cmd")])
            used = {os.path.normpath(path) for path in read_files.used(new, [command])}
            if any(path.startswith((f"{old}/", f"{self.tree}/")) for path in used):
                return False
            if used & changed and _time(made) == _time(old / made.relative_to(new)):
                return False
        return True


def _folder(out: Path) -> Path:
    return (out / "build").resolve()


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
