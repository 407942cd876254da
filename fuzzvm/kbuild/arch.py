"""What building a kernel needs to know of an architecture: its names, its compiler, and the options of its geometry."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

PAGE_SHIFTS = {"4K": 12, "16K": 14, "64K": 16}


@dataclass(frozen=True, slots=True)
class KernelArch:
    """An architecture as its kernel's build system knows it.

    `kernel_name` is make's ARCH, `folder` the directory below arch/, `cross` make's CROSS_COMPILE: Debian's prefix, or
    nothing where the building machine's own tools do. `target` is the Debian package of the compiler, `needs` are
    packages by a file that each brings. `levels` are, by page size, the page-table levels that a kernel can have, the
    usual first. `geometry_options` returns the options that give a kernel a page size and levels; `geometry` matches
    the names of all such options.
    """

    name: str
    kernel_name: str
    folder: str
    cross: str
    target: str
    needs: dict[str, str]
    levels: dict[str, tuple[int, ...]]
    va_bits: Callable[[int, int], int]
    geometry_options: Callable[[str, int], list[str]]
    geometry: re.Pattern[str]

    @property
    def gcc(self) -> str:
        """Return the name of the compiler that makes programs for it."""
        return f"{self.cross}gcc"


def _x86_va_bits(page_shift: int, levels: int) -> int:
    return page_shift + (page_shift - 3) * levels


def _arm64_va_bits(page_shift: int, levels: int) -> int:
    """Return CONFIG_ARM64_VA_BITS; LPA and LPA2, which have 52, are not there."""
    return min(page_shift + (page_shift - 3) * levels, 48)


X86_64 = KernelArch(
    name="x86_64",
    kernel_name="x86_64",
    folder="x86",
    cross="",
    target="gcc",
    # for objtool, which runs on the machine that builds
    needs={"/usr/include/gelf.h": "libelf-dev"},
    levels={"4K": (4, 5)},
    va_bits=_x86_va_bits,
    geometry_options=lambda page_size, levels: [f"CONFIG_X86_5LEVEL={'y' if levels == 5 else 'n'}"],
    geometry=re.compile(r"CONFIG_X86_5LEVEL"),
)

ARM64 = KernelArch(
    name="arm64",
    kernel_name="arm64",
    folder="arm64",
    cross="aarch64-linux-gnu-",
    target="gcc-aarch64-linux-gnu",
    needs={},
    # CONFIG_ARM64_VA_BITS is 39 and 48; 48, 47 and 36; 42 and 48 (arch/arm64/Kconfig)
    levels={"4K": (3, 4), "16K": (4, 3, 2), "64K": (2, 3)},
    va_bits=_arm64_va_bits,
    geometry_options=lambda page_size, levels: [
        f"CONFIG_ARM64_{page_size}_PAGES=y",
        f"CONFIG_ARM64_VA_BITS_{_arm64_va_bits(PAGE_SHIFTS[page_size], levels)}=y",
    ],
    geometry=re.compile(r"CONFIG_ARM64_(\w+_PAGES|VA_BITS_\w+)"),
)
