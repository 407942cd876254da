"""The user's kernel source: a tree or an archive of one, as make is given it. The user's own is never written to.

make builds out of tree from a clean tree, so a tree as it is serves as it is. One that is to be patched, or that was
built in, is seen through an overlay: a folder of symbolic links, with real copies of the files that differ.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from fuzzvm.kbuild.arch import KernelArch
from fuzzvm.kbuild.errors import KbuildError
from fuzzvm.kbuild.run import run

UNPACK_SECONDS = 1800.0
ASIDE = ("Documentation", "drivers", "fs", "net", "samples", "sound", "tools/perf", "tools/testing")
_ARCHITECTURES = (
    *(
        "alpha",
        "arc",
        "arm",
        "arm64",
        "csky",
        "hexagon",
        "loongarch",
        "m68k",
        "microblaze",
        "mips",
        "nios2",
        "openrisc",
    ),
    *("parisc", "powerpc", "riscv", "s390", "sh", "sparc", "x86", "xtensa"),
)
"""Folders of which an object in another folder needs Kconfig and Makefiles only, and those below arch/."""
ASIDE_SOURCES = ("*.[chS]", "*.rst", "*.dts*", "*.yaml", "*.txt", "*.rs", "*.json", "*.svg", "*defconfig")
_PRODUCTS = ("include/config", "include/generated", "arch/*/include/generated", "Module.symvers", ".config*")
"""What the kernel's Makefile calls an unclean tree (MRPROPER_FILES)."""


def check_apart(out: Path, source: Path) -> None:
    """Raise KbuildError where a folder to build in and the user's source overlap."""
    folder, given = out.resolve(), source.resolve()
    if given.is_relative_to(folder) or folder.is_relative_to(given):
        raise KbuildError(f"{source} and {out}: the source and the folder to build in must lie apart")


def take_folder(out: Path, marker: str, command: str) -> None:
    """Make a folder to build in. Raises KbuildError where it holds anything that `command` has not made.

    `marker` is the first file that the command makes, by which its folder is known.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise KbuildError(f"{out} is not empty, and nothing that `{command}` made: name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KbuildError(f"{out}: {error.strerror}") from error


def is_tree(folder: Path) -> bool:
    """Return whether a folder holds a kernel's source."""
    return all((folder / name).is_file() for name in ("Kbuild", "Kconfig", "Makefile"))


def is_clean(tree: Path, arch: KernelArch) -> bool:
    """Return whether make builds out of tree from it: whether nobody has configured or built in it."""
    there = (".config", "include/config", "include/generated", f"arch/{arch.folder}/include/generated")
    return not any((tree / name).exists() for name in there)


def version(tree: Path) -> str:
    """Return the kernel's version as its Makefile states it, such as "7.3.4"."""
    head = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")[:4096]
    found: dict[str, str] = dict(
        re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(.*)$", head, re.MULTILINE)
    )
    parts = [found[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if found.get(name)]
    return ".".join(parts) + found.get("EXTRAVERSION", "")


def stamp(tree: Path) -> str:
    """Return a digest of the name, size and time of every file, by which a change is seen; git's own are left out."""
    digest = hashlib.sha256()
    for path, entry in _files(str(tree), ""):
        stat = entry.stat(follow_symlinks=False)
        digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: str, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != ".git":
                yield from _files(entry.path, f"{below}{entry.name}/")
        else:
            yield below + entry.name, entry


def overlay(tree: Path, into: Path, arch: KernelArch, copies: Iterable[str]) -> None:
    """Make a folder that shows a tree by symbolic links, with copies of some files, and without what a build left.

    Every directory that holds a copy, and each below the root, is real; the others are links as a whole. A C file that
    names another by `..` from inside a linked directory therefore comes to the user's tree: see `check_includes`.
    """
    shutil.rmtree(into, ignore_errors=True)
    tree = tree.resolve()
    copied = set(copies)
    real = {str(parent) for name in copied for parent in PurePosixPath(name).parents}
    built = not is_clean(tree, arch)
    # where the objects are made that a build of a few takes along
    made = ("arch", f"arch/{arch.folder}", "include", "init", "kernel", "lib", "mm", "scripts", "usr")

    def is_real(name: str) -> bool:
        if "/" not in name or name in real:
            return True
        return built and (name in made or any(name.startswith(f"{top}/") for top in made if top != "arch"))

    def show(below: str) -> None:
        source, target = tree / below, into / below
        target.mkdir()
        with os.scandir(source) as entries:
            found = {entry.name: entry for entry in entries}
        for name, entry in found.items():
            path = f"{below}/{name}" if below else name
            if name == ".git" or (built and _is_product(path, found)):
                continue
            if entry.is_dir(follow_symlinks=False) and is_real(path):
                show(path)
            elif path in copied:
                shutil.copy2(entry.path, target / name)
                (target / name).chmod(0o644 | entry.stat().st_mode & 0o111)
            else:
                (target / name).symlink_to(entry.path)

    show("")
    # a patch may make files in directories that are not there
    for name in real:
        (into / name).mkdir(parents=True, exist_ok=True)


def _is_product(path: str, beside: Iterable[str]) -> bool:
    """Return whether a build made a file: kbuild leaves `.NAME.cmd` beside what it makes."""
    name = path.rpartition("/")[2]
    return (
        f".{name}.cmd" in beside
        or name.endswith((".o", ".a", ".cmd", "-offsets.h"))
        or any(fnmatch.fnmatch(path, pattern) for pattern in _PRODUCTS)
    )


def check_includes(tree: Path, copies: Iterable[str], used: Iterable[Path]) -> None:
    """Raise KbuildError where a file of the user's tree was read in place of its copy in an overlay."""
    originals = {os.path.realpath(tree / name): name for name in copies}
    for path in used:
        if (name := originals.get(os.path.realpath(path))) is not None:
            raise KbuildError(
                f"{path}: a file names {name} in a way that leads past the patch: patch a copy of the tree"
            )


def unpack(archive: Path, into: Path, arch: KernelArch, wanted: Iterable[str], log: Path) -> None:
    """Unpack an archive of a kernel tree, without sources that no object of `wanted` can need.

    Raises KbuildError where it is no such archive.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    wanted = set(wanted)
    try:
        with tarfile.open(archive, "r|*") as members:
            first = members.next()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise KbuildError(f"{archive} is no archive of a kernel tree ({error})") from error
    root = first.name.partition("/")[0] if first is not None else ""
    aside = [*ASIDE, *(f"arch/{other}" for other in _ARCHITECTURES if other != arch.folder)]
    aside = [folder for folder in aside if not any(name.startswith(f"{folder}/") for name in wanted)]
    leave = [
        f"{root}/{folder}/{files}" for folder in (*aside, f"arch/{arch.folder}/boot/dts") for files in ASIDE_SOURCES
    ]
    options = ["--anchored", "--wildcards", "--wildcards-match-slash", *(f"--exclude={name}" for name in leave)]
    command = ["tar", "xf", str(archive.resolve()), "-C", str(into.resolve()), "--strip-components=1", *options]
    run(command, log, UNPACK_SECONDS)
    if not is_tree(into):
        raise KbuildError(f"{archive} is no archive of a kernel tree")
