"""Debian packages that building and driving kernels takes: which are missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from fuzzvm.kbuild.packages import building
from fuzzvm.realkernel.arch import ARCHES, PACKAGES


def packages(arches: Iterable[str]) -> dict[str, bool]:
    """Return the Debian packages that building and driving kernels takes, each with whether it is here."""
    found: dict[str, bool] = {}
    for arch in arches:
        machine = ARCHES[arch].machine
        found |= _building(arch) | {PACKAGES[machine]: shutil.which(machine) is not None}
    return found


def missing_packages(arch: str) -> list[str]:
    """Return the Debian packages that building a kernel for an architecture lacks here."""
    return [package for package, there in _building(arch).items() if not there]


def _building(arch: str) -> dict[str, bool]:
    builds = ARCHES[arch].builds
    # the guest's program is linked statically
    return building(builds) | {"libc6-dev-arm64-cross" if builds.cross else "libc6-dev": _has_static_libc(builds.gcc)}


def _has_static_libc(compiler: str) -> bool:
    if shutil.which(compiler) is None:
        return False
    asked = subprocess.run([compiler, "-print-file-name=libc.a"], capture_output=True, text=True, check=False)
    return Path(asked.stdout.strip()).is_absolute()
