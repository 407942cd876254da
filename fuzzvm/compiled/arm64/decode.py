"""Decoding: from a 32-bit word to an immutable `Instruction`.

capstone names the instruction and its operands. What the instruction does comes from `semantics` alone; capstone's own
lists of registers read and written are wrong in places and are not used.
"""

from __future__ import annotations

from collections.abc import Callable

from capstone import CS_ARCH_ARM64, CS_MODE_ARM, Cs

from fuzzvm.compiled.arm64 import semantics
from fuzzvm.compiled.arm64.operands import OperandError, parse
from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError, instruction

_CAPSTONE = Cs(CS_ARCH_ARM64, CS_MODE_ARM)


def decode(word: int, address: int, function: str | None = None) -> Instruction:
    """Return the instruction that a word is at an address.

    Raises UnsupportedInstructionError for a word that is no instruction, one whose effect is not known, or a misaligned
    address, at which a CPU fetches nothing; `function` is for the reader of that error.
    """
    if address % 4:
        raise UnsupportedInstructionError(address, "at a misaligned address", function)
    found = next(_CAPSTONE.disasm_lite(word.to_bytes(4, "little"), address, 1), None)
    if found is None:
        raise UnsupportedInstructionError(address, f"{word:#010x}", function)
    _, _, mnemonic, operands = found
    text = f"{mnemonic} {operands}".rstrip()
    try:
        effect = semantics.effect(mnemonic, parse(operands), address)
    except OperandError:
        raise UnsupportedInstructionError(address, text, function) from None
    return instruction(address, word, 4, text, effect)


def fetching(
    read_code: Callable[[int], int], function_at: Callable[[int], str | None] = lambda address: None
) -> Callable[[int], Instruction]:
    """Return what decodes the word that `read_code` has at an address; `function_at` names functions in errors."""
    return lambda address: decode(read_code(address), address, function_at(address))
