"""Values of a litmus test as integers: addresses of locations and labels, and instructions.

Locations and labels live in address ranges of their own, so that arithmetic on addresses works. An instruction is
its A64 encoding where a test can make something of that (NOP and B, the two that tests patch in), else a number of
the range that A64 reserves (Arm ARM C4.1), one for each text.
"""

from __future__ import annotations

from fuzzvm.litmus import entries
from fuzzvm.litmus.program import (
    Code,
    Constant,
    Entry,
    Instruction,
    Label,
    LitmusError,
    Name,
    Place,
    Relative,
    Test,
    entry_name,
    page_name,
    show_instruction,
)

_LOCATION_SHIFT = 32
_LOCATIONS = 1 << 52
_LABELS = 1 << 56
_THREAD_SHIFT = 32
_NAMED_SHIFT = 48
"""Addresses with the same bits from there on are all locations, or all labels."""
_INSTRUCTION_BYTES = 4
_NOP = 0xD503201F
_B = 0x14000000
_B_MASK = 0xFC000000
_OTHER = 0x01F00000

_TYPES = {
    **{f"int{bits}_t": (bits, True) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}_t": (bits, False) for bits in (8, 16, 32, 64)},
    "int": (32, True),
    "char": (8, True),
}
"""Bits and signedness of the types of the initial state; any other type is 64 bits wide."""

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1


def is_address(value: int) -> bool:
    """Return whether a number is an address of a location or a label."""
    return value >> _NAMED_SHIFT in (_LOCATIONS >> _NAMED_SHIFT, _LABELS >> _NAMED_SHIFT)


class Encoding:
    """The numbers that a test's names stand for."""

    def __init__(self, test: Test) -> None:
        self._test = test
        self._locations: dict[str, int] = {}
        self._names: list[str] = []
        self._texts: dict[str, int] = {}
        self._instructions: list[Instruction] = []
        self._types: dict[Place, tuple[int, bool]] = {}
        self._has_code = any(instruction.mnemonic == "ADR" for thread in test.threads for instruction in thread.code)
        names = set()
        for declaration in test.declarations:
            if isinstance(declaration.value, Code | Label) or declaration.value == Name("NOP"):
                self._has_code = True
            if isinstance(declaration.value, Name) and declaration.value.text != "NOP":
                names.add(declaration.value.text)
            if isinstance(declaration.value, Entry):
                names.add(declaration.value.page)
            if declaration.place.thread is None:
                names.add(declaration.place.name)
            if declaration.pointer:
                self._types[declaration.place] = (64, False)
            elif declaration.kind:
                self._types[declaration.place] = _TYPES.get(declaration.kind, (64, False))
        places = (*test.condition.places, *test.locations)
        names.update(place.name for place in places if isinstance(place, Place) and place.thread is None)
        names.update([page for name in names if (page := page_name(name))])
        names.discard("")
        for name in sorted(names):  # in this order, so that states sort as herd7 sorts them
            self.location(name)
        if test.translation is not None:
            for name in sorted(name for name in names if page_name(name) is None):
                self.location(entry_name(name))
                self._types[Place(None, entry_name(name))] = (64, False)

    def names(self) -> list[str]:
        """Return the names of all locations."""
        return list(self._names)

    def default_entry(self, name: str) -> int:
        """Return what the page-table entry of a location is where the test does not say."""
        return entries.encode(self._number(name), ())

    def _number(self, name: str) -> int:
        return (self.location(name) & ~_LOCATIONS) >> _LOCATION_SHIFT if name else 0

    def page(self, entry: int) -> int | None:
        """Return the address of the location that a page-table value leads to, None where it leads to none."""
        number = entries.page_of(entry)
        return _LOCATIONS | number << _LOCATION_SHIFT if number else None

    def completed(self, place: Place, value: int, line: int) -> int:
        """Return a value given for a place: the entry of a location leads to it where the value does not say.

        Raises LitmusError for the entry of a location where the value is none of an entry.
        """
        page = page_name(place.name) if place.thread is None else None
        if page is None:
            return value
        if not entries.is_entry(value):
            raise LitmusError(f"{self.show(value)} is no page-table value, as {place.name} holds", line)
        if entries.page_of(value):
            return value
        return entries.with_page(value, self._number(page))

    def name_at(self, address: int) -> str | None:
        """Return the name of the location that an address lies in, None if it lies in none."""
        found = self._location_at(address)
        return None if found is None else found[0]

    def final(self, place: Place, value: int) -> int:
        """Return a value as the type of a place has it: untyped places are int, 32 bits and signed, as in herd7."""
        if self._named(value):
            return value
        bits, signed = self._types.get(place, _TYPES["int"])
        value &= (1 << bits) - 1
        if bits == _INSTRUCTION_BYTES * 8 and self._is_instruction(value):
            return value
        return value - (1 << bits) if signed and value >> (bits - 1) else value

    def _named(self, value: int) -> bool:
        """Return whether a value is an address or an instruction, which have no type."""
        if entries.is_entry(value):
            return True
        return self.code_index(value) is not None or self._location_at(value) is not None or self._is_instruction(value)

    def _is_instruction(self, value: int) -> bool:
        """Return whether a value is an instruction; none is where a test has no code as data."""
        if not self._has_code or value & ~MASK32:
            return False
        return value == _NOP or value & _B_MASK == _B or _OTHER <= value < _OTHER + len(self._instructions)

    def location(self, name: str) -> int:
        """Return the address of a location."""
        if name not in self._locations:
            self._names.append(name)
            self._locations[name] = _LOCATIONS | len(self._names) << _LOCATION_SHIFT
        return self._locations[name]

    def is_base(self, address: int) -> bool:
        """Return whether a location or an instruction begins at an address."""
        code = self.code_index(address)
        if code is not None:
            return code[1] < len(self._test.threads[code[0]].code)
        return address in self._locations.values()

    def declared_bits(self, address: int) -> int | None:
        """Return the width of what begins at an address; None where a location was declared without a type."""
        if self.code_index(address) is not None:
            return _INSTRUCTION_BYTES * 8
        found = self._location_at(address)
        assert found is not None
        declared = self._types.get(Place(None, found[0]))
        return None if declared is None else declared[0]

    def _location_at(self, address: int) -> tuple[str, int] | None:
        """Return (name, offset) of an address of the range of locations, or None."""
        index = (address - _LOCATIONS) >> _LOCATION_SHIFT
        return (self._names[index - 1], address & MASK32) if 0 < index <= len(self._names) else None

    def code_address(self, thread: int, index: int) -> int:
        """Return the address of an instruction."""
        return _LABELS | thread << _THREAD_SHIFT | index * _INSTRUCTION_BYTES

    def code_index(self, address: int) -> tuple[int, int] | None:
        """Return (thread, index) of the instruction at an address, or None where there is no code."""
        if address < _LABELS:
            return None
        thread = (address & ~_LABELS) >> _THREAD_SHIFT
        index, offset = divmod(address & MASK32, _INSTRUCTION_BYTES)
        if offset or thread >= len(self._test.threads) or index > len(self._test.threads[thread].code):
            return None
        return thread, index

    def label(self, label: Label, line: int) -> int:
        """Return the address of a label. Raises LitmusError if the test has no such label."""
        if label.thread >= len(self._test.threads) or label.name not in self._test.threads[label.thread].labels:
            raise LitmusError(f"no label {label.name} in P{label.thread}", line)
        return self.code_address(label.thread, self._test.threads[label.thread].labels[label.name])

    def instruction(self, instruction: Instruction, thread: int | None, index: int) -> int:
        """Return the encoding of an instruction at a place of a thread (which branches and ADR are relative to)."""
        if thread is not None:
            instruction = self._relative(instruction, self._test.threads[thread].labels, index)
        if instruction.mnemonic == "NOP" and not instruction.operands:
            return _NOP
        if instruction.mnemonic == "B" and len(instruction.operands) == 1:
            target = instruction.operands[0]
            if isinstance(target, Relative):
                return _B | (target.offset // _INSTRUCTION_BYTES) & ~_B_MASK
        text = str(instruction)
        if text not in self._texts:
            self._texts[text] = _OTHER + len(self._instructions)
            self._instructions.append(instruction)
        return self._texts[text]

    @staticmethod
    def _relative(instruction: Instruction, labels: dict[str, int], index: int) -> Instruction:
        operands = tuple(
            Relative((labels[operand.text] - index) * _INSTRUCTION_BYTES)
            if isinstance(operand, Name) and operand.text in labels
            else operand
            for operand in instruction.operands
        )
        return Instruction(instruction.mnemonic, operands, instruction.line)

    def decode(self, value: int) -> Instruction | None:
        """Return the instruction that a value encodes, branches with relative targets, or None for an undefined one."""
        if value == _NOP:
            return Instruction("NOP", (), 0)
        if value & _B_MASK == _B:
            offset = value & ~_B_MASK
            if offset & 0x2000000:
                offset -= 0x4000000
            return Instruction("B", (Relative(offset * _INSTRUCTION_BYTES),), 0)
        if _OTHER <= value < _OTHER + len(self._instructions):
            return self._instructions[value - _OTHER]
        return None

    def constant(self, value: Constant, line: int) -> int:
        """Return what a constant of the initial state or of the condition stands for.

        Raises LitmusError for a label that is not there, and for a number that addresses are made of.
        """
        if isinstance(value, int):
            if is_address(value & MASK64) or entries.is_entry(value & MASK64):
                raise LitmusError(f"the number {value:#x} stands for an address here", line)
            return value & MASK64
        if isinstance(value, Entry):
            return entries.encode(self._number(value.page), value.fields)
        if isinstance(value, Name):
            if value.text == "NOP":
                return _NOP
            return self.location(value.text)
        if isinstance(value, Label):
            return self.label(value, line)
        assert isinstance(value, Code)
        return self.instruction(value.instruction, None, 0)

    def show(self, value: int) -> str:
        """Return a value as herd7 prints it."""
        if entries.is_entry(value):
            page = self.page(value)
            return entries.show(value, "" if page is None else self.name_at(page) or "")
        code = self.code_index(value)
        if code is not None:
            thread, index = code
            for label, at in self._test.threads[thread].labels.items():
                if at == index:
                    return f'label:"P{thread}:{label}"'
            return f"P{thread}+{index * _INSTRUCTION_BYTES}"
        location = self._location_at(value)
        if location is not None:
            name, offset = location
            return f"{name}+{offset}" if offset else name
        if self._is_instruction(value):
            instruction = self.decode(value)
            assert instruction is not None
            return show_instruction(instruction)
        return str(value)
