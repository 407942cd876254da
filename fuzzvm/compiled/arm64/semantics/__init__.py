"""The effect of each supported instruction, one file a kind of instruction.

Each file has a table from mnemonic to the function that builds the effect from the operands. The operands are those
that the disassembler prints, aliases included. A form that no table knows raises OperandError.
"""

from __future__ import annotations

from fuzzvm.compiled.arm64.operands import Operand, OperandError
from fuzzvm.compiled.arm64.semantics import atomics, branches, data_processing, memory, system
from fuzzvm.compiled.arm64.semantics.common import Builder
from fuzzvm.compiled.isa.effects import Effect

BUILDERS: dict[str, Builder] = {}
"""From mnemonic to what builds an effect."""
for _table in (data_processing.BUILDERS, branches.BUILDERS, memory.BUILDERS, atomics.BUILDERS, system.BUILDERS):
    assert not BUILDERS.keys() & _table.keys()
    BUILDERS.update(_table)


def effect(mnemonic: str, operands: tuple[Operand, ...], address: int) -> Effect:
    """Return what an instruction at an address does. Raises OperandError for an unknown mnemonic or form."""
    builder = BUILDERS.get(mnemonic)
    if builder is None:
        raise OperandError(mnemonic)
    return builder(operands, address)
