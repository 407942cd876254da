"""One access of a run: what an instruction asks of the memory system, with its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fuzzvm.compiled.isa.effects import Kind, Request
from fuzzvm.compiled.isa.helpers import signed
from fuzzvm.compiled.isa.instruction import Instruction

Answer: TypeAlias = int | tuple[int, ...] | None
"""What completes an access: the value that was read, a pair of them, a status, or None; see `Access`."""

UPDATES: Mapping[str, Callable[[int, int, int], int]] = {
    "add": lambda old, operand, bits: old + operand & (1 << bits) - 1,
    "and": lambda old, operand, bits: old & operand,
    "clr": lambda old, operand, bits: old & ~operand,
    "eor": lambda old, operand, bits: old ^ operand,
    "set": lambda old, operand, bits: old | operand,
    "smax": lambda old, operand, bits: max(old, operand, key=lambda value: signed(value, bits)),
    "smin": lambda old, operand, bits: min(old, operand, key=lambda value: signed(value, bits)),
    "umax": lambda old, operand, bits: max(old, operand),
    "umin": lambda old, operand, bits: min(old, operand),
    "swp": lambda old, operand, bits: operand,
}
"""What atomic instructions make of the old value, given their operand and the size in bits."""


@dataclass(frozen=True, slots=True)
class Access:
    """An instruction's request, evaluated.

    `address` is that of the first element, or what a maintenance operation names, or None. What is not fixed by the
    instruction's `request` is here; size, count, order and operation are there. The response that `engine.Code`
    completes an access with is, by kind:

    - LOAD, EXCLUSIVE_LOAD, ATOMIC, COMPARE_AND_SWAP: the value that was read; a tuple of two where `count` is 2
    - EXCLUSIVE_STORE: 0 if the store was done, else 1
    - SYSTEM_READ: the register's value
    - all others: None
    """

    instruction: Instruction
    address: int | None
    values: tuple[int, ...] = ()
    expected: tuple[int, ...] = ()

    @property
    def request(self) -> Request:
        """What the instruction asks for."""
        request = self.instruction.effect.request
        assert request is not None
        return request

    @property
    def is_aligned(self) -> bool:
        """Whether each element is aligned to its size; exclusives and atomics of a pair to both together."""
        request = self.request
        if self.address is None or not request.size:
            return True
        whole = request.kind not in (Kind.LOAD, Kind.STORE)
        return self.address % (request.size * (request.count if whole else 1)) == 0

    def element(self, index: int) -> int:
        """Return the address of an element."""
        assert self.address is not None
        return self.address + index * self.request.size & (1 << 64) - 1

    def updated(self, old: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what an ATOMIC or COMPARE_AND_SWAP writes, given the old values, or None if it writes nothing."""
        request = self.request
        if request.kind is Kind.COMPARE_AND_SWAP:
            return self.values if old == self.expected else None
        update = UPDATES[request.operation]
        return tuple(update(value, operand, 8 * request.size) for value, operand in zip(old, self.values, strict=True))
