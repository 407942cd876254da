"""Reads DWARF once, when an image is built, into the plain data that `types` and `lines` answer from.

Reading it takes seconds, since every compilation unit of a kernel repeats the types of the headers; what is left when
equal types are one is small. Sources: the DWARF 5 standard, sections 2.17 (ranges), 3.3 (functions, inlined ones), 5
(types) and 6.2 (lines).
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.die import DIE
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.dwarf.ranges import BaseAddressEntry

from fuzzvm.compiled.records import VOID

Data: TypeAlias = dict[str, Any]
_AGGREGATES = {"DW_TAG_structure_type": "struct", "DW_TAG_union_type": "union", "DW_TAG_enumeration_type": "enum"}
_QUALIFIERS = {"DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_restrict_type", "DW_TAG_atomic_type"}
_NESTS = {"DW_TAG_lexical_block", "DW_TAG_try_block"}
_OP_ADDR, _OP_ADDRX = 0x03, 0xA1


class DebugInfo:
    """What is kept of the debug information of an image. `read` fills it; `types` and `lines` are the plain data.

    A type is a record, a list that begins with its kind, and refers to others by their index:
    base name size encoding; pointer size target; struct or union name size members (of each name, offset, type, first
    bit, bits); enum name size values; array element counts; typedef name target; function result parameters.
    """

    def __init__(self, dwarf: DWARFInfo, wanted: Callable[[str], bool]) -> None:
        self._dwarf = dwarf
        self._records: list[list[Any]] = []
        self._keys: dict[Any, int] = {}
        self._names: dict[str, list[int]] = {}
        self._enumerators: dict[str, list[int]] = {}
        self._functions: dict[str, list[list[Any]]] = {}
        self._variables: dict[str, list[list[Any]]] = {}
        self._scopes: list[Data] = []
        self._files: dict[str, int] = {}
        self._rows: list[list[Any]] = []
        units = [(cu, cu.get_top_DIE()) for cu in dwarf.iter_CUs()]
        named = [(cu, top, _unit_name(top)) for cu, top in units if top.tag == "DW_TAG_compile_unit"]
        self._root = _root([name for _, _, name in named])
        self.units: list[str] = []
        for cu, top, name in named:
            unit = self._relative(name)
            if wanted(unit):
                self.units.append(unit)
                _Unit(self, cu, top, unit).read()

    @property
    def types(self) -> Data:
        """Return types, functions and variables as plain data."""
        return {
            "records": self._records,
            "names": self._names,
            "enumerators": self._enumerators,
            "functions": self._functions,
            "variables": self._variables,
        }

    @property
    def lines(self) -> Data:
        """Return the source line of each address, and the functions that are inlined where, as plain data."""
        return {
            "files": list(self._files),
            "rows": sorted(self._rows),
            "scopes": sorted(self._scopes, key=lambda scope: scope["ranges"][0]),
        }

    def _relative(self, path: str) -> str:
        """Return a file's name relative to the source tree, as it is where it lies elsewhere."""
        if self._root and path.startswith(f"{self._root}/"):
            return path[len(self._root) + 1 :]
        return path

    def file(self, path: str) -> int:
        """Return the number of a file."""
        return self._files.setdefault(self._relative(path), len(self._files))

    def add_type(self, key: Any, kind: str, name: str | None) -> tuple[int, bool]:
        """Return the index of a type, and whether it is new: then its record is the caller's to fill."""
        if key in self._keys:
            return self._keys[key], False
        number = self._keys[key] = len(self._records)
        self._records.append([kind])
        if name is not None:
            self._names.setdefault(name, []).append(number)
        return number, True

    def fill(self, number: int, record: list[Any]) -> None:
        """Set the record of a new type."""
        self._records[number] = record

    def add_enumerator(self, name: str, value: int) -> None:
        """Remember an enumerator; one name may have several values in several units."""
        values = self._enumerators.setdefault(name, [])
        if value not in values:
            values.append(value)

    def add_function(self, name: str, entry: list[Any]) -> None:
        """Remember a function: unit, result, parameters."""
        known = self._functions.setdefault(name, [])
        if entry not in known:
            known.append(entry)

    def add_variable(self, name: str, entry: list[Any]) -> None:
        """Remember a variable: unit, address or None, type."""
        known = self._variables.setdefault(name, [])
        if entry not in known:
            known.append(entry)

    def add_scope(self, scope: Data) -> None:
        """Remember a function's code, with what is inlined in it."""
        self._scopes.append(scope)

    def add_rows(self, rows: list[Any]) -> None:
        """Remember a sequence of line rows: addresses, files, lines, and the unit."""
        self._rows.append(rows)


class _Unit:
    """One compilation unit, while it is read."""

    def __init__(self, info: DebugInfo, cu: CompileUnit, top: DIE, name: str) -> None:
        self._info = info
        self._cu = cu
        self._top = top
        self._name = name
        self._folder = _text(top, "DW_AT_comp_dir") or ""
        self._base = _number(top, "DW_AT_low_pc") or 0
        self._types: dict[int, int] = {}
        self._line_program = cu.dwarfinfo.line_program_for_CU(cu)
        self._file_names = list(self._read_file_names())

    def read(self) -> None:
        """Read types, functions, variables and lines."""
        self._read_rows()
        for die in self._top.iter_children():
            tag = die.tag
            if tag == "DW_TAG_subprogram":
                self._read_function(die)
            elif tag == "DW_TAG_variable":
                self._read_variable(die)
            elif tag in _AGGREGATES or tag == "DW_TAG_typedef":
                self.type_of(die)

    # files and lines

    def _read_file_names(self) -> Iterator[str]:
        if self._line_program is None:
            return
        header = self._line_program.header
        folders = [self._folder, *(_decoded(folder) for folder in header["include_directory"])]
        if header["version"] >= 5:
            # the first folder is the unit's own, and files count from 0
            del folders[0]
        else:
            yield ""
        for entry in header["file_entry"]:
            yield _path(self._folder, folders[entry["dir_index"]], _decoded(entry["name"]))

    def _file(self, number: int) -> int:
        return self._info.file(self._file_names[number]) if number < len(self._file_names) else self._info.file("")

    def _read_rows(self) -> None:
        if self._line_program is None:
            return
        addresses: list[int] = []
        files: list[int] = []
        lines: list[int] = []
        for entry in self._line_program.get_entries():
            state = entry.state
            if state is None:
                continue
            file, line = (-1, 0) if state.end_sequence else (self._file(state.file), state.line)
            # of several rows for one address the last says what stands there
            if not files or (files[-1], lines[-1]) != (file, line):
                addresses.append(state.address)
                files.append(file)
                lines.append(line)
            if state.end_sequence:
                # what the linker discarded is said to stand at 0
                if addresses[0]:
                    self._info.add_rows([addresses, files, lines, self._name])
                addresses, files, lines = [], [], []

    # functions and variables

    def _read_function(self, die: DIE) -> None:
        origin = self._origin(die)
        name = _text(origin, "DW_AT_name")
        if name is None:
            return
        ranges = self._ranges(die)
        if die is origin or ranges:
            parameters = [
                [_text(self._origin(child), "DW_AT_name") or "", self._type(self._origin(child))]
                for child in origin.iter_children()
                if child.tag == "DW_TAG_formal_parameter"
            ]
            variadic = any(child.tag == "DW_TAG_unspecified_parameters" for child in origin.iter_children())
            unit = self._name if ranges else ""
            self._info.add_function(name, [unit, self._type(origin), parameters, variadic])
        if ranges:
            inlined: list[list[Any]] = []
            self._read_block(die, -1, inlined)
            line = _number(origin, "DW_AT_decl_line") or 0
            file = self._file(_number(origin, "DW_AT_decl_file") or 0)
            scope = {"name": name, "file": file, "line": line, "ranges": ranges, "inlined": inlined}
            self._info.add_scope(scope)

    def _read_block(self, die: DIE, parent: int, inlined: list[list[Any]]) -> None:
        """Collect what is inlined below a function or a block: name, file and line of the call, parent, ranges."""
        for child in die.iter_children():
            if child.tag == "DW_TAG_inlined_subroutine":
                ranges = self._ranges(child)
                number = parent
                if ranges:
                    number = len(inlined)
                    name = _text(self._origin(child), "DW_AT_name") or ""
                    file = self._file(_number(child, "DW_AT_call_file") or 0)
                    inlined.append([name, file, _number(child, "DW_AT_call_line") or 0, parent, ranges])
                self._read_block(child, number, inlined)
            elif child.tag in _NESTS:
                self._read_block(child, parent, inlined)
            elif child.tag == "DW_TAG_variable":
                self._read_variable(child)

    def _read_variable(self, die: DIE) -> None:
        origin = self._origin(die)
        name = _text(origin, "DW_AT_name")
        address = self._location(die)
        if name is not None and (address is not None or _flag(die, "DW_AT_declaration")):
            self._info.add_variable(name, [self._name if address is not None else "", address, self._type(origin)])

    def _location(self, die: DIE) -> int | None:
        """Return the address of a variable that has a fixed one."""
        attribute = die.attributes.get("DW_AT_location")
        if attribute is None or attribute.form not in ("DW_FORM_exprloc", "DW_FORM_block1"):
            return None
        expression = bytes(attribute.value)
        if expression[:1] == bytes([_OP_ADDR]) and len(expression) == 9:
            return int.from_bytes(expression[1:], "little")
        if expression[:1] == bytes([_OP_ADDRX]):
            number = shift = 0
            for place, byte in enumerate(expression[1:], start=2):
                number |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    return int(self._cu.dwarfinfo.get_addr(self._cu, number)) if place == len(expression) else None
        return None

    def _ranges(self, die: DIE) -> list[list[int]]:
        """Return the pieces of code that something stands for, in order; none where it has no code."""
        attributes = die.attributes
        if "DW_AT_ranges" in attributes:
            lists = self._cu.dwarfinfo.range_lists()
            if lists is None:
                return []
            base, pieces = self._base, []
            for entry in lists.get_range_list_at_offset(attributes["DW_AT_ranges"].value, self._cu):
                if isinstance(entry, BaseAddressEntry):
                    base = entry.base_address
                else:
                    start = 0 if entry.is_absolute else base
                    pieces.append([start + entry.begin_offset, start + entry.end_offset])
            return sorted(piece for piece in pieces if piece[0] < piece[1] and piece[0])
        if "DW_AT_low_pc" not in attributes or "DW_AT_high_pc" not in attributes:
            return []
        low, high = attributes["DW_AT_low_pc"].value, attributes["DW_AT_high_pc"]
        end = high.value if high.form == "DW_FORM_addr" else low + high.value
        return [[low, end]] if low and low < end else []

    def _origin(self, die: DIE) -> DIE:
        """Return where the name and type of something are said."""
        for link in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if link in die.attributes:
                return self._origin(die.get_DIE_from_attribute(link))
        return die

    # types

    def _type(self, die: DIE) -> int:
        """Return the type that something refers to."""
        return self.type_of(die.get_DIE_from_attribute("DW_AT_type")) if "DW_AT_type" in die.attributes else VOID

    def type_of(self, die: DIE) -> int:
        """Return the index of a type; qualifiers are not kept."""
        if die.offset not in self._types:
            if die.tag in _QUALIFIERS:
                self._types[die.offset] = self._type(die)
            elif die.tag in _AGGREGATES:
                self._read_aggregate(die, _AGGREGATES[die.tag])
            else:
                self._read_other(die)
        return self._types[die.offset]

    def _read_aggregate(self, die: DIE, kind: str) -> None:
        name, size = _text(die, "DW_AT_name"), _number(die, "DW_AT_byte_size")
        children = list(die.iter_children())
        if kind == "enum":
            values = [
                (_text(child, "DW_AT_name") or "", _number(child, "DW_AT_const_value") or 0)
                for child in children
                if child.tag == "DW_TAG_enumerator"
            ]
            number = self._add(die, (kind, name, size, str(values)), f"enum {name}" if name else None)
            if number is not None:
                self._info.fill(number, [kind, name, size, values])
                for enumerator, value in values:
                    self._info.add_enumerator(enumerator, value)
            return
        members = [child for child in children if child.tag == "DW_TAG_member"]
        # one name may stand for different types in different units: what tells them apart is part of the key
        shape = tuple((_text(member, "DW_AT_name"), _offset(member)) for member in members)
        declared = (_number(die, "DW_AT_decl_line") or 0, self._file(_number(die, "DW_AT_decl_file") or 0))
        if _flag(die, "DW_AT_declaration"):
            declared = (0, 0)
        number = self._add(die, (kind, name, size, declared, shape), f"{kind} {name}" if name else None)
        if number is not None:
            self._info.fill(number, [kind, name, size, [self._member(member) for member in members]])

    def _member(self, die: DIE) -> list[Any]:
        bits = _number(die, "DW_AT_bit_size")
        offset, first = _offset(die)
        return [_text(die, "DW_AT_name"), offset, self._type(die), first if bits is not None else None, bits]

    def _add(self, die: DIE, key: Any, name: str | None) -> int | None:
        """Give a type its index; return that where its record is to be filled."""
        number, new = self._info.add_type(key, str(key[0]), name)
        self._types[die.offset] = number
        return number if new else None

    def _read_other(self, die: DIE) -> None:
        tag, name, size = die.tag, _text(die, "DW_AT_name"), _number(die, "DW_AT_byte_size")
        record: list[Any]
        if tag == "DW_TAG_base_type":
            record = ["base", name, size, _number(die, "DW_AT_encoding")]
        elif tag == "DW_TAG_pointer_type":
            record = ["pointer", size, self._type(die)]
        elif tag == "DW_TAG_typedef":
            record = ["typedef", name, self._type(die)]
        elif tag == "DW_TAG_array_type":
            counts = [_count(child) for child in die.iter_children() if child.tag == "DW_TAG_subrange_type"]
            record = ["array", self._type(die), counts]
        elif tag == "DW_TAG_subroutine_type":
            given = [self._type(child) for child in die.iter_children() if child.tag == "DW_TAG_formal_parameter"]
            record = ["function", self._type(die), given]
        else:
            record = ["unknown", tag, size]
        number, new = self._info.add_type(str(record), record[0], name)
        if new:
            self._info.fill(number, record)
        self._types[die.offset] = number


def _decoded(text: bytes | str) -> str:
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def _text(die: DIE, attribute: str) -> str | None:
    found = die.attributes.get(attribute)
    return None if found is None else _decoded(found.value)


def _number(die: DIE, attribute: str) -> int | None:
    found = die.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else None


def _flag(die: DIE, attribute: str) -> bool:
    return attribute in die.attributes


def _offset(die: DIE) -> tuple[int, int | None]:
    """Return the byte offset of a member, and for a bit field the first bit in the aggregate."""
    first = _number(die, "DW_AT_data_bit_offset")
    if first is not None:
        return first // 8, first
    offset = _number(die, "DW_AT_data_member_location") or 0
    return offset, offset * 8


def _count(die: DIE) -> int | None:
    """Return the number of elements of an array, None where it is not said."""
    count = _number(die, "DW_AT_count")
    if count is not None:
        return count
    upper = _number(die, "DW_AT_upper_bound")
    # an array of no elements has the upper bound -1
    return None if upper is None or upper >= (1 << 63) - 1 else upper + 1


def _path(*parts: str) -> str:
    # without touching the file system: the files may be gone, and the compiler has named them by `..`
    return os.path.normpath(Path(*parts))


def _unit_name(top: DIE) -> str:
    return _path(_text(top, "DW_AT_comp_dir") or "", _text(top, "DW_AT_name") or "")


def _root(names: list[str]) -> str:
    """Return the folder that all units lie in, where their names are absolute."""
    absolute = [str(Path(name).parent) for name in names if name.startswith("/")]
    return os.path.commonpath(absolute) if absolute else ""
