"""The compiler that objects are made with: found, and new enough for the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fuzzvm.kbuild.arch import KernelArch
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.packages import building

CC = re.compile(r"(gcc|clang)(?:-\d+)?")
"""What --cc may be: a compiler, with a version if that is to be a certain one."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler. `program` is what make calls CC, `text` the first line of what it says of itself."""

    family: str
    program: str
    text: str

    @property
    def version(self) -> tuple[int, ...]:
        """Return its version: the last number with points that it says of itself, outside of brackets."""
        found = re.findall(r"\b\d+(?:\.\d+)+", re.sub(r"\([^)]*\)", "", self.text))
        return tuple(map(int, found[-1].split("."))) if found else ()


def find(cc: str, arch: KernelArch, tree: Path) -> Compiler:
    """Return the compiler for an architecture. Raises KbuildError that names the packages that are missing."""
    without_objtool = tree.is_dir() and not (tree / "tools/objtool").is_dir()
    missing = [
        package
        for package, there in building(arch).items()
        if not there and not (without_objtool and package in arch.needs.values())
    ]
    family = cc.partition("-")[0]
    if family == "gcc":
        program = arch.cross + cc
        package = arch.target + cc.removeprefix("gcc") if not arch.cross else f"{cc}-{arch.cross.rstrip('-')}"
    else:
        program = cc if cc != "clang" or shutil.which(cc) else newest_clang() or cc
        package = cc
    if shutil.which(program) is None and package not in missing:
        missing.append(package)
    if missing:
        raise KbuildError(f"packages are missing: apt-get install {' '.join(missing)}")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return Compiler(family, program, (said.stdout.splitlines() or [""])[0].strip())


def newest_clang() -> str | None:
    """Return the clang with the highest number that PATH has; Debian's extra packages have no plain name."""
    numbers = set()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        numbers |= {
            int(path.name[6:]) for path in Path(folder or ".").glob("clang-[0-9]*") if path.name[6:].isdecimal()
        }
    return f"clang-{max(numbers)}" if numbers else None


def check_version(compiler: Compiler, tree: Path, arch: KernelArch) -> None:
    """Raise KbuildError where a tree needs a newer compiler (scripts/min-tool-version.sh)."""
    script = tree / "scripts/min-tool-version.sh"
    if not script.is_file() or not compiler.version:
        return
    asked = subprocess.run(
        ["sh", str(script), "llvm" if compiler.family == "clang" else "gcc"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "ARCH": arch.kernel_name, "SRCARCH": arch.folder},
    )
    needed = tuple(int(part) for part in asked.stdout.strip().split(".") if part.isdecimal())
    if compiler.version < needed:
        here = ".".join(map(str, compiler.version))
        raise KbuildError(
            f"this tree needs {compiler.family} {asked.stdout.strip()} or newer, and {compiler.program} is {here}: "
            f"name another by --cc, such as {compiler.family}-{needed[0] + 2}"
        )
