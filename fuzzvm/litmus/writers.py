"""Which values the code of a test may yet store where: what a load that waits for a later message can hope for.

Found by following the constants through the code once, from its beginning to its end: so it is only for threads whose
code goes forward, where an instruction is executed at most once and puts at most one message. What is not known to be
a constant may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from fuzzvm.litmus.encoding import MASK32, MASK64, Encoding
from fuzzvm.litmus.program import Immediate, Instruction, Memory, Name, Operand, Relative, Test
from fuzzvm.litmus.state import Position
from fuzzvm.machine.memory.arm64.timeline import STORE, Timeline

Written = Callable[[Instruction], set[int]]
"""The registers that an instruction may write, or more."""


_PLAIN_LOADS = frozenset({"LDR", "LDAR", "LDAPR", "LDXR", "LDAXR"})
_ATOMICS = frozenset({"SWP", "SWPA", "SWPL", "SWPAL", "CAS", "CASA", "CASL", "CASAL"})


@dataclass(slots=True)
class Writers:
    """The stores of a test, by thread: each with the location and the value, None where anything is possible.

    `loads` are (thread, location) of loads, as far as their locations are known.
    """

    by_thread: dict[int, list[tuple[int | None, int | None]]] = field(default_factory=dict)
    loads: set[tuple[int, int]] = field(default_factory=set)

    def may_come(self, cpu: int, where: int, asked: Callable[[int], bool], timeline: Timeline) -> bool:
        """Return whether another thread may still put a store that a load of `cpu` at `where` asks for."""
        hoped = sum(
            location in (None, where) and (value is None or asked(value))
            for thread, stores in self.by_thread.items()
            if thread != cpu
            for location, value in stores
        )
        for message in timeline.messages:
            if message.kind == STORE and message.cpu != cpu and message.address == where:
                assert isinstance(message.value, int)
                hoped -= asked(message.value)
        return hoped > 0


def writers_of(
    test: Test, values: Encoding, written: Written, patched: set[Position], succeeds: Callable[[Position, int], bool]
) -> Writers:
    """Return the stores of a test whose threads all go forward.

    `patched` are positions that may be a branch over the next instruction; `succeeds` says of a compare-and-swap that
    compares with a constant whether no execution of interest has it fail, in which case it would store what it found.
    """
    found = Writers()
    for cpu, thread in enumerate(test.threads):
        registers: dict[int, int | None] = {}
        for given in test.declarations:
            if given.place.thread == cpu and given.value is not None:
                registers[int(given.place.name[1:])] = values.constant(given.value, given.line)
        stores = found.by_thread[cpu] = []
        sure_from = 0
        for index, instruction in enumerate(thread.code):
            stored = _store(instruction, registers, partial(succeeds, (cpu, index)))
            if stored is not None:
                stores.append(stored)
            if (
                instruction.mnemonic in _PLAIN_LOADS | _ATOMICS
                and (where := _where(instruction.operands[-1], registers)) is not None
            ):
                found.loads.add((cpu, where))
            result = _result(instruction, registers) if index >= sure_from else None
            for register in written(instruction):
                registers[register] = result
            sure_from = max(sure_from, _lands(instruction, index, thread.labels), index + 2 * ((cpu, index) in patched))
    return found


def _lands(instruction: Instruction, index: int, labels: dict[str, int]) -> int:
    """Return the index behind what a branch may skip, 0 for what is no branch."""
    if instruction.mnemonic.partition(".")[0] not in ("B", "CBZ", "CBNZ"):
        return 0
    target = instruction.operands[-1]
    if isinstance(target, Relative):
        return index + target.offset // 4
    return labels.get(target.text, 0) if isinstance(target, Name) else 0


def _value(operand: Operand, registers: dict[int, int | None]) -> int | None:
    """Return what an operand stands for, None if that is not known. Registers that nobody set are 0."""
    if isinstance(operand, Immediate):
        return operand.value & MASK64
    if not isinstance(operand, Name):
        return None
    text = operand.text.upper()
    if text in ("WZR", "XZR"):
        return 0
    if text[:1] not in ("W", "X") or not text[1:].isdigit():
        return None
    value = registers.get(int(text[1:]), 0)
    return value if value is None or text[0] == "X" else value & MASK32


def _where(operand: Operand, registers: dict[int, int | None]) -> int | None:
    if not isinstance(operand, Memory) or len(operand.rest) > 1:
        return None
    parts = [_value(Name(operand.base), registers), *(_value(part, registers) for part in operand.rest)]
    return None if None in parts else sum(part for part in parts if part is not None) & MASK64


def _store(
    instruction: Instruction, registers: dict[int, int | None], succeeds: Callable[[int], bool]
) -> tuple[int | None, int | None] | None:
    """Return location and value of an instruction that may store, None for one that does not."""
    name, operands = instruction.mnemonic, instruction.operands
    if name in ("STR", "STLR") and len(operands) == 2:
        return _where(operands[1], registers), _value(operands[0], registers)
    if name in ("SWP", "SWPA", "SWPL", "SWPAL"):
        return _where(operands[2], registers), _value(operands[0], registers)
    if name in ("CAS", "CASA", "CASL", "CASAL"):
        compare = _value(operands[0], registers)
        sure = compare is not None and succeeds(compare)
        return _where(operands[2], registers), _value(operands[1], registers) if sure else None
    if name[:2] in ("ST", "LD") and name not in _PLAIN_LOADS:
        return None, None
    return None


def _result(instruction: Instruction, registers: dict[int, int | None]) -> int | None:
    """Return what an instruction leaves in its register where that is a constant."""
    name, operands = instruction.mnemonic, instruction.operands
    if name == "MOV" and len(operands) == 2:
        return _value(operands[1], registers)
    if name == "EOR" and len(operands) == 3 and operands[1] == operands[2]:
        return 0
    if name == "ADD" and len(operands) == 3:
        one, other = (_value(operand, registers) for operand in operands[1:])
        return None if one is None or other is None else (one + other) & MASK64
    return None
