"""Small programs as words, and the ways to run them."""

from __future__ import annotations

from collections.abc import Sequence

from fuzzvm.compiled.arm64 import registers
from fuzzvm.compiled.arm64.decode import fetching
from fuzzvm.compiled.isa.engine import Fetch

BASE = 0x40_0000
RETURN = 0x1000
"""The address that a program returns to."""
STACK_LOW, STACK_HIGH = 0x8_0000, 0x8_1000


def reader(words: Sequence[int], function: str | None = None) -> Fetch:
    """Return what reads the code of a program at BASE; raises KeyError elsewhere."""
    code = {BASE + 4 * index: word for index, word in enumerate(words)}
    return fetching(code.__getitem__, lambda address: function)


def start(**values: int) -> list[int]:
    """Return a register file at the begin of a program, with a stack; values are given by the slots' names."""
    x = registers.new()
    x[registers.SP], x[registers.LINK], x[registers.PC] = STACK_HIGH, RETURN, BASE
    for name, value in values.items():
        x[registers.NAMES.index(name)] = value
    return x


COUNT_DOWN = (
    0xF1000400,  # subs x0, x0, #1
    0x54FFFFE1,  # b.ne .-4
    0xD65F03C0,  # ret
)
SPILL = (
    0xA9BE7BFD,  # stp x29, x30, [sp, #-32]!
    0x910003FD,  # mov x29, sp
    0xF9000BE0,  # str x0, [sp, #16]
    0xB94013E1,  # ldr w1, [sp, #16]
    0xF9400002,  # ldr x2, [x0]
    0x8B020020,  # add x0, x1, x2
    0xA8C27BFD,  # ldp x29, x30, [sp], #32
    0xD65F03C0,  # ret
)
"""Spills its argument, loads half of it back, loads what it points to, and returns the sum."""
