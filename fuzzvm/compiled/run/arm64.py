"""Running arm64 code: AAPCS64 for calls, arch/arm64 of Linux for its address space and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from fuzzvm.compiled.arm64.decode import fetching
from fuzzvm.compiled.arm64.registers import COUNT, LINK, PC, SP, SP_EL0
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.image import Image
from fuzzvm.compiled.isa.engine import Fetch
from fuzzvm.compiled.isa.liveness import Abi
from fuzzvm.compiled.isa.private import TrackedMemory
from fuzzvm.compiled.records import Symbol
from fuzzvm.compiled.run.arch import Layout
from fuzzvm.compiled.run.private import SIZE, TASK
from fuzzvm.compiled.run.stack import frame_records
from fuzzvm.machine.ops import Barrier

_PHYS = 0x4000_0000
"""Where physical memory begins; any multiple of 1 GB would do."""
_KERNEL_PHYS = 0x8000_0000
_X29 = 29
_BLOCK, _TABLE = 0b01, 0b11
_ADDRESS = (1 << 48) - 1
_CONTIGUOUS = 1 << 52
_MEMORY_TYPE = 0x7 << 2 | 0x3 << 8
"""AttrIndx and SH."""
_PERMISSIONS = 0x3 << 6 | 1 << 51 | 0x3 << 53
"""AP, DBM, PXN and UXN."""


_FIXADDR_TOP = (1 << 64) - (1 << 23)
FIXMAP = _FIXADDR_TOP - (1 << 16)
"""An address of the fixmap, which has at least one page."""


class Descriptor(NamedTuple):
    """A valid entry of a page table: whether it leads to a table, where it leads to, and its attributes."""

    table: bool
    output: int
    memory_type: int = 0
    permissions: int = 0
    contiguous: bool = False


def descriptor(entry: int, size: int, *, last: bool) -> Descriptor | None:
    """Return what an entry that maps so many bytes says, None where it is not valid (Arm ARM D8.3).

    `last` says that it is of the last level.
    """
    kind = entry & _TABLE
    if kind == _TABLE and not last:
        return Descriptor(table=True, output=entry & _ADDRESS)
    if kind != (_TABLE if last else _BLOCK):
        return None
    return Descriptor(
        table=False,
        output=entry & _ADDRESS & -size,
        memory_type=entry & _MEMORY_TYPE,
        permissions=entry & _PERMISSIONS,
        contiguous=bool(entry & _CONTIGUOUS),
    )


class Arm64:
    """arm64, for running code: see RunArch."""

    abi = Abi(
        count=COUNT,
        arguments=tuple(range(8)),
        results=frozenset({0, 1}),
        # x18 is the platform register
        callee_saved=frozenset({*range(18, 30), SP}),
        system=frozenset(range(PC + 1, COUNT)),
        link=frozenset({LINK}),
    )
    flags: frozenset[int] = frozenset()
    undefined = 0
    own_size = SIZE
    barriers = (
        {barrier.value: barrier for barrier in Barrier}
        | {
            # every observer of this model is in the inner shareable domain
            f"{kind} {domain}{which}": Barrier(f"{kind} ish{which}")
            for kind in ("dmb", "dsb")
            for domain in ("sy", "osh")
            for which in ("", "ld", "st")
            if domain == "osh" or not which
        }
        | {f"{kind} {which}": Barrier(f"{kind} ish{which}") for kind in ("dmb", "dsb") for which in ("ld", "st")}
    )
    thunks: frozenset[str] = frozenset()

    def fetch(self, image: Image, function_at: Callable[[int], str | None]) -> Fetch:
        """Return what decodes the word at an address."""
        return fetching(image.read_code, function_at)

    def addresses(self, image: Image, function: Symbol) -> Iterable[int]:
        """Return the addresses of a function's words."""
        return range(function.address, function.address + function.size, 4)

    def layout(self, image: Image) -> Layout:
        """Return the address space (arch/arm64/include/asm/memory.h)."""
        bits = int(image.config["CONFIG_ARM64_VA_BITS"])
        page_shift = image.manifest.page_shift
        page_offset = (1 << 64) - (1 << bits)
        vmemmap_size = (1 << bits - 1) >> page_shift - 6
        return Layout(page_shift, page_offset, (1 << 64) - (1 << 30) - vmemmap_size, _PHYS, _KERNEL_PHYS)

    def boot_values(self, image: Image, layout: Layout) -> dict[str, bytes]:
        """Return where physical memory and the image are (arch/arm64/mm/init.c, kernel/head.S).

        And that kernel page-table isolation is off (kernel/cpufeature.c), and where the struct page of the page
        of zeros is (mm/mm_init.c).
        """
        offset = image.sections[0].address - layout.kernel_phys & (1 << 64) - 1
        return {
            "memstart_addr": layout.phys.to_bytes(8, "little"),
            "kimage_voffset": offset.to_bytes(8, "little"),
            "arm64_use_ng_mappings": b"\0",
            "__zero_page": layout.vmemmap.to_bytes(8, "little"),
        }

    def table_at(self, entry: int, page_shift: int) -> int | None:
        """Return the address in a table descriptor (Arm ARM D8.3)."""
        return entry & _ADDRESS & -(1 << page_shift) if entry & _TABLE == _TABLE else None

    def not_followed(self, image: Image, va: int) -> str:
        """Return whether an address lies in the fixmap (asm/fixmap.h, and asm/memory.h from 6.9 on)."""
        try:
            pages = image.types.enumerator("__end_of_fixed_addresses")
        except ImageError:
            return ""
        start = _FIXADDR_TOP - (pages << image.manifest.page_shift)
        return "the fixmap" if start <= va < _FIXADDR_TOP else ""

    def leaf(self, entry: int) -> str:
        """Return what an entry is that leads to no table."""
        return {_BLOCK: "block", _TABLE: "leaf"}.get(entry & 3, "")

    def cpu(self, image: Image, base: int) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
        """Return `current`, and a task that may be preempted."""
        cells = {}
        if any(member.name == "thread_info" for member in image.types.named("task_struct").members):
            # preemption is on: a count of 0, with PREEMPT_NEED_RESCHED inverted (arch/arm64/include/asm/preempt.h)
            cells[base + TASK + image.types.offset("task_struct", "thread_info", "preempt_count")] = (8, 1 << 32)
        return {SP_EL0: base + TASK}, cells

    def initial(self, image: Image) -> Callable[[int], int]:
        """Return 0 for all: nothing of an image is there."""
        return lambda offset: 0

    def begin(self, x: list[int], memory: TrackedMemory, stack: int, returns_to: int) -> None:
        """Set stack pointer and link register."""
        x[SP], x[LINK] = stack, returns_to

    def return_address(self, x: Sequence[int], memory: TrackedMemory) -> int:
        """Return what the link register holds."""
        return x[LINK]

    def leave(self, x: list[int], memory: TrackedMemory) -> None:
        """Go on where the link register says."""
        x[PC] = x[LINK]

    def return_addresses(self, x: Sequence[int], memory: TrackedMemory, image: Image, *, begun: bool) -> list[int]:
        """Return the link register where it is no frame's, and the return addresses of the frames."""
        records = frame_records(memory, x[_X29])
        inner = x[LINK]
        left = not begun and image.symbol_at(inner) == image.symbol_at(x[PC])
        # a function that has no frame of its own yet, or needs none; left from a call that has come back, it leads into
        # the function itself
        return records if inner in records[:1] or left else [inner, *records]


ARCH = Arm64()
