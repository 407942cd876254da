"""Edits to a kernel tree that let the race happen, each checked against what it finds.

Nothing of the kernel's text is kept here but the few words that an edit looks for. An edit that does not find exactly
what it expects raises RealKernelError and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.realkernel.errors import RealKernelError

MAX_BYTES = 4 << 20
"""Of a source file."""
_LEVELS = {"pmd": "pte", "pud": "pmd", "p4d": "pud"}
_COMMENT = r"(?:\t/\*(?:(?!\*/).)*\*/\n)?"


def without_trylock(text: str) -> str:
    """Return mm/vmalloc.c without the lock that vmap_try_huge_* try to take on init_mm around a promotion.

    For each level: the comment and the trylock before the table is freed go, and so do both unlocks after it. Raises
    RealKernelError where a level's code is not of that form.
    """
    for level, below in _LEVELS.items():
        pattern = re.compile(
            _COMMENT + r"\tif \(!mmap_read_trylock\(&init_mm\)\)\n\t\treturn 0;\n\n"
            rf"(?P<call>\tif \(!{level}_free_{below}_page\({level}, addr\)\)) \{{\n"
            r"\t\tmmap_read_unlock\(&init_mm\);\n(?P<fail>\t\treturn 0;\n)\t\}\n"
            rf"(?P<set>\n\tret = {level}_set_huge\([^;]*;\n)\tmmap_read_unlock\(&init_mm\);\n",
            re.DOTALL,
        )
        text, found = pattern.subn(r"\g<call>\n\g<fail>\g<set>", text)
        if found != 1:
            raise RealKernelError(
                f"mm/vmalloc.c: vmap_try_huge_{level}() does not take init_mm's mmap_lock by mmap_read_trylock as "
                "expected, so that it cannot be taken out; a tree without that fix needs no --revert-fix"
            )
    return text


def with_huge_beside_ptdump(text: str) -> str:
    """Return arch/arm64's asm/vmalloc.h with huge vmalloc allowed though CONFIG_PTDUMP_DEBUGFS is on.

    Raises RealKernelError where the two tests for it are not found.
    """
    edited, found = re.subn(r"!IS_ENABLED\(CONFIG_PTDUMP_DEBUGFS\)", "true", text)
    if found != 2:
        raise RealKernelError(
            f"arch/arm64/include/asm/vmalloc.h tests CONFIG_PTDUMP_DEBUGFS {found} times, not twice; "
            "a tree that allows huge vmalloc beside it needs no --revert-fix"
        )
    return edited


@dataclass(frozen=True, slots=True)
class Edit:
    """What is done to one file of the tree."""

    path: Path
    apply: Callable[[str], str]


_VMALLOC = Edit(Path("mm/vmalloc.c"), without_trylock)
EDITS: dict[str, tuple[Edit, ...]] = {
    "x86_64": (_VMALLOC,),
    "arm64": (_VMALLOC, Edit(Path("arch/arm64/include/asm/vmalloc.h"), with_huge_beside_ptdump)),
}
"""What `--revert-fix` does, for each architecture."""


def apply(tree: Path, edits: tuple[Edit, ...]) -> list[Path]:
    """Apply edits to a tree, all or none; return what was written. Raises RealKernelError.

    The files are replaced, not written into: the tree may share them with another one by hard links.
    """
    edited: list[tuple[Path, str]] = []
    for edit in edits:
        path = tree / edit.path
        try:
            text = read_text(path, MAX_BYTES)
        except FileError as error:
            raise RealKernelError(str(error)) from error
        edited.append((path, edit.apply(text)))
    for path, text in edited:
        path.unlink()
        path.write_text(text, encoding="utf-8")
    return [path for path, _ in edited]
