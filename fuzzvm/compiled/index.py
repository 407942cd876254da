"""The index of an image: what loading it needs, in files that are read in a moment.

layout.json has sections, symbols and the kernel's tables, references.json which addresses data holds, types.json
and lines.json what the debug information says. Each is written when the image is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path

from elftools.common.exceptions import DWARFError, ELFError

from fuzzvm.compiled import tables
from fuzzvm.compiled.arch import Alternative, ImageArch
from fuzzvm.compiled.debug_info import DebugInfo
from fuzzvm.compiled.elf import Elf
from fuzzvm.compiled.errors import ImageError
from fuzzvm.compiled.lines import Lines
from fuzzvm.compiled.link import ROOM
from fuzzvm.compiled.manifest import INDEX
from fuzzvm.compiled.records import FUNCTIONS, OTHERS, Reference, Symbol
from fuzzvm.compiled.types import Types

_NO_POINTERS = ("__jump_table", "__bug_table", "__ex_table", ".altinstructions")
"""Sections whose addresses are not data that code follows."""


def apply_alternatives(
    elf: Elf, symbols: Mapping[str, int], arch: ImageArch, names: Mapping[int, str], features: Sequence[str]
) -> list[Alternative]:
    """Change the text as it is at boot where the CPUs have `features`; return all alternatives.

    One whose code is written by a function that is not known is not applied: `applied` is False for it.
    Raises ImageError for a feature that the kernel does not know.
    """
    if unknown := sorted(set(features) - set(names.values())):
        raise ImageError(f"this kernel knows no CPU feature {', '.join(unknown)}")
    functions = {address: name for name, address in symbols.items()}
    chosen = {*features, *arch.always}
    done = []
    for alternative in tables.alternatives(elf, symbols, arch, names):
        code: bytes | None = None
        if alternative.is_for(chosen):
            if alternative.callback:
                write = arch.callbacks.get(functions.get(alternative.replacement, ""))
                code = None if write is None else write(alternative.size)
            else:
                code = arch.replacement(alternative, elf.read)
        if code is not None:
            elf.write(alternative.address, code)
        done.append(replace(alternative, applied=code is not None))
    return done


def build(
    elf: Elf,
    linked: Elf,
    arch: ImageArch,
    page_size: int,
    config: Mapping[str, str],
    alternatives: Sequence[Alternative],
    chosen: Iterable[str],
    units: Callable[[str], bool],
    pointers: Iterable[Reference],
    numbers: Iterable[int],
    folder: Path,
) -> str:
    """Write the index of an image whose text is final; return the image's digest.

    `linked` is the file that it was made of, which has debug information and the linker's relocations. `units` says
    which source files matter, `pointers` are addresses in data that the relocations do not tell, `numbers` are those of
    the features that CPUs have. Raises ImageError.
    """
    try:
        if not linked.file.has_dwarf_info(strict=True):
            raise ImageError(f"{linked.path} has no debug information: CONFIG_DEBUG_INFO is off")
        info = DebugInfo(linked.file.get_dwarf_info(relocate_dwarf_sections=False), units)
    except (DWARFError, ELFError, KeyError) as error:
        raise ImageError(f"{linked.path}: the debug information cannot be read ({error})") from error
    if not info.units:
        raise ImageError(
            f"{linked.path} has no debug information for the objects that matter: CONFIG_DEBUG_INFO is off"
        )
    types, lines = Types(info.types), Lines(info.lines)
    symbols = list(_symbols(elf, arch, page_size, types, lines))
    data_ranges = list(_data_in_text(elf))
    named = {symbol.name: symbol.address for symbol in symbols if not symbol.local}
    every = {*chosen, *arch.always}
    layout = {
        "sections": [astuple(section) for section in elf.sections],
        "symbols": [astuple(symbol) for symbol in symbols],
        "data_in_text": data_ranges,
        "features": sorted(numbers),
        "jump_sites": [astuple(site) for site in tables.jump_sites(elf, named)],
        "bugs": [astuple(bug) for bug in tables.bugs(elf, named, types, config)],
        "exceptions": [astuple(entry) for entry in tables.exceptions(elf, named)],
        "alternatives": [astuple(alternative) for alternative in alternatives],
        "unwritten": [
            alternative.address for alternative in alternatives if not alternative.applied and alternative.is_for(every)
        ],
    }
    references = sorted(astuple(reference) for reference in (*_references(linked, arch), *pointers))
    (folder / INDEX).mkdir(exist_ok=True)
    for name, content in (
        ("layout", layout),
        ("references", references),
        ("types", info.types),
        ("lines", info.lines),
    ):
        (folder / INDEX / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return _digest(elf, symbols)


def _symbols(elf: Elf, arch: ImageArch, page_size: int, types: Types, lines: Lines) -> Iterable[Symbol]:
    """Yield the symbols that name something, with what the debug information adds to them."""
    seen = set()
    for symbol, section in elf.symbols():
        # $x and $d say where instructions and data begin; .L are an assembler's own
        if not symbol.defined or symbol.name.startswith(("$", ".L")):
            continue
        if section in (FUNCTIONS, OTHERS):
            kind, size = "function" if section == FUNCTIONS else "", 0
            if section == OTHERS:
                kind, size = _undefined_kind(symbol.name, types)
            symbol = replace(symbol, kind=kind, size=size, defined=False)
        elif symbol.name in arch.tables:
            symbol = replace(symbol, kind="object", size=page_size)
        elif symbol.kind == "function" and (unit := lines.unit(symbol.address)):
            symbol = replace(symbol, unit=unit)
        if symbol not in seen:
            seen.add(symbol)
            yield symbol


def _undefined_kind(name: str, types: Types) -> tuple[str, int]:
    """Return the kind and size of a name that no object has, as far as the debug information says."""
    if types.is_function(name):
        return "function", 0
    try:
        size = types.variable(name).size
    except ImageError:
        return "", 0
    if size > ROOM:
        raise ImageError(f"{name} has {size} bytes, which is more than there is room for: give its object by --object")
    return "object", size


def _data_in_text(elf: Elf) -> Iterable[tuple[int, int]]:
    """Yield the parts of code that are data, from the mapping symbols ($d, $x) of the ELF for Arm."""
    marks: dict[str, list[tuple[int, bool]]] = {}
    for symbol, name in elf.symbols():
        if symbol.name.startswith(("$d", "$x")) and symbol.defined:
            marks.setdefault(name, []).append((symbol.address, symbol.name.startswith("$d")))
    for section in elf.sections:
        if not section.executable or section.name not in marks:
            continue
        placed = [*sorted(marks[section.name]), (section.end, False)]
        for (start, is_data), (end, _) in pairwise(placed):
            if is_data and start < end:
                yield start, end


def _references(linked: Elf, arch: ImageArch) -> Iterable[Reference]:
    """Yield the words of data that hold an address, from the relocations that the linker left."""
    executable = {section.name for section in linked.sections if section.executable}
    for section, place, kind, target in linked.relocations():
        if kind == arch.pointer_relocation and section not in _NO_POINTERS and section not in executable:
            yield Reference(place, target)


def _digest(elf: Elf, symbols: Iterable[Symbol]) -> str:
    digest = hashlib.sha256()
    for section in elf.sections:
        digest.update(f"{section.name} {section.address:#x} {section.size:#x}\n".encode())
        if section.offset >= 0:
            digest.update(elf.read(section.address, section.size))
    for symbol in sorted((symbol.address, symbol.name, symbol.size) for symbol in symbols):
        digest.update(f"{symbol}\n".encode())
    return digest.hexdigest()
