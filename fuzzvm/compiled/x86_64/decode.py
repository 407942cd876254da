"""Decoding: from bytes to immutable `Instruction`s.

capstone names the instruction and its operands. What it does comes from `semantics` alone. An instruction that accesses
memory twice, or repeats itself, is several steps; the second begins at its second byte, the third at its third, where
no other instruction begins.
"""

from __future__ import annotations

from capstone import CS_ARCH_X86, CS_MODE_64, Cs

from fuzzvm.compiled.isa.instruction import Instruction, UnsupportedInstructionError, instruction
from fuzzvm.compiled.x86_64 import semantics
from fuzzvm.compiled.x86_64.operands import OperandError, parse

LONGEST = 15
"""Bytes of an instruction at most (Intel SDM vol. 2 2.3.11)."""

_CAPSTONE = Cs(CS_ARCH_X86, CS_MODE_64)


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
