"""Links the objects that matter into one file at the kernel's addresses, as far as they go.

Every name that no object has gets an address of its own, in sections without content: functions 16 bytes apart, others
a megabyte, which is room for any variable. Sections and the linker's symbols are in the order of the kernel's own
script (arch/*/kernel/vmlinux.lds.S, include/asm-generic/vmlinux.lds.h).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection

from fuzzvm.compiled.arch import ImageArch
from fuzzvm.compiled.elf import Elf
from fuzzvm.compiled.records import FUNCTIONS, OTHERS
from fuzzvm.kbuild.run import run

ROOM = 1 << 20
"""Bytes between two names in OTHERS."""
_APART = 16
_LINK_SECONDS = 300.0

_SCRIPT = """\
OUTPUT_FORMAT({output})
SECTIONS
{{
  . = {base:#x};
  _text = .;
  .head.text : {{ *(.head.text) }}
  .init.text : {{ __init_begin = .; __inittext_begin = .; *(.init.text .init.text.*) __inittext_end = .; }}
  .exit.text : {{ *(.exit.text) }}
  . = ALIGN(0x10000);
  .text : {{
    _stext = .;
    *(.text .text.*) *(.noinstr.text) *(.sched.text) *(.ref.text) *(.cpuidle.text) *(.kprobes.text) *(.lock.text)
    *(.entry.text) *(.irqentry.text) *(.softirqentry.text) *(.static_call.text)
    __idmap_text_start = .; *(.idmap.text) __idmap_text_end = .;
  }}
  . = ALIGN(0x10000);
  _etext = .;
  __start_rodata = .;
  .rodata : {{ *(.rodata .rodata.* .srodata) }}
  .data..ro_after_init : {{
    __start_ro_after_init = .; *(.data..ro_after_init) __end_ro_after_init = .;
  }}
  __jump_table : ALIGN(8) {{ __start___jump_table = .; *(__jump_table) __stop___jump_table = .; }}
  __bug_table : ALIGN(8) {{ __start___bug_table = .; *(__bug_table) __stop___bug_table = .; }}
  __ex_table : ALIGN(8) {{ __start___ex_table = .; *(__ex_table) __stop___ex_table = .; }}
  .altinstructions : ALIGN(8) {{ __alt_instructions = .; *(.altinstructions) __alt_instructions_end = .; }}
  .altinstr_replacement : {{ *(.altinstr_replacement) }}
  __end_rodata = .;
  .pgdir (NOLOAD) : ALIGN({page:#x}) {{ {tables} }}
  . = ALIGN(0x10000);
  .init.data : {{
    __initdata_begin = .; *(.init.data .init.data.*) *(.init.rodata .init.rodata.*) *(.init.setup) __initdata_end = .;
    __init_end = .;
  }}
  .data..percpu : ALIGN({page:#x}) {{
    __per_cpu_start = .; *(.data..percpu..first) *(.data..percpu .data..percpu.*) __per_cpu_end = .;
  }}
  . = ALIGN(0x10000);
  _data = .;
  _sdata = .;
  .data : {{ *(.data .data.* .data..*) }}
  .mmuoff.data : {{ *(.mmuoff.data.*) }}
  _edata = .;
  .bss : ALIGN({page:#x}) {{
    __bss_start = .; *(.bss..page_aligned) *(.bss .bss.* .bss..* .sbss COMMON) __bss_stop = .;
  }}
  . = ALIGN(0x10000);
  _end = .;
  {functions} (NOLOAD) : {{ {function_names} }}
  . = ALIGN({room:#x});
  {others} (NOLOAD) : {{ {other_names} }}
  /DISCARD/ : {{ *(.export_symbol) *(.discard) *(.discard.*) *(.modinfo) *(.note.*) *(.comment) *(.eh_frame) }}
}}
"""
_PROVIDED = frozenset(re.findall(r"\b(_\w+) = \.", _SCRIPT))
"""What the script defines itself."""


def link(
    objects: Sequence[Path], arch: ImageArch, config: Mapping[str, str], page_size: int, folder: Path, log: Path
) -> Path:
    """Link objects; return the linked file, which has the relocations beside the debug information.

    Raises KbuildError where the linker fails, and ImageError for a kernel whose addresses are not known.
    """
    ld = f"{arch.kernel.cross}ld"
    partial, linked, script = folder / "partial.o", folder / "linked.elf", folder / "image.lds"
    run([ld, "-r", "--build-id=none", "-o", str(partial), *map(str, objects)], log, _LINK_SECONDS)
    functions, others = _undefined(partial, arch)
    script.write_text(_script(arch, arch.base(config), page_size, functions, others), encoding="utf-8")
    options = ["--emit-relocs", "--build-id=none", "--no-warn-rwx-segments", "--no-relax", "-e", "0"]
    run([ld, *options, "-T", str(script), "-o", str(linked), str(partial)], log, _LINK_SECONDS)
    return linked


def strip_relocations(linked: Path, arch: ImageArch, image: Path, log: Path) -> None:
    """Write a linked file without its relocations: its debug information is read as it stands."""
    run([f"{arch.kernel.cross}objcopy", "--remove-relocations=*", str(linked), str(image)], log, _LINK_SECONDS)


def strip_debug(linked: Path, arch: ImageArch, image: Path, log: Path) -> None:
    """Write a linked file without its debug information."""
    run([f"{arch.kernel.cross}objcopy", "--strip-debug", str(linked), str(image)], log, _LINK_SECONDS)


def _undefined(partial: Path, arch: ImageArch) -> tuple[list[str], list[str]]:
    """Return the names that a file lacks: those that it branches to, and the others."""
    elf = Elf(partial)
    missing = {symbol.name for symbol, _ in elf.symbols() if not symbol.defined} - _PROVIDED - set(arch.tables)
    called = _called(elf.file, arch)
    return sorted(missing & called), sorted(missing - called)


def _called(file: ELFFile, arch: ImageArch) -> set[str]:
    called = set()
    for table in file.iter_sections():
        if isinstance(table, RelocationSection):
            symbols: Any = file.get_section(table["sh_link"])
            numbers = {
                entry["r_info_sym"]
                for entry in table.iter_relocations()
                if entry["r_info_type"] in arch.branch_relocations
            }
            called |= {symbols.get_symbol(number).name for number in numbers}
    return called


def _script(arch: ImageArch, base: int, page_size: int, functions: Sequence[str], others: Sequence[str]) -> str:
    def spaced(names: Sequence[str], room: int) -> str:
        return " ".join(f'"{name}" = .; . += {room:#x};' for name in names)

    return _SCRIPT.format(
        output=arch.output_format,
        base=base,
        page=page_size,
        tables=spaced(arch.tables, page_size),
        functions=FUNCTIONS,
        function_names=spaced(functions, _APART),
        others=OTHERS,
        other_names=spaced(others, ROOM),
        room=ROOM,
    )
