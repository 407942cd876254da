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

from fuzzvm.realkernel import cpio, fix, tools
from fuzzvm.realkernel.arch import ARCHES, PAGE_SHIFTS, Arch
from fuzzvm.realkernel.errors import RealKernelError
from fuzzvm.realkernel.symbols import Symbols

MANIFEST = "kernel.json"
FRAGMENT = "fragment.config"
"""What the kernel is configured by: the first file of a build, by which its folder is known."""
BUILD_SECONDS = 3600.0
_FILES = ("image", "System.map", "initramfs", "config")


@dataclass(frozen=True, slots=True)
class Options:
    """What is built. `levels` 0 stands for the first of what Arch.levels has for the page size."""

    source: Path
    arch: str
    page_size: str = "4K"
    levels: int = 0
    revert_fix: bool = False
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
    revert_fix: bool
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
        return (self.folder / "config").read_text(encoding="utf-8")

    def symbols(self) -> Symbols:
        """Read its System.map."""
        return Symbols.read(self.folder / "System.map")

    def initramfs(self, script: str) -> bytes:
        """Return the initramfs with a script for the guest's program."""
        return (self.folder / "initramfs").read_bytes() + cpio.archive([cpio.regular("script", script.encode())])

    def to_data(self) -> dict[str, object]:
        """Return it as plain data, without its folder."""
        data = asdict(self)
        del data["folder"]
        return data


def load(folder: Path) -> BuiltKernel:
    """Return what a folder holds. Raises RealKernelError where `build` did not make it, or not to its end."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kernel = BuiltKernel(folder=folder, **data)
    except (OSError, ValueError, TypeError) as error:
        raise RealKernelError(f"{folder} holds no kernel of `fuzzvm kernel build` ({error})") from error
    if kernel.arch not in ARCHES or kernel.levels not in kernel.facts.levels.get(kernel.page_size, ()):
        raise RealKernelError(f"{folder}: no {kernel.arch!r} with {kernel.page_size} pages and {kernel.levels} levels")
    lacking = [name for name in _FILES if not (folder / name).is_file()]
    if lacking:
        raise RealKernelError(f"{folder} lacks {', '.join(lacking)}: build it again with `fuzzvm kernel build`")
    return kernel


def guest_sources() -> Path:
    """Return the folder of the guest's sources: in the package where it is installed, else in the repository."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "guest_sources", here.parents[2] / "harnesses" / "kernel"):
        if (folder / "init.c").is_file():
            return folder
    raise RealKernelError("the guest's sources (harnesses/kernel) are missing from this installation")


def build(options: Options, out: Path) -> BuiltKernel:
    """Build into a folder, or return what is there where nothing has changed; the log is build.log there.

    A source archive that was built before with the same options is not built again; a tree always goes through make,
    which sees what has changed. Raises RealKernelError.
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
    guest = guest_sources()
    config = _config(options, levels, guest)
    key = _key(options, config, guest)
    _take(out, options.source)
    there = _there(out)
    if options.source.is_file() and there is not None and there.key == key:
        return there
    (out / MANIFEST).unlink(missing_ok=True)
    (out / FRAGMENT).write_text(config, encoding="utf-8")
    log = out / "build.log"
    log.unlink(missing_ok=True)
    tree = _tree(options, out, log)
    release = _make_kernel(options, arch, tree, out, config, log)
    members = [
        cpio.directory("dev"),
        # the console is opened before any file system is mounted
        cpio.character_device("dev/console", 5, 1),
        cpio.regular("init", _init(options.arch, guest, out, log), executable=True),
        cpio.regular("fuzzvm_driver.ko", _module(options, arch, tree, guest, out, log)),
    ]
    (out / "initramfs").write_bytes(cpio.archive(members))
    seconds = round(time.monotonic() - began, 1)
    built = BuiltKernel(out, options.arch, options.page_size, levels, release, options.revert_fix, key, seconds)
    # what was unpacked or copied is made anew by the next build, and takes two gigabytes
    shutil.rmtree(out / "source", ignore_errors=True)
    (out / MANIFEST).write_text(json.dumps(built.to_data(), indent=2) + "\n", encoding="utf-8")
    return built


def _take(out: Path, source: Path) -> None:
    """Make the folder to build in, whose `source`, `module` and `tmp` are removed and made anew.

    Raises RealKernelError where that could take what is not a build's: the user's source, or another folder of theirs.
    """
    folder, given = out.resolve(), source.resolve()
    if given.is_relative_to(folder) or folder.is_relative_to(given):
        raise RealKernelError(f"{source} and {out}: the source and the folder to build in must lie apart")
    if out.is_dir() and any(out.iterdir()) and not (out / FRAGMENT).is_file():
        raise RealKernelError(f"{out} is not empty, and nothing that `fuzzvm kernel build` made: name another folder")
    out.mkdir(parents=True, exist_ok=True)


def _there(out: Path) -> BuiltKernel | None:
    """Return what a folder holds already; None for nothing, for half a build, and for what an older fuzzvm built."""
    try:
        return load(out)
    except RealKernelError:
        return None


def _geometry(arch: Arch, page_size: str, levels: int) -> list[str]:
    """Return the options that give a kernel its page size and levels."""
    if arch.name == "x86_64":
        return [f"CONFIG_X86_5LEVEL={'y' if levels == 5 else 'n'}"]
    return [
        f"CONFIG_ARM64_{page_size}_PAGES=y",
        f"CONFIG_ARM64_VA_BITS_{arch.va_bits(PAGE_SHIFTS[page_size], levels)}=y",
    ]


def _config(options: Options, levels: int, guest: Path) -> str:
    parts = [(guest / f"{name}.config").read_text(encoding="utf-8") for name in ("common", options.arch)]
    parts.append("\n".join(_geometry(ARCHES[options.arch], options.page_size, levels)) + "\n")
    if options.fragment is not None:
        try:
            parts.append(options.fragment.read_text(encoding="utf-8"))
        except OSError as error:
            raise RealKernelError(f"{options.fragment}: {error.strerror}") from error
    return "".join(parts)


def _key(options: Options, config: str, guest: Path) -> str:
    """Return the digest of all that goes in; of a source archive its name, size and time."""
    stat = options.source.stat()
    source = f"{options.source.resolve()} {stat.st_size} {stat.st_mtime_ns}" if options.source.is_file() else "tree"
    digest = hashlib.sha256(f"{source}\n{options.arch} {options.revert_fix}\n{config}".encode())
    for path in sorted(path for path in guest.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    digest.update(Path(fix.__file__).read_bytes())
    return digest.hexdigest()[:16]


def _tree(options: Options, out: Path, log: Path) -> Path:
    """Return the tree to build: the user's own, or one below `out` where it is unpacked or edited."""
    tree = out / "source"
    if options.source.is_dir():
        if not (options.source / "Kbuild").is_file():
            raise RealKernelError(f"{options.source} is no kernel tree")
        if (options.source / ".config").exists():
            raise RealKernelError(
                f"{options.source} has been built in; a build out of tree needs `make mrproper` there"
            )
        if not options.revert_fix:
            return options.source.resolve()
        # files are replaced there, never written into, so that the user's tree stays as it is
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(options.source, tree, symlinks=True, copy_function=_link, ignore=shutil.ignore_patterns(".git"))
    else:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        archive = str(options.source.resolve())
        tools.run(["tar", "xf", archive, "-C", str(tree), "--strip-components=1"], log, BUILD_SECONDS)
        if not (tree / "Kbuild").is_file():
            raise RealKernelError(f"{options.source} is no archive of a kernel tree")
    if options.revert_fix:
        fix.apply(tree, fix.EDITS[options.arch])
    return tree.resolve()


def _link(source: str, target: str) -> None:
    """Link a file, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _make(options: Options, arch: Arch, tree: Path, out: Path) -> list[str]:
    jobs = options.jobs or os.cpu_count() or 1
    command = ["make", "-C", str(tree), f"O={(out / 'build').resolve()}", f"ARCH={arch.kernel_name}", f"-j{jobs}"]
    return [*command, f"CROSS_COMPILE={tools.CROSS}"] if arch.name == "arm64" else command


def _make_kernel(options: Options, arch: Arch, tree: Path, out: Path, config: str, log: Path) -> str:
    """Configure and build; put image and System.map where they belong, return the kernel's release."""
    objects = out / "build"
    objects.mkdir(exist_ok=True)
    make = _make(options, arch, tree, out)
    tools.run([*make, f"KCONFIG_ALLCONFIG={(out / FRAGMENT).resolve()}", "allnoconfig"], log, BUILD_SECONDS)
    _check_config((objects / ".config").read_text(encoding="utf-8"), config)
    tools.run([*make, arch.image.rpartition("/")[2], "modules"], log, BUILD_SECONDS)
    shutil.copy2(objects / arch.image, out / "image")
    shutil.copy2(objects / "System.map", out / "System.map")
    shutil.copy2(objects / ".config", out / "config")
    return (objects / "include/config/kernel.release").read_text(encoding="utf-8").strip()


def _check_config(made: str, asked: str) -> None:
    """Raise RealKernelError where the tree's Kconfig has turned off what the fragments ask for."""
    lines = set(made.splitlines())
    wanted = [line for line in asked.splitlines() if line.startswith("CONFIG_") and line.endswith("=y")]
    # the last word on an option counts
    refused = [line for line in wanted if line not in lines and f"{line[:-1]}n" not in asked.splitlines()]
    if refused:
        raise RealKernelError(f"this tree does not take {', '.join(refused)}")


def _init(arch: str, guest: Path, out: Path, log: Path) -> bytes:
    program = out / "init"
    compiler = tools.compiler_of(arch)
    tools.run([compiler, "-O2", "-static", "-s", "-o", str(program), str(guest / "init.c")], log, BUILD_SECONDS)
    return program.read_bytes()


def _module(options: Options, arch: Arch, tree: Path, guest: Path, out: Path, log: Path) -> bytes:
    folder = (out / "module").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(guest / "module", folder)
    tools.run([*_make(options, arch, tree, out), f"M={folder}", "modules"], log, BUILD_SECONDS)
    return (folder / "fuzzvm_driver.ko").read_bytes()
