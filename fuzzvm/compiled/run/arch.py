"""What running an image's functions needs to know of an architecture; `running` names the implementations."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.isa.engine import Fetch
from fuzzvm.compiled.isa.liveness import Abi
from fuzzvm.compiled.isa.private import TrackedMemory
from fuzzvm.compiled.records import Symbol
from fuzzvm.machine.ops import Barrier


class Layout(NamedTuple):
    """The kernel's address space, with `page_shift` and where physical memory is.

    `page_offset` is the address of the first page of the linear map, `vmemmap` that of its struct page, `phys` its
    physical address. `kernel_phys` is the physical address of the first byte of the image.
    """

    page_shift: int
    page_offset: int
    vmemmap: int
    phys: int
    kernel_phys: int

    def page(self, number: int) -> int:
        """Return the address of a page of the linear map."""
        return self.page_offset + (number << self.page_shift)


class RunArch(Protocol):
    """An architecture, for running code.

    `flags` are slots that the engine need not compute where nothing reads them, and `undefined` is what is in them
    where their value is not known. `own_size` is the size of the memory that each CPU alone uses; its task, its stack
    and what calls are given are the first part of it (`private`). `barriers` are the machine's barriers by the name of
    a request. `thunks` are functions that keep every register: a call of them that does nothing changes none.
    """

    abi: Abi
    flags: frozenset[int]
    undefined: int
    own_size: int
    barriers: Mapping[str, Barrier]
    thunks: frozenset[str]

    def fetch(self, image: Image, function_at: Callable[[int], str | None]) -> Fetch:
        """Return what decodes the instruction at an address of an image."""

    def addresses(self, image: Image, function: Symbol) -> Iterable[int]:
        """Return the addresses of the instructions of a function."""

    def layout(self, image: Image) -> Layout:
        """Return the address space of an image's kernel."""

    def boot_values(self, image: Image, layout: Layout) -> dict[str, bytes]:
        """Return what early boot has set: the bytes of variables, by name; of a member, after a "+" its offset."""

    def table_at(self, entry: int, page_shift: int) -> int | None:
        """Return the physical address that an entry of a page table leads to, None where it is none, or a block.

        An entry of the last level that maps a page looks the same as one that leads to a table.
        """

    def not_followed(self, image: Image, va: int) -> str:
        """Return what the kernel has mapped at an address in a way that is not followed; "" where it has nothing."""

    def leaf(self, entry: int) -> str:
        """Return what an entry that leads to no table is called, "" for none."""

    def cpu(self, image: Image, base: int) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Return slots and words of its own memory, (size, value) by address, that a CPU begins with.

        `base` is where its memory begins.
        """

    def initial(self, image: Image) -> Callable[[int], int]:
        """Return what a byte of a CPU's own memory is before it is written, by its offset; the stack has none."""

    def begin(self, x: list[int], memory: TrackedMemory, stack: int, returns_to: int) -> None:
        """Make a register file and a stack one at the begin of a function; its arguments are there already."""

    def return_address(self, x: Sequence[int], memory: TrackedMemory) -> int:
        """Return where a function returns to that is about to begin."""

    def leave(self, x: list[int], memory: TrackedMemory) -> None:
        """Return from a function that has just begun."""

    def return_addresses(self, x: Sequence[int], memory: TrackedMemory, image: Image, *, begun: bool) -> list[int]:
        """Return the return addresses of the functions that a CPU is in, innermost first.

        `begun` says that it stands at the begin of a function.
        """


_MODULES = {"arm64": "fuzzvm.compiled.run.arm64", "x86_64": "fuzzvm.compiled.run.x86_64"}


def running(name: str) -> RunArch:
    """Return an architecture. Raises ImageError where its code is not run."""
    if name not in _MODULES:
        raise ImageError(f"code of {name} is not run, only of {', '.join(_MODULES)}")
    arch: RunArch = importlib.import_module(_MODULES[name]).ARCH
    return arch
