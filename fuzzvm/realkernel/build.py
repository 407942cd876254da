"""Builds a kernel, the guest's program and its module from the user's source; nothing of it is kept here.

The kernel is configured by allnoconfig and the fragments in harnesses/kernel/, and built out of tree. What comes out
is a folder: the image, System.map, the initramfs without a script, and kernel.json, which says what it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes, read_text
from fuzzvm.files.writing import write
from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.arch import PAGE_SHIFTS
from fuzzvm.kbuild.config import check_taken, parse
from fuzzvm.kbuild.run import run
from fuzzvm.realkernel import cpio, fix, tools
from fuzzvm.realkernel.arch import ARCHES, Arch
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.symbols import Symbols

MANIFEST = "kernel.json"
FRAGMENT = "fragment.config"
"""What the kernel is configured by: the first file of a build, by which its folder is known."""
OPTIONAL = "optional"
"""The fragment of options that a tree may not have."""
EDITED = "edited"
"""The names of the source files that a build has edited, one a line."""
BUILD_SECONDS = 3600.0
_FILES = ("image", "System.map", "initramfs", "config")
INSTRUMENTED = ("pagewalk", "ptdump", "dump_pagetables", "vmalloc", "pgtable", "mmu", "set_memory", "pageattr")
"""The objects whose accesses KASAN checks, which are those that read page tables; all others compile in half the time.

What is free is known in any case: the page allocator says so to KASAN itself, in an object that is never checked. A
name stands for every object that is called so: none of these is in what boots the kernel, which has no KASAN.
"""
MAX_TEXT = 16 << 20
"""Bytes of a configuration or a manifest."""
MAX_INITRAMFS = 256 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """What is built. `levels` 0 stands for the first of what Arch.levels has for the page size."""

    source: Path
    arch: str
    page_size: str = "4K"
    levels: int = 0
    without: tuple[str, ...] = ()
    """Names of fix.STEPS that are taken out of a copy of the source."""
    patches: tuple[Path, ...] = ()
    """Files of patches that are applied to the copy first."""
    fragment: Path | None = None
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class BuiltKernel:
    """A folder that `build` made: what it holds."""

    folder: Path
    arch: str
    page_size: str
    levels: int
    release: str
    without: tuple[str, ...]
    patches: tuple[str, ...]
    left_out: tuple[str, ...]
    """Options of optional.config that this tree does not have."""
    key: str
    seconds: float

    @property
    def facts(self) -> Arch:
        """Return what driving it needs to know of its architecture."""
        return ARCHES[self.arch]

    @property
    def image(self) -> Path:
        """Return the file that QEMU boots."""
        return self.folder / "image"

    @property
    def changes(self) -> str:
        """Return what differs from its source, as the end of a sentence; '' where nothing does."""
        return "".join([f", without {step}" for step in self.without] + [f", with {patch}" for patch in self.patches])

    @property
    def page_shift(self) -> int:
        """Return the shift of the size of a page."""
        return PAGE_SHIFTS[self.page_size]

    def window(self) -> int:
        """Return the first address of the part of vmalloc space that schedules are followed in."""
        return self.facts.window(self.page_shift, self.levels)

    def shadow_offset(self) -> int:
        """Return what KASAN adds to an eighth of an address for the byte that says whether it may be accessed.

        Raises RealKernelError where the kernel has no generic KASAN.
        """
        found = re.search(r"^CONFIG_KASAN_SHADOW_OFFSET=(0x[0-9a-f]+)$", self.config(), re.MULTILINE)
        if found is None:
            raise RealKernelError(f"{self.folder}: the kernel has no CONFIG_KASAN_SHADOW_OFFSET, and so no judge")
        return int(found[1], 16)

    def config(self) -> str:
        """Read its configuration."""
        return _text(self.folder / "config")

    def symbols(self) -> Symbols:
        """Read its System.map."""
        return Symbols.read(self.folder / "System.map")

    def initramfs(self, script: str) -> bytes:
        """Return the initramfs with a script for the guest's program."""
        return _bytes(self.folder / "initramfs") + cpio.archive([cpio.regular("script", script.encode())])

    def to_data(self) -> dict[str, object]:
        """Return it as plain data, without its folder."""
        data = asdict(self)
        del data["folder"]
        # scripts may know it by the option of that name
        return data | {"revert_fix": fix.PROMOTION in self.without}


def load(folder: Path) -> BuiltKernel:
    """Return what a folder holds. Raises RealKernelError where `build` did not make it, or not to its end."""
    try:
        data = json.loads(read_text(folder / MANIFEST, MAX_TEXT))
        data |= {name: tuple(data[name]) for name in ("without", "patches", "left_out")}
        data.pop("revert_fix", None)
        kernel = BuiltKernel(folder=folder, **data)
    except (FileError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RealKernelError(f"{folder} holds no kernel of `fuzzvm kernel build` ({error})") from error
    if not isinstance(kernel.arch, str) or not isinstance(kernel.page_size, str):
        raise RealKernelError(f"{folder} holds no kernel of `fuzzvm kernel build` (arch and page_size must be strings)")
    if kernel.arch not in ARCHES or kernel.levels not in kernel.facts.levels.get(kernel.page_size, ()):
        raise RealKernelError(f"{folder}: no {kernel.arch!r} with {kernel.page_size} pages and {kernel.levels} levels")
    lacking = [name for name in _FILES if not (folder / name).is_file()]
    if lacking:
        raise RealKernelError(f"{folder} lacks {', '.join(lacking)}: build it again with `fuzzvm kernel build`")
    return kernel


def _text(path: Path) -> str:
    try:
        return read_text(path, MAX_TEXT)
    except FileError as error:
        raise RealKernelError(str(error)) from error


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, MAX_INITRAMFS)
    except FileError as error:
        raise RealKernelError(str(error)) from error


def guest_sources() -> Path:
    """Return the folder of the guest's sources: in the package where it is installed, else in the repository."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "guest_sources", here.parents[2] / "harnesses" / "kernel"):
        if (folder / "init.c").is_file():
            return folder
    raise RealKernelError("the guest's sources (harnesses/kernel) are missing from this installation")


def guest_files(guest: Path) -> list[Path]:
    """Return the files of the guest's sources; those of exported programs are none of them."""
    return sorted(path for path in guest.rglob("*") if path.is_file() and path.parent.name != "stress")


def build(options: Options, out: Path) -> BuiltKernel:
    """Build into a folder, or return what is there where nothing has changed; the log is build.log there.

    A source archive that was built before with the same options is not built again; a tree always goes through make,
    which sees what has changed. Raises RealKernelError and KbuildError.
    """
    began = time.monotonic()
    arch = ARCHES[options.arch]
    if options.page_size not in arch.levels:
        raise RealKernelError(f"{options.arch} has no pages of {options.page_size}, only of {', '.join(arch.levels)}")
    possible = arch.levels[options.page_size]
    levels = options.levels or possible[0]
    if levels not in possible:
        raise RealKernelError(
            f"levels must be one of {', '.join(map(str, sorted(possible)))} on {options.arch} with "
            f"{options.page_size} pages"
        )
    if not options.source.exists():
        raise RealKernelError(f"{options.source} does not exist; on Debian, linux-source-6.12 has a source archive")
    missing = tools.missing_packages(options.arch)
    if missing:
        raise RealKernelError(f"packages are missing: apt-get install {' '.join(missing)}")
    edits = fix.edits(options.without, options.arch)
    patches = [patch for path in options.patches for patch in patching.read(path)]
    if patches:
        patching.check_program()
    guest = guest_sources()
    config = _config(options, levels, guest)
    key = _key(options, patches, config, guest)
    # `source`, `module` and `tmp` in it are removed and made anew
    sources.check_apart(out, options.source)
    sources.take_folder(out, FRAGMENT, "fuzzvm kernel build")
    there = _there(out)
    if options.source.is_file() and there is not None and there.key == key:
        return there
    (out / MANIFEST).unlink(missing_ok=True)
    write(out / FRAGMENT, config, own_name=True)
    log = out / "build.log"
    log.unlink(missing_ok=True)
    tree = _tree(options, out, log)
    _edit(tree, patches, edits, out / EDITED)
    release, left_out = _make_kernel(options, arch, tree, out, config, guest, log)
    members = [
        cpio.directory("dev"),
        # the console is opened before any file system is mounted
        cpio.character_device("dev/console", 5, 1),
        cpio.regular("init", _init(options.arch, guest, out, log), executable=True),
        cpio.regular("fuzzvm_driver.ko", _module(options, arch, tree, guest, out, log)),
    ]
    (out / "initramfs").write_bytes(cpio.archive(members))
    seconds = round(time.monotonic() - began, 1)
    built = BuiltKernel(
        folder=out,
        arch=options.arch,
        page_size=options.page_size,
        levels=levels,
        release=release,
        without=options.without,
        patches=tuple(patch.name for patch in patches),
        left_out=left_out,
        key=key,
        seconds=seconds,
    )
    # what was unpacked or copied is made anew by the next build, and takes two gigabytes
    shutil.rmtree(out / "source", ignore_errors=True)
    write(out / MANIFEST, json.dumps(built.to_data(), indent=2) + "\n", own_name=True)
    return built


def _there(out: Path) -> BuiltKernel | None:
    """Return what a folder holds already; None for nothing, for half a build, and for what an older fuzzvm built."""
    try:
        return load(out)
    except RealKernelError:
        return None


def _config(options: Options, levels: int, guest: Path) -> str:
    parts = [(guest / f"{name}.config").read_text(encoding="utf-8") for name in (OPTIONAL, "common", options.arch)]
    parts.append("\n".join(ARCHES[options.arch].builds.geometry_options(options.page_size, levels)) + "\n")
    if options.fragment is not None:
        parts.append(_text(options.fragment))
    return "".join(parts)


def _optional(fragment: Path | None, guest: Path) -> list[str]:
    """Return the options that a tree may turn off: those of optional.config that the user has not asked for."""
    asked = {} if fragment is None else parse(_text(fragment))
    return [name for name in parse((guest / f"{OPTIONAL}.config").read_text(encoding="utf-8")) if name not in asked]


def _key(options: Options, patches: list[patching.Patch], config: str, guest: Path) -> str:
    """Return the digest of all that goes in; of a source archive its name, size and time."""
    stat = options.source.stat()
    source = f"{options.source.resolve()} {stat.st_size} {stat.st_mtime_ns}" if options.source.is_file() else "tree"
    digest = hashlib.sha256(f"{source}\n{options.arch} {sorted(options.without)}\n{config}".encode())
    for patch in patches:
        digest.update(patch.text)
    for path in guest_files(guest):
        digest.update(path.read_bytes())
    digest.update(Path(fix.__file__).read_bytes())
    return digest.hexdigest()[:16]


def _tree(options: Options, out: Path, log: Path) -> Path:
    """Return the tree to build, always in the same folder below `out`: make then builds only what differs.

    Of a tree of the user's it has hard links, where both are in one file system.
    """
    tree = out / "source"
    if options.source.is_dir():
        if not (options.source / "Kbuild").is_file():
            raise RealKernelError(f"{options.source} is no kernel tree")
        if (options.source / ".config").exists():
            raise RealKernelError(
                f"{options.source} has been built in; a build out of tree needs `make mrproper` there"
            )
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(options.source, tree, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns(".git"))
    else:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        archive = str(options.source.resolve())
        run(["tar", "xf", archive, "-C", str(tree), "--strip-components=1"], log, BUILD_SECONDS)
        if not (tree / "Kbuild").is_file():
            raise RealKernelError(f"{options.source} is no archive of a kernel tree")
    return tree.resolve()


def _edit(tree: Path, patches: list[patching.Patch], edits: tuple[fix.Edit, ...], remembered: Path) -> None:
    """Apply patches, then edits. Files are replaced, never written into, so that the user's tree stays as it is.

    A file that an earlier build had edited and this one has not is older than its object: it is made new, so that make
    builds it again. `remembered` holds the names of those files.
    """
    before = remembered.read_text(encoding="utf-8").splitlines() if remembered.is_file() else []
    named = {name for patch in patches for name in patch.files} | {str(edit.path) for edit in edits}
    for name in {*before, *named}:
        path = tree / name
        if path.is_file() and not path.is_symlink():
            held, mode = path.read_bytes(), path.stat().st_mode
            path.unlink()
            path.write_bytes(held)
            path.chmod(mode)
    patching.apply(patches, tree)
    fix.apply(tree, edits)
    # those of before too: nobody knows whether the build that follows comes to its end
    write(remembered, "".join(f"{name}\n" for name in sorted({*before, *named})), own_name=True)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _make(options: Options, arch: Arch, tree: Path, out: Path) -> list[str]:
    jobs = options.jobs or os.cpu_count() or 1
    command = ["make", "-C", str(tree), f"O={(out / 'build').resolve()}", f"ARCH={arch.builds.kernel_name}"]
    instrumented = [f"KASAN_SANITIZE_{name}.o=y" for name in INSTRUMENTED]
    return [*command, f"-j{jobs}", f"CROSS_COMPILE={arch.builds.cross}", "KASAN_SANITIZE=n", *instrumented]


def _make_kernel(
    options: Options, arch: Arch, tree: Path, out: Path, config: str, guest: Path, log: Path
) -> tuple[str, tuple[str, ...]]:
    """Configure and build; put image and System.map where they belong.

    Returns the kernel's release, and the options that do not matter and that the tree does not have.
    """
    objects = out / "build"
    objects.mkdir(exist_ok=True)
    make = _make(options, arch, tree, out)
    run([*make, f"KCONFIG_ALLCONFIG={(out / FRAGMENT).resolve()}", "allnoconfig"], log, BUILD_SECONDS)
    optional = _optional(options.fragment, guest)
    left_out = check_taken((objects / ".config").read_text(encoding="utf-8"), config, optional)
    run([*make, arch.image.rpartition("/")[2], "modules"], log, BUILD_SECONDS)
    shutil.copy2(objects / arch.image, out / "image")
    shutil.copy2(objects / "System.map", out / "System.map")
    shutil.copy2(objects / ".config", out / "config")
    release = (objects / "include/config/kernel.release").read_text(encoding="utf-8").strip()
    return release, tuple(left_out)


def _init(arch: str, guest: Path, out: Path, log: Path) -> bytes:
    program = out / "init"
    compiler = ARCHES[arch].builds.gcc
    run([compiler, "-O2", "-static", "-s", "-o", str(program), str(guest / "init.c")], log, BUILD_SECONDS)
    return program.read_bytes()


def _module(options: Options, arch: Arch, tree: Path, guest: Path, out: Path, log: Path) -> bytes:
    folder = (out / "module").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(guest / "module", folder)
    run([*_make(options, arch, tree, out), f"M={folder}", "modules"], log, BUILD_SECONDS)
    return (folder / "fuzzvm_driver.ko").read_bytes()
