"""The register file: a flat list of integers, and the names of its slots.

A register file is a list of `COUNT` integers, each in 0..2**64-1. Dependencies are tracked for the same slots.
"""

from __future__ import annotations

from fuzzvm.compiled.isa.slots import MASK32, MASK64, PC, SP

__all__ = ["COUNT", "DAIF", "FLAGS", "LINK", "MASK32", "MASK64", "NAMES", "PC", "SP", "SP_EL0", "SYSTEM", "new"]

LINK = 30
FLAGS = 32
"""The condition flags NZCV as an integer of 4 bits; N is bit 3."""
SP_EL0 = 34
TPIDR_EL0 = 35
TPIDR_EL1 = 36
TPIDR_EL2 = 37
TPIDRRO_EL0 = 38
DAIF = 39
"""The interrupt masks, as MRS returns them: D, A, I and F are bits 9 to 6."""
COUNT = 40

SYSTEM = {
    "sp_el0": SP_EL0,
    "tpidr_el0": TPIDR_EL0,
    "tpidr_el1": TPIDR_EL1,
    "tpidr_el2": TPIDR_EL2,
    "tpidrro_el0": TPIDRRO_EL0,
    "daif": DAIF,
    "nzcv": FLAGS,
}
"""System registers that only the CPU itself uses, and that are slots of the register file therefore.

Every other system register is reached by an `Access`.
"""

NAMES = (*(f"x{number}" for number in range(31)), "sp", "nzcv", "pc", *(name for name in SYSTEM if name != "nzcv"))
"""The name of each slot."""


def new() -> list[int]:
    """Return a register file that is all zero."""
    return [0] * COUNT
