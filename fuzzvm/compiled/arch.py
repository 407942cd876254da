"""What images need to know of an architecture; one file implements it for each, and only `architecture` names them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fuzzvm.compiled.errors import ImageError
from fuzzvm.kbuild.arch import KernelArch


@dataclass(frozen=True, slots=True)
class Line:
    """An instruction as a disassembler prints it. `target` is where it may branch to, if the instruction says so.

    `links` says that it leaves a return address: a call.
    """

    address: int
    size: int
    mnemonic: str
    operands: str
    target: int | None
    links: bool


@dataclass(frozen=True, slots=True)
class Alternative:
    """An entry of the table of alternatives: code that is replaced at boot where the CPUs have a feature.

    `feature` is its name, with "!" before it where the code is replaced if no CPU has it. `replacement` is the address
    of the new code, which has `new_size` bytes (0: as many as the old), or of the function that writes it (`callback`).
    `applied` says whether the image's text has it. Source: struct alt_instr, arch/*/include/asm/alternative.h.
    """

    address: int
    replacement: int
    size: int
    feature: str
    callback: bool
    applied: bool = False
    new_size: int = 0

    def is_for(self, features: Collection[str]) -> bool:
        """Return whether it is applied where the CPUs have some features."""
        return (self.feature.removeprefix("!") in features) is not self.feature.startswith("!")


class ReadMemory(Protocol):
    """Reads the bytes of an image as linked, by address."""

    def __call__(self, address: int, size: int) -> bytes: ...


class ImageArch(Protocol):
    """An architecture, for images.

    `objects` matter beside those of every architecture; each has the options of which one must be on for it to be
    compiled (none: always). `tables` are the page tables that the kernel's linker script makes. `branch_relocations`
    are the types that only branches have, `pointer_relocation` is that of an address in data, `relative_relocation`
    that of one in a kernel that is linked as a shared object. `atomics` gives the features of the CPUs for each value
    of `--atomics`, the usual first; `always` are those that every CPU has. `callbacks` write the code of an
    alternative, by the name of the kernel's function. `feature_header` is the file that numbers the features: one that
    a build generates, or of the source.
    """

    kernel: KernelArch
    objects: Sequence[tuple[str, tuple[str, ...]]]
    tables: Sequence[str]
    elf_machine: str
    output_format: str
    branch_relocations: frozenset[int]
    pointer_relocation: int
    relative_relocation: int
    atomics: Mapping[str, tuple[str, ...]]
    always: tuple[str, ...]
    callbacks: Mapping[str, Callable[[int], bytes]]
    feature_header: str

    def base(self, config: Mapping[str, str]) -> int:
        """Return the address that the kernel is linked at."""

    def page_size(self, config: Mapping[str, str]) -> str:
        """Return the page size of a configuration, such as "4K". Raises ImageError where it states none."""

    def levels(self, config: Mapping[str, str], features: Collection[str]) -> int:
        """Return how many levels page tables have on CPUs with some features. Raises ImageError."""

    def check_atomics(self, config: Mapping[str, str], atomics: str) -> None:
        """Raise ImageError where a kernel has no code for atomics that are asked for."""

    def features(self, header: str) -> dict[int, str]:
        """Return the names of the features of the CPUs by their number, from the text of `feature_header`."""

    def alternatives(self, table: bytes, address: int, features: Mapping[int, str]) -> Iterator[Alternative]:
        """Yield the entries of the table of alternatives that stands at an address."""

    def replacement(self, alternative: Alternative, read: ReadMemory) -> bytes:
        """Return the code that stands at an alternative's address once it is applied. Raises ImageError."""

    def disassemble(self, code: bytes, address: int) -> Iterator[Line]:
        """Yield the instructions of a run of code, without end; bytes that are none have the mnemonic "(bad)"."""

    def addresses(self, lines: Sequence[Line], jumps: Iterable[tuple[int, int]]) -> set[tuple[int, bool]]:
        """Return the addresses that a function hands on, and those that it accesses itself, which are marked by True.

        `jumps` are edges of the control flow that the code does not show. An address that passes through memory other
        than the stack is found where it is put together.
        """


_MODULES = {"arm64": "fuzzvm.compiled.arm64.image", "x86_64": "fuzzvm.compiled.x86_64.image"}


def names() -> list[str]:
    """Return the architectures that images can be built for."""
    return list(_MODULES)


def architecture(name: str) -> ImageArch:
    """Return an architecture. Raises ImageError where images of it are not known."""
    if name not in _MODULES:
        raise ImageError(f"no images of {name!r}, only of {', '.join(_MODULES)}")
    arch: ImageArch = importlib.import_module(_MODULES[name]).ARCH
    return arch
