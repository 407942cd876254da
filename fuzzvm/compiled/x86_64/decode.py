"""Decoding: from bytes to immutable `Instruction`s.

capstone names the instruction and its operands. What it does comes from `semantics` alone. An instruction that accesses
memory twice, or repeats itself, is several steps; the second begins at its second byte, the third at its third, where
no other instruction begins.
"""

from __future__ import annotations

from itertools import takewhile

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError, instruction
from fuzzvm.compiled.x86_64 import semantics
from fuzzvm.compiled.x86_64.operands import OperandError, parse

LONGEST = 15
"""Bytes of an instruction at most (Intel SDM vol. 2 2.3.11)."""

_CAPSTONE = Cs(CS_ARCH_X86, CS_MODE_64)


_OPERAND_SIZE = 0x66
_LEGACY = frozenset({0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3})
_NEAR_BRANCHES = ("call", "j", "ret")


def _prefixes(code: bytes) -> bytes:
    """Return the legacy prefixes of an instruction (Intel SDM vol. 2 2.1.1)."""
    return bytes(takewhile(_LEGACY.__contains__, code))


def size_of(code: bytes) -> int:
    """Return how many bytes the first instruction of some code has, 0 where it is none."""
    found = next(_CAPSTONE.disasm_lite(code[:LONGEST], 0, 1), None)
    return 0 if found is None else found[1]


def decode(code: bytes, address: int, function: str | None = None) -> tuple[Instruction, ...]:
    """Return the steps of the instruction that stands at an address; `code` may go on behind it.

    Raises UnsupportedInstructionError; `function` is for the reader of that error.
    """
    found = next(_CAPSTONE.disasm_lite(code[:LONGEST], address, 1), None)
    if found is None:
        raise UnsupportedInstructionError(address, code[:LONGEST].hex(), function)
    _, size, mnemonic, operands = found
    text = f"{mnemonic} {operands}".rstrip()
    if _OPERAND_SIZE in _prefixes(code) and mnemonic.removeprefix("bnd ").startswith(_NEAR_BRANCHES):
        # Intel's CPUs pass over the prefix, AMD's cut the target to 16 bits
        raise UnsupportedInstructionError(address, f"data16 {text}", function)
    try:
        effects = semantics.effects(mnemonic, parse(operands), address, address + size)
    except OperandError:
        raise UnsupportedInstructionError(address, text, function) from None
    if len(effects) > size:
        raise UnsupportedInstructionError(address, text, function)
    word = int.from_bytes(code[:size], "little")
    last = len(effects) - 1
    return tuple(
        instruction(address + step, word, size - last if step == last else 1, text, effect)
        for step, effect in enumerate(effects)
    )
