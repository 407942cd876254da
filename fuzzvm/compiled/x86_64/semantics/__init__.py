"""What each x86_64 instruction does, by mnemonic (Intel SDM vol. 2).

Every mnemonic has a builder in the table of one of these files, from which an instruction's effects are made. Forms
that are not there are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from fuzzvm.compiled.isa.effects import Effect
from fuzzvm.compiled.x86_64.operands import Operand, OperandError
from fuzzvm.compiled.x86_64.semantics import arithmetic, bits, flow, memory
from fuzzvm.compiled.x86_64.semantics.common import At, Builder

BUILDERS: Mapping[str, Builder] = {
    **arithmetic.BUILDERS,
    **bits.BUILDERS,
    **flow.BUILDERS,
    **memory.BUILDERS,
}


def effects(mnemonic: str, operands: tuple[Operand, ...], address: int, following: int) -> tuple[Effect, ...]:
    """Return the effects of an instruction's steps, in order. Raises OperandError for one that is not known."""
    builder = BUILDERS.get(mnemonic)
    if builder is None:
        raise OperandError(mnemonic)
    return builder(operands, At(address, following))
