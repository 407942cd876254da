"""Builds an image: configures the user's source, compiles the objects that matter, links them, and writes the index.

The folder holds image.json (the manifest, the last file of a build), image.elf, index/, config, fragment.config, and
build.log; `build` below it is make's. A build that ended in any way goes on where it stood when it is started again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fuzzvm.compiled import index, link, make_folder, objects, read_files, reuse, toolchain
from fuzzvm.compiled import manifest as manifests
from fuzzvm.compiled.arch import ImageArch, architecture
from fuzzvm.compiled.elf import MAX_BYTES, Elf
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.manifest import FORMAT, FRAGMENT, Manifest
from fuzzvm.compiled.toolchain import Compiler
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import opened, read_text
from fuzzvm.kbuild import patches as patching
from fuzzvm.kbuild import source as sources
from fuzzvm.kbuild.arch import PAGE_SHIFTS
from fuzzvm.kbuild.config import check_taken, parse
from fuzzvm.kbuild.errors import BusyError, CommandError, KbuildError
from fuzzvm.kbuild.run import run

MAX_CONFIG = 16 << 20
"""Bytes of a configuration; a whole one has some 200 KB."""
READ = "read-files"
"""The files that the compiler read, a line each: relative to the tree, or to make's folder."""
_LOCK = ".fuzzvm-image"
"""The first file of a build, by which its folder is known; who holds its lock is at work there."""
_MAKE_SECONDS = 3600.0
_MADE_BY = tuple(f"fuzzvm.compiled.{name}" for name in ("debug_info", "elf", "records", "tables"))
_GENERATED = "Automatically generated file; DO NOT EDIT"
"""In the head of a whole configuration: what it states follows from its compiler too."""
_COMPILES = re.compile(r"^\s+(?:CC|AS)\s+(?:\[\w\]\s+)?(\S+\.o)$")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is built: from one of `tree` (a source tree or an archive of one), `objects_folder` and `vmlinux`.

    `page_size` and `levels` None stand for what `fragment` says, else for the usual. `objects` are compiled beside
    those that matter. `features` are features of the CPUs that alternatives are applied for, beside those of `atomics`,
    "" for the usual ones.
    """

    tree: Path | None = None
    objects_folder: Path | None = None
    vmlinux: Path | None = None
    arch: str = "arm64"
    page_size: str | None = None
    levels: int | None = None
    cc: str = "gcc"
    atomics: str = ""
    features: tuple[str, ...] = ()
    patches: tuple[Path, ...] = ()
    fragment: Path | None = None
    objects: tuple[str, ...] = ()
    jobs: int = 0

    @property
    def given(self) -> Path:
        """Return what the image is made from."""
        found = [path for path in (self.tree, self.objects_folder, self.vmlinux) if path is not None]
        if len(found) != 1:
            raise ImageError("give one of --tree, --objects and --vmlinux")
        return found[0]

    @property
    def kind(self) -> str:
        """Return what that is."""
        if self.vmlinux is not None:
            return "vmlinux"
        if self.objects_folder is not None:
            return "objects"
        return "tree" if self.given.is_dir() else "archive"


def build(options: Options, out: Path, progress: Progress = lambda text: None, base: Path | None = None) -> Manifest:
    """Build an image into a folder, or return what is there where nothing has changed.

    `base` is the folder of an image of the same tree without patches: its objects are taken where that is possible.
    Raises ImageError and KbuildError. The user's files are not written to.
    """
    given = options.given
    if not given.exists():
        raise KbuildError(f"{given} does not exist; on Debian, linux-source-6.12 has a source archive")
    if unusable := [str(path) for path in (given.resolve(), out.resolve()) if re.search(r"[\s:]", str(path))]:
        raise KbuildError(f"{unusable[0]}: make does not take names with spaces or colons")
    arch = architecture(options.arch)
    options = replace(options, atomics=options.atomics or next(iter(arch.atomics)))
    if options.atomics not in arch.atomics:
        raise ImageError(f"{options.arch} has no atomics {options.atomics}, only {', '.join(arch.atomics)}")
    if options.vmlinux is not None:
        # before anything is made for it
        opened(options.vmlinux, MAX_BYTES).close()
    sources.check_apart(out, given)
    building = _Build(options, arch, out, progress, base)
    sources.take_folder(out, _LOCK, "fuzzvm image build")
    try:
        with ExitStack() as alone:
            for folder in filter(None, (out, base)):
                alone.enter_context(_alone(folder))
            return building.run()
    except OSError as error:
        raise KbuildError(f"{error.filename or out}: {error.strerror}") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other builds out of a folder; the lock goes with the process."""
    with (out / _LOCK).open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(f"another `fuzzvm image build` is at work in {out}") from error
        yield


@dataclass(frozen=True, slots=True)
class _Linked:
    """What is made into an image: a linked file with debug information, and what is known of it."""

    linked: Path
    objects: list[str]
    left_out: list[str]
    kernel: str
    sources: str
    config: str
    compiler: str
    header: str


class _Build:
    """One build, with what its steps share."""

    def __init__(self, options: Options, arch: ImageArch, out: Path, progress: Progress, base: Path | None) -> None:
        self._base = base
        self._options = options
        self._arch = arch
        self._out = out
        self._progress = progress
        self._log = out / "build.log"
        self._began = time.monotonic()
        self._patches = [patch for path in options.patches for patch in patching.read(path)]
        if self._patches:
            patching.check_program()
        self._user = _read_fragment(options.fragment)
        from_source = options.tree is not None
        self._fragment = self._make_fragment() if from_source else self._user
        self._compiler = None if options.tree is None else toolchain.find(options.cc, arch.kernel, options.tree)
        for name in options.objects:
            if not re.fullmatch(r"[\w./-]+\.o", name) or name.startswith("/") or ".." in name.split("/"):
                raise ImageError(f"{name} is no object of a kernel, such as mm/vmalloc.o")

    def run(self) -> Manifest:
        """Go through all steps."""
        options, out, compiler = self._options, self._out, self._compiler
        self._before = self._stamp()
        key = self._key(self._before)
        there = _there(out)
        if there is not None and there.key == key:
            return there
        (out / manifests.MANIFEST).unlink(missing_ok=True)
        (out / FRAGMENT).write_text(self._fragment, encoding="utf-8")
        self._log.unlink(missing_ok=True)
        if compiler is not None:
            made = self._compile(compiler, key)
        elif options.vmlinux is not None:
            made = self._given_vmlinux(options.vmlinux)
        else:
            made = self._given_objects(options.given)
        manifest = self._finish(made, key)
        if self._stamp() != self._before:
            raise KbuildError(f"{options.given} has changed while it was built: build again")
        if compiler is not None:
            make_folder.settle(self._out)
        manifest.write(out)
        shutil.rmtree(out / "source", ignore_errors=True)
        return manifest

    def _stamp(self) -> str:
        """Return what tells a source from a changed one: of a tree every file, of an archive and a kernel itself."""
        given = self._options.given
        if given.is_dir():
            return sources.stamp(given)
        stat = given.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def _key(self, stamp: str) -> str:
        """Return the digest of all that goes in, as far as it is known before."""
        options = self._options
        compiler = "" if self._compiler is None else self._compiler.text
        parts = [
            str(FORMAT), _own_digest(self._arch), options.kind, str(options.given.resolve()), stamp, options.arch,
            options.cc, compiler, options.atomics, *sorted(options.features), "|", *options.objects, "|",
            self._fragment, *(patch.digest for patch in self._patches),
        ]  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    # the configuration

    def _make_fragment(self) -> str:
        """Return what the kernel is configured by; the last word on an option counts."""
        kernel = self._arch.kernel
        geometry, user = self._geometry()
        parts = [_shipped("common"), _shipped(kernel.name), _shipped("optional"), *geometry, user, _shipped("last")]
        return "\n".join(parts)

    def _geometry(self) -> tuple[list[str], str]:
        """Return the options of page size and levels, and the user's options without those that they overrule."""
        options, kernel, user = self._options, self._arch.kernel, self._user
        stated = parse(user)
        said = [name for name, value in stated.items() if kernel.geometry.fullmatch(name) and value != "n"]
        if said and options.page_size is None and options.levels is None:
            return [], user
        size = options.page_size
        if size is None:
            size = self._arch.page_size(stated) if any(name.endswith("_PAGES") for name in said) else "4K"
        if size not in kernel.levels:
            raise ImageError(f"{kernel.name} has no pages of {size}, only of {', '.join(kernel.levels)}")
        levels = options.levels or kernel.levels[size][0]
        if levels not in kernel.levels[size]:
            possible = ", ".join(map(str, sorted(kernel.levels[size])))
            raise ImageError(f"levels must be one of {possible} on {kernel.name} with {size} pages")
        rest = [line for line in user.splitlines() if not any(kernel.geometry.fullmatch(name) for name in parse(line))]
        return kernel.geometry_options(size, levels), "\n".join(rest)

    def _check_taken(self, made: str) -> None:
        """Raise KbuildError where the tree has turned off what is asked for."""
        geometry, user = self._geometry()
        text = "\n".join([_shipped("common"), _shipped(self._arch.kernel.name), *geometry, user, _shipped("last")])
        if _GENERATED in user:
            # a whole configuration states what follows from its compiler and its version, too: that is not asked for
            stated = parse(user)
            text = "\n".join(line for line in text.splitlines() if not parse(line).keys() & stated.keys())
        check_taken(made, text)

    # from source

    def _compile(self, compiler: Compiler, key: str) -> _Linked:
        """Configure and compile in make's folder, and link."""
        out, kernel = self._out, self._arch.kernel
        tree = self._source(key)
        toolchain.check_version(compiler, tree, kernel)
        taken = None
        if self._base is not None and _there(self._base):
            made_for = self._options.given, self._fragment, compiler.text
            taken = reuse.begun(self._base, *made_for, out, tree, self._patched())
        folder = make_folder.take(out, key, self._progress) if taken is None else taken.take(key)
        make = self._make(compiler, tree, folder)
        # objects are taken with their configuration
        if taken is None:
            self._progress("configuring")
            run([*make, f"KCONFIG_ALLCONFIG={(out / FRAGMENT).resolve()}", "allnoconfig"], self._log, _MAKE_SECONDS)
        made = (folder / ".config").read_text(encoding="utf-8")
        self._check_taken(made)
        config = parse(made)
        # what cannot be an image is said before minutes are spent
        self._arch.base(config)
        self._arch.check_atomics(config, self._options.atomics)
        chosen, left_out = objects.choose(tree, config, self._arch)
        wanted = list(dict.fromkeys([*chosen, *self._options.objects]))
        self._progress("preparing")
        try:
            run([*make, *wanted], self._log, _MAKE_SECONDS, heard=self._hears(wanted))
        except CommandError:
            # nothing is half made: the next build need not begin anew
            if self._stamp() == self._before:
                make_folder.settle(self._out)
            raise
        if taken is not None and not taken.is_whole():
            self._base = None
            return self._compile(compiler, key)
        for name in wanted:
            if not ((folder / name).is_file() and (folder / read_files.command_file(name)).is_file()):
                raise KbuildError(f"make has made no {name}: this tree does not know it")
        used = list(read_files.used(folder, [folder / read_files.command_file(name) for name in wanted]))
        if tree != self._options.given.resolve():
            sources.check_includes(self._options.given, self._patched(), used)
        shutil.copy2(folder / ".config", out / "config")
        (out / READ).write_text(
            "".join(f"{name}\n" for name in sorted(read_files.named(used, tree, folder))), encoding="utf-8"
        )
        return _Linked(
            self._link(folder, wanted, config),
            wanted,
            left_out,
            sources.version(tree),
            read_files.contents(used, tree, folder),
            made,
            compiler.text,
            self._feature_header(folder, tree),
        )

    def _link(self, folder: Path, wanted: Sequence[str], config: Mapping[str, str]) -> Path:
        """Link objects that lie in a folder."""
        self._progress("linking")
        into, page_size = self._out / "build", 1 << _shift(self._arch, config)
        into.mkdir(exist_ok=True)
        return link.link([folder / name for name in wanted], self._arch, config, page_size, into, self._log)

    def _make(self, compiler: Compiler, tree: Path, folder: Path) -> list[str]:
        kernel, jobs = self._arch.kernel, self._options.jobs or os.cpu_count() or 1
        # debug information that does not name where this was built is the same everywhere
        maps = f"-fdebug-prefix-map={folder}=. -fdebug-prefix-map={tree}=."
        return [
            *("make", "-C", str(tree), f"O={folder}", f"-j{jobs}", f"ARCH={kernel.kernel_name}"),
            *(f"CROSS_COMPILE={kernel.cross}", f"CC={compiler.program}", f"KCFLAGS={maps}", f"KAFLAGS={maps}"),
            # those of the environment are for other builds
            *("LLVM=", "KCPPFLAGS="),
        ]

    def _hears(self, wanted: Sequence[str]) -> Callable[[str], None]:
        """Return what turns make's lines into progress."""
        done: set[str] = set()

        def heard(line: str) -> None:
            if (found := _COMPILES.match(line)) and found[1] in wanted:
                done.add(found[1])
                self._progress(f"compiling {len(done)} of {len(wanted)}: {found[1]}")

        return heard

    def _patched(self) -> list[str]:
        return sorted({name for patch in self._patches for name in patch.files})

    def _source(self, key: str) -> Path:
        """Return the tree to build: the user's own, or one below the folder, where it is unpacked or patched."""
        options, kernel = self._options, self._arch.kernel
        given, into, mark = options.given, self._out / "source", self._out / "source.key"
        if options.kind == "tree":
            if not sources.is_tree(given):
                raise KbuildError(f"{given} is no kernel tree")
            if not self._patches and sources.is_clean(given, kernel):
                return given.resolve()
        if not (mark.is_file() and mark.read_text(encoding="utf-8") == key and into.is_dir()):
            mark.unlink(missing_ok=True)
            if options.kind == "tree":
                sources.overlay(given, into, kernel, self._patched())
            else:
                self._progress("unpacking")
                sources.unpack(given, into, kernel, [*options.objects, *self._patched()], self._log)
            patching.apply(self._patches, into)
            mark.write_text(key, encoding="utf-8")
        return into.resolve()

    # from what the user has built

    def _given_objects(self, folder: Path) -> _Linked:
        """Link objects of the user's own build."""
        made, header = self._beside(folder)
        config = parse(made)
        chosen, left_out = objects.choose(folder, config, self._arch)
        left_out += [name for name in chosen if not (folder / name).is_file()]
        wanted = [name for name in chosen if (folder / name).is_file()]
        if lacking := [name for name in self._options.objects if not (folder / name).is_file()]:
            raise ImageError(f"{folder} has no {', '.join(lacking)}")
        wanted = list(dict.fromkeys([*wanted, *self._options.objects]))
        if not wanted:
            raise ImageError(f"{folder} has none of the objects that matter, such as mm/vmalloc.o")
        linked = self._link(folder, wanted, config)
        (self._out / "config").write_text(made, encoding="utf-8")
        return _Linked(linked, wanted, left_out, _release(folder), "", made, _compiler_text(config), header)

    def _given_vmlinux(self, vmlinux: Path) -> _Linked:
        """Take a kernel of the user's own build as it is linked."""
        made, header = self._beside(vmlinux.parent)
        (self._out / "config").write_text(made, encoding="utf-8")
        config = parse(made)
        chosen, left_out = objects.choose(vmlinux.parent, config, self._arch)
        wanted = list(dict.fromkeys([*chosen, *left_out, *self._options.objects]))
        return _Linked(vmlinux, wanted, [], _release(vmlinux.parent), "", made, _compiler_text(config), header)

    def _beside(self, folder: Path) -> tuple[str, str]:
        """Return the configuration and the names of CPU features that lie in a folder that was built in."""
        made = self._user
        try:
            if not made:
                made = read_text(folder / ".config", MAX_CONFIG)
            header = self._feature_header(folder, folder / "source")
        except FileError as error:
            raise ImageError(f"{error}: the folder that the kernel was built in has it") from error
        return made, header

    def _feature_header(self, folder: Path, tree: Path) -> str:
        """Return the text that numbers CPU features, from the folder that was built in, or from the source."""
        name = self._arch.feature_header
        return read_text((folder if (folder / name).is_file() else tree) / name, MAX_CONFIG)

    # what all have in common

    def _finish(self, made: _Linked, key: str) -> Manifest:
        """Apply alternatives, write image and index; return the manifest."""
        options, arch, out = self._options, self._arch, self._out
        config = parse(made.config)
        arch.check_atomics(config, options.atomics)
        self._progress("reading debug information")
        image = out / f"{manifests.IMAGE}.half"
        strip = link.strip_debug if options.vmlinux is not None else link.strip_relocations
        strip(made.linked, arch, image, self._log)
        elf = Elf(image)
        if elf.machine != arch.elf_machine:
            raise ImageError(f"{options.given} is not for {arch.kernel.name}")
        pointers = list(elf.apply_dynamic(arch.pointer_relocation, arch.relative_relocation))
        symbols = {symbol.name: symbol.address for symbol, _ in elf.symbols() if symbol.defined and not symbol.local}
        features = [*arch.atomics[options.atomics], *options.features]
        numbers = arch.features(made.header)
        alternatives = index.apply_alternatives(elf, symbols, arch, numbers, features)
        units = objects.units(made.objects)
        digest = index.build(
            elf,
            Elf(made.linked),
            arch,
            1 << _shift(arch, config),
            config,
            alternatives,
            features,
            lambda unit: unit in units or unit.endswith(tuple(units)),
            pointers,
            [number for number, name in numbers.items() if name in {*features, *arch.always}],
            out,
        )
        elf.save(image)
        image.replace(out / manifests.IMAGE)
        return Manifest(
            format=FORMAT,
            digest=digest,
            key=key,
            kernel=made.kernel,
            arch=options.arch,
            page_size=arch.page_size(config),
            levels=arch.levels(config, features),
            kind=options.kind,
            source=str(options.given.resolve()),
            sources=made.sources,
            patches=[{"name": patch.name, "sha256": patch.digest} for patch in self._patches],
            config=hashlib.sha256(made.config.encode()).hexdigest(),
            cc=options.cc,
            compiler=made.compiler,
            atomics=options.atomics,
            features=features,
            objects=made.objects,
            left_out=made.left_out,
            seconds=round(time.monotonic() - self._began, 1),
        )


def _there(out: Path) -> Manifest | None:
    """Return what a folder holds already; None for nothing, for half a build, and for what an older fuzzvm built."""
    try:
        return manifests.read(out)
    except ImageError:
        return None


def _own_digest(arch: ImageArch) -> str:
    """Return the digest of the code that makes an image of a linked file: a newer one makes another."""
    made_by = [index, link, *(sys.modules[name] for name in _MADE_BY), sys.modules[type(arch).__module__]]
    files = [Path(module.__file__).read_bytes() for module in made_by if module.__file__ is not None]
    return hashlib.sha256(b"".join(files)).hexdigest()


def _shipped(name: str) -> str:
    return (Path(__file__).parent / "fragments" / f"{name}.config").read_text(encoding="utf-8")


def _read_fragment(path: Path | None) -> str:
    if path is None:
        return ""
    return read_text(path, MAX_CONFIG)


def _shift(arch: ImageArch, config: Mapping[str, str]) -> int:
    return PAGE_SHIFTS[arch.page_size(config)]


def _release(folder: Path) -> str:
    """Return the release of the kernel that was built in a folder, "" where nothing says it."""
    path = folder / "include/config/kernel.release"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _compiler_text(config: Mapping[str, str]) -> str:
    return config.get("CONFIG_CC_VERSION_TEXT", "").strip('"')
