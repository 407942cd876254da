"""Which Debian packages building a kernel takes."""

from __future__ import annotations

import shutil
from pathlib import Path

from fuzzvm.kbuild.arch import KernelArch

PROGRAMS = {
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "gcc": "gcc",
    "ld": "binutils",
    "xz": "xz-utils",
}
"""The package of each program that the build of any kernel runs."""


def building(arch: KernelArch) -> dict[str, bool]:
    """Return the packages that building a kernel for an architecture takes, each with whether it is here."""
    found = {package: shutil.which(program) is not None for program, package in PROGRAMS.items()}
    if arch.cross:
        found[arch.target] = shutil.which(arch.gcc) is not None
    return found | {package: Path(file).exists() for file, package in arch.needs.items()}
