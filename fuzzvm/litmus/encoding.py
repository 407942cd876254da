"""Values of a litmus test as integers: addresses of locations and labels, and instructions.

Locations and labels live in address ranges of their own, so that arithmetic on addresses works. An instruction is
its A64 encoding where a test can make something of that (NOP and B, the two that tests patch in), else a number of
the range that A64 leaves to UDF, one for each text.
"""

from __future__ import annotations

from fuzzvm.litmus.program import Code, Constant, Immediate, Instruction, Label, LitmusError, Name, Relative, Test

_LOCATION_SHIFT = 32
_LABELS = 1 << 56
_THREAD_SHIFT = 32
_INSTRUCTION_BYTES = 4
_NOP = 0xD503201F
_B = 0x14000000
_B_MASK = 0xFC000000
_OTHER = 0x8000

MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1


class Encoding:
    """The numbers that a test's names stand for."""

    def __init__(self, test: Test) -> None:
        self._test = test
        self._locations: dict[str, int] = {}
        self._names: list[str] = []
        self._texts: dict[str, int] = {}
        self._instructions: list[Instruction] = []

    def location(self, name: str) -> int:
        """Return the address of a location."""
        if name not in self._locations:
            self._names.append(name)
            self._locations[name] = len(self._names) << _LOCATION_SHIFT
        return self._locations[name]

    def is_base(self, address: int) -> bool:
        """Return whether a location or an instruction begins at an address."""
        if address >= _LABELS:
            return address % _INSTRUCTION_BYTES == 0
        return address in self._locations.values()

    def code_address(self, thread: int, index: int) -> int:
        """Return the address of an instruction."""
        return _LABELS | thread << _THREAD_SHIFT | index * _INSTRUCTION_BYTES

    def code_index(self, address: int) -> tuple[int, int] | None:
        """Return (thread, index) of the instruction at an address, or None where there is no code."""
        if address < _LABELS:
            return None
        thread = (address & ~_LABELS) >> _THREAD_SHIFT
        index = (address & MASK32) // _INSTRUCTION_BYTES
        if thread >= len(self._test.threads) or index > len(self._test.threads[thread].code):
            return None
        return thread, index

    def label(self, label: Label, line: int) -> int:
        """Return the address of a label. Raises LitmusError if the test has no such label."""
        if label.thread >= len(self._test.threads) or label.name not in self._test.threads[label.thread].labels:
            raise LitmusError(f"no label {label.name} in P{label.thread}", line)
        return self.code_address(label.thread, self._test.threads[label.thread].labels[label.name])

    def instruction(self, instruction: Instruction, thread: int | None, index: int) -> int:
        """Return the encoding of an instruction at a place of a thread (which a branch is relative to)."""
        if instruction.mnemonic == "NOP" and not instruction.operands:
            return _NOP
        if instruction.mnemonic == "B" and len(instruction.operands) == 1:
            target = instruction.operands[0]
            if isinstance(target, Relative):
                return _B | (target.offset // _INSTRUCTION_BYTES) & ~_B_MASK
            if isinstance(target, Name) and thread is not None:
                labels = self._test.threads[thread].labels
                if target.text in labels:
                    return _B | (labels[target.text] - index) & ~_B_MASK
        text = str(instruction)
        if text not in self._texts:
            self._texts[text] = _OTHER + len(self._instructions)
            self._instructions.append(instruction)
        return self._texts[text]

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
        """Return what a constant of the initial state or of the condition stands for."""
        if isinstance(value, int):
            return value & MASK64
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
        if value >= _LABELS:
            place = self.code_index(value)
            if place is not None:
                thread, index = place
                for name, at in self._test.threads[thread].labels.items():
                    if at == index:
                        return f'label:"P{thread}:{name}"'
        elif value >> _LOCATION_SHIFT and (value >> _LOCATION_SHIFT) <= len(self._names):
            offset = value & MASK32
            name = self._names[(value >> _LOCATION_SHIFT) - 1]
            return f"{name}+{offset}" if offset else name
        if value == _NOP or value & _B_MASK == _B or _OTHER <= value < _OTHER + len(self._instructions):
            instruction = self.decode(value)
            assert instruction is not None
            return f'instr:"{instruction}"'
        return str(value - (1 << 64) if value >> 63 else value)


def immediate(operand: object) -> int | None:
    """Return the number of an immediate operand, or None."""
    return operand.value if isinstance(operand, Immediate) else None
