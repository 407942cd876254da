"""What driving a kernel needs to know of an architecture: registers, page tables, and how QEMU is started.

Register numbers are GDB's (features/i386/64bit-core.xml, features/aarch64-core.xml).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fuzzvm.kbuild import arch as kbuild

_PHYSICAL = 0x0000_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class Arch:
    """An architecture. `builds` says how its kernel is built. `levels` are, by page size, the page-table levels that a
    kernel here can have, the usual first.

    `arguments` are the registers of a function's first two arguments, `result` that of what it returns. `frame` holds
    the address of the caller's frame, with the return address in the word after it, on both. `link` is the register
    of the return address at a function's entry, None where it is on the stack. `nop` is the length of the
    instruction before the parking loop, `loop` that of the loop. `stops_before` says that QEMU stops before the access
    to what is watched, not after it (CPUClass.gdb_stop_before_watchpoint). `root_writer` is the function that writes an
    entry of the root through another address, its own being read-only, given the address that it has.
    """

    builds: kbuild.KernelArch
    levels: dict[str, tuple[int, ...]]
    pc: int
    sp: int
    frame: int
    link: int | None
    arguments: tuple[int, int]
    result: int
    flags: int
    nop: int
    loop: int
    root: str
    root_writer: str | None
    image: str
    machine: str
    qemu: tuple[str, ...]
    console: str
    append: str
    stops_before: bool
    interrupts_on: Callable[[int], bool]
    is_table: Callable[[int, int], bool]

    @property
    def name(self) -> str:
        """Return the name that users give it."""
        return self.builds.name

    def table(self, entry: int) -> int:
        """Return the physical address of the table that an entry points to."""
        return entry & _PHYSICAL

    def va_bits(self, page_shift: int, levels: int) -> int:
        """Return the bits of an address that the page tables translate."""
        return self.builds.va_bits(page_shift, levels)

    def window(self, page_shift: int, levels: int) -> int:
        """Return an address of the vmalloc area that small allocations do not come near, aligned to a root's entry."""
        if self.name == "x86_64":
            return 0xFFD0_0000_0000_0000 if levels == 5 else 0xFFFF_D000_0000_0000
        # the vmalloc area is most of the upper half of the kernel's addresses: the middle of that
        return (1 << 64) - (1 << self.va_bits(page_shift, levels) - 2)

    def room(self, page_shift: int, levels: int) -> int:
        """Return the bytes from `window` on that are vmalloc space for certain."""
        if self.name == "x86_64":
            # VMALLOC_SIZE_TB_L4 and _L5 are 32 and 12800, from 0xffffc90000000000 and 0xffa0000000000000
            return 25 << 40 if levels == 4 else 1 << 49
        # vmemmap, half of an address space that is cut by the page's size, and what lies above it
        return (1 << self.va_bits(page_shift, levels) - 2) - (1 << self.va_bits(page_shift, levels) - 5)


def _x86_is_table(entry: int, shift: int) -> bool:
    # _PAGE_PRESENT, and no _PAGE_PSE
    return bool(entry & 1) and not entry & 0x80


def _arm64_is_table(entry: int, shift: int) -> bool:
    return entry & 3 == 3


X86_64 = Arch(
    builds=kbuild.X86_64,
    levels={"4K": (4, 5)},
    pc=16,
    sp=7,
    frame=6,
    link=None,
    arguments=(5, 4),
    result=0,
    flags=17,
    nop=1,
    loop=2,
    root="init_top_pgt",
    root_writer=None,
    image="arch/x86/boot/bzImage",
    machine="qemu-system-x86_64",
    qemu=("-machine", "pc", "-cpu", "max"),
    console="ttyS0",
    # the switch to a better clock, seconds after boot, stops all CPUs, and a parked one does not stop
    append="clocksource=jiffies",
    stops_before=False,
    # X86_EFLAGS_IF
    interrupts_on=lambda flags: bool(flags & 0x200),
    is_table=_x86_is_table,
)

ARM64 = Arch(
    builds=kbuild.ARM64,
    # of CONFIG_ARM64_VA_BITS those that QEMU was tried with: 39 and 48, 48 and 47, 42 and 48
    levels={"4K": (3, 4), "16K": (4, 3), "64K": (2, 3)},
    pc=32,
    sp=31,
    frame=29,
    link=30,
    arguments=(0, 1),
    result=0,
    flags=33,
    nop=4,
    loop=4,
    root="swapper_pg_dir",
    root_writer="set_swapper_pgd",
    image="arch/arm64/boot/Image",
    machine="qemu-system-aarch64",
    # one that has 4K, 16K and 64K pages
    qemu=("-machine", "virt,gic-version=3", "-cpu", "cortex-a76"),
    console="ttyAMA0",
    append="",
    stops_before=True,
    # PSR_I_BIT
    interrupts_on=lambda flags: not flags & 0x80,
    is_table=_arm64_is_table,
)

ARCHES = {arch.name: arch for arch in (X86_64, ARM64)}

PACKAGES = {X86_64.machine: "qemu-system-x86", ARM64.machine: "qemu-system-arm"}
"""The Debian package of each QEMU."""
