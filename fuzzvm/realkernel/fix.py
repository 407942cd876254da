"""Takes a lock of the 2026 series out of a kernel tree, by edits that are checked against what they find.

A step is named as the ordering point of the release `linux-7.3` is that the same lock stands for (docs/releases.md).
Nothing of the kernel's text is kept here but the few words that an edit looks for. An edit that does not find exactly
what it expects raises RealKernelError and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.realkernel.errors import RealKernelError

MAX_BYTES = 4 << 20
"""Of a source file."""
PROMOTION = "promotion-lock"
_LEVELS = {"pmd": "pte", "pud": "pmd", "p4d": "pud"}
_COMMENT = r"(?:\t/\*(?:(?!\*/).)*\*/\n)?"


def without_trylock(text: str) -> str:
    """Return mm/vmalloc.c without the lock that vmap_try_huge_* try to take on init_mm around a promotion.

    For each level the comment and the trylock before the table is freed go: that of a guard (7.3), whose block stays,
    or a plain one (stable kernels) with both unlocks after it. Raises RealKernelError where a level's code has neither
    form.
    """
    for level, below in _LEVELS.items():
        free = rf"if \(!{level}_free_{below}_page\({level}, addr\)\)"
        guard = re.compile(
            _COMMENT + r"\tscoped_cond_guard\(mmap_read_lock_try, return 0, &init_mm\) \{\n"
            rf"(?P<block>\t\t{free}\n\t\t\treturn 0;\n\t\treturn {level}_set_huge\([^;]*;\n)",
            re.DOTALL,
        )
        plain = re.compile(
            _COMMENT + r"\tif \(!mmap_read_trylock\(&init_mm\)\)\n\t\treturn 0;\n\n"
            rf"(?P<call>\t{free}) \{{\n"
            r"\t\tmmap_read_unlock\(&init_mm\);\n(?P<fail>\t\treturn 0;\n)\t\}\n"
            rf"(?P<set>\n\tret = {level}_set_huge\([^;]*;\n)\tmmap_read_unlock\(&init_mm\);\n",
            re.DOTALL,
        )
        text, guards = guard.subn("\t{\n\\g<block>", text)
        text, plains = plain.subn(r"\g<call>\n\g<fail>\g<set>", text)
        if guards + plains != 1:
            raise RealKernelError(
                f"mm/vmalloc.c: vmap_try_huge_{level}() does not take init_mm's mmap_lock by a trylock as "
                f"expected, so that it cannot be taken out; a tree without that fix needs no --without-fix {PROMOTION}"
            )
    return text


def with_huge_beside_ptdump(text: str) -> str:
    """Return arch/arm64's asm/vmalloc.h with huge vmalloc allowed though CONFIG_PTDUMP_DEBUGFS is on.

    A header that does not test that option allows it already. Raises RealKernelError where it is tested in another way.
    """
    edited, found = re.subn(r"!IS_ENABLED\(CONFIG_PTDUMP_DEBUGFS\)", "true", text)
    if found != 2 and "CONFIG_PTDUMP" in text:
        raise RealKernelError(
            f"arch/arm64/include/asm/vmalloc.h has !IS_ENABLED(CONFIG_PTDUMP_DEBUGFS) {found} times, not twice"
        )
    return edited


def _step(
    step: str, arches: tuple[str, ...], path: str, *edits: tuple[str, str]
) -> dict[str, dict[str, tuple[Edit, ...]]]:
    """Return a row of STEPS that replaces texts in one file, each of which must be there once."""

    def apply(text: str) -> str:
        for old, new in edits:
            if text.count(old) != 1:
                raise RealKernelError(
                    f"{path} does not take init_mm's mmap_lock as expected, so that it cannot be taken out; "
                    f"a tree without that lock needs no --without-fix {step}"
                )
            text = text.replace(old, new)
        return text

    return {step: dict.fromkeys(arches, (Edit(Path(path), apply),))}


@dataclass(frozen=True, slots=True)
class Edit:
    """What is done to one file of the tree."""

    path: Path
    apply: Callable[[str], str]


_VMALLOC = Edit(Path("mm/vmalloc.c"), without_trylock)
_OTHER_MM = "\tif (mm != &init_mm)\n\t\t"
STEPS: dict[str, dict[str, tuple[Edit, ...]]] = {
    PROMOTION: {
        "x86_64": (_VMALLOC,),
        "arm64": (_VMALLOC, Edit(Path("arch/arm64/include/asm/vmalloc.h"), with_huge_beside_ptdump)),
    },
    **_step(
        "walk-init-lock",
        ("x86_64", "arm64"),
        "mm/ptdump.c",
        (f"{_OTHER_MM}mmap_write_lock_nested(&init_mm, SINGLE_DEPTH_NESTING);\n", ""),
        (f"{_OTHER_MM}mmap_write_unlock(&init_mm);\n", ""),
    ),
    **_step(
        "collapse-lock",
        ("x86_64",),
        "arch/x86/mm/pat/set_memory.c",
        (
            "\tscoped_guard(mmap_write_lock, &init_mm)\n\t\t__cpa_collapse_large_pages(cpa);\n",
            "\t__cpa_collapse_large_pages(cpa);\n",
        ),
    ),
    **_step(
        "attributes-lock",
        ("x86_64",),
        "arch/x86/mm/pat/set_memory.c",
        ("\tcpa.init_mm_read_locked = true;\n\tscoped_guard(mmap_read_lock, &init_mm)\n\t\tret =", "\tret ="),
    ),
    **_step(
        "lookup-lock",
        ("x86_64",),
        "arch/x86/kernel/alternative.c",
        ("\t\tguard(mmap_read_lock)(&init_mm);\n", ""),
    ),
}
"""What `--without-fix` does: by the name of a lock, for each architecture that has it, the edits that take it out."""


def edits(steps: Iterable[str], arch: str) -> tuple[Edit, ...]:
    """Return the edits of steps for an architecture. Raises RealKernelError where it has none of that name."""
    found: list[Edit] = []
    for step in steps:
        if step not in STEPS:
            raise RealKernelError(f"no fix is named {step}, only {', '.join(STEPS)}")
        if arch not in STEPS[step]:
            raise RealKernelError(f"{arch} has no {step}, only {', '.join(STEPS[step])}")
        found += STEPS[step][arch]
    return tuple(found)


def apply(tree: Path, edits: tuple[Edit, ...]) -> list[Path]:
    """Apply edits to a tree, all or none; return what was written. Raises RealKernelError.

    The files are replaced, not written into: the tree may share them with another one by hard links.
    """
    edited: dict[Path, str] = {}
    for edit in edits:
        path = tree / edit.path
        try:
            text = edited[path] if path in edited else read_text(path, MAX_BYTES)
        except FileError as error:
            raise RealKernelError(str(error)) from error
        edited[path] = edit.apply(text)
    for path, text in edited.items():
        path.unlink()
        path.write_text(text, encoding="utf-8")
    return list(edited)
