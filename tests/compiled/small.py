"""A small kernel, from the project's own C in the kernel's manner: images in seconds, without kernel sources.

small_kernel/ is a tree as `fuzzvm image build --tree` takes it; files and functions are called as the kernel's, so what
is modelled of a kernel is modelled of it.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from fuzzvm.compiled import toolchain
from fuzzvm.kbuild.arch import ARM64, X86_64

SOURCES = Path(__file__).parent / "small_kernel"
FRAGMENT = "CONFIG_SMALL_NO_TRYLOCK=y\n"
"""Further options: promote without init_mm's lock, which is a use after free."""

CLANG = shutil.which("clang") or toolchain.newest_clang()
"""A clang of any version; without one its tests are skipped."""
needs_compiler = pytest.mark.skipif(
    shutil.which(ARM64.gcc) is None, reason="no aarch64-linux-gnu-gcc: apt-get install gcc-aarch64-linux-gnu"
)
needs_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which(X86_64.gcc) is None, reason="no gcc for x86_64: apt-get install gcc"
)
"""Marks tests of the small kernel for x86_64, which this machine's own gcc compiles."""


def copy_tree(into: Path, edits: dict[str, tuple[str, str]] | None = None) -> Path:
    """Copy the small kernel's tree; `edits` gives, by file, a text that it has once, and what is to stand there."""
    shutil.copytree(SOURCES, into)
    for name, (old, new) in (edits or {}).items():
        text = (into / name).read_text()
        assert text.count(old) == 1, f"{name} has {text.count(old)} times: {old}"
        (into / name).write_text(text.replace(old, new))
    return into


def build_image(folder: Path, edits: dict[str, tuple[str, str]] | None = None, config: str = "", **given: Any) -> Path:
    """Build an image of the small kernel below a folder, and return its own; `given` are fields of `build.Options`."""
    from fuzzvm.compiled.build import Options, build

    fragment = None
    if config:
        fragment = folder / "fragment"
        fragment.write_text(config)
    tree = copy_tree(folder / "tree", edits) if edits else SOURCES
    build(Options(tree=tree, fragment=fragment, jobs=2, **given), folder / "image")
    return folder / "image"
