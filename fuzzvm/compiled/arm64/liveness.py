"""Which registers a function may still read, by its code (live-variable analysis, Aho et al., "Compilers", 9.2.5).

A call reads the arguments that its callee has, x0 to x7 where that is not known (AAPCS64 6.8.2), and keeps all others:
compilers may know which registers a callee leaves alone. A return reads the result and what a function must restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fuzzvm.compiled.arm64.decode import Instruction
from fuzzvm.compiled.arm64.effects import Flow, Kind
from fuzzvm.compiled.arm64.expressions import Constant
from fuzzvm.compiled.arm64.registers import COUNT, LINK, PC, SP

ARGUMENTS = 8
RESULT = frozenset({0, 1})
CALLEE_SAVED = frozenset({*range(18, 30), SP})
"""x18 is the platform register."""
EVERYTHING = frozenset(range(COUNT)) - {PC}
SYSTEM = frozenset(range(PC + 1, COUNT))
"""Slots that no function saves and restores."""


Reads = Callable[[int], frozenset[int]]
"""Returns the slots that code at an address outside of a function may read."""


def live_registers(
    instructions: Mapping[int, Instruction], reads: Reads, jumps: Mapping[int, int]
) -> dict[int, tuple[int, ...]]:
    """Return the slots that are live before each instruction of one function, ascending.

    `jumps` are the sites of static keys, with where each leads to if it is a branch; otherwise it is a NOP.
    """
    before: dict[int, frozenset[int]] = dict.fromkeys(instructions, frozenset())
    predecessors: dict[int, list[int]] = {address: [] for address in instructions}
    for address, instruction in instructions.items():
        for following in (address + 4, jumps[address]) if address in jumps else _successors(instruction):
            if following in predecessors:
                predecessors[following].append(address)
    todo = set(instructions)
    while todo:
        address = todo.pop()
        if address in jumps:
            live = before.get(address + 4, EVERYTHING) | before.get(jumps[address], EVERYTHING)
        else:
            live = _before(instructions[address], before, reads)
        if live != before[address]:
            before[address] = live
            todo.update(predecessors[address])
    return {address: tuple(sorted(live | SYSTEM)) for address, live in before.items()}


def entry_reads(arguments: int = ARGUMENTS) -> frozenset[int]:
    """Return what a function reads that has so many arguments in registers."""
    return frozenset(range(arguments)) | CALLEE_SAVED | {LINK}


def _successors(instruction: Instruction) -> list[int]:
    following = instruction.address + 4
    branch = instruction.branch
    if branch is None or branch.flow is Flow.CALL:
        return [following]
    found = [branch.target.value] if isinstance(branch.target, Constant) else []
    return [*found, following] if branch.condition is not None else found


def _before(instruction: Instruction, before: Mapping[int, frozenset[int]], reads: Reads) -> frozenset[int]:
    request, branch = instruction.request, instruction.branch
    if request is not None and request.kind is Kind.BREAK:
        return EVERYTHING
    after: frozenset[int] = frozenset()
    if branch is None or branch.flow is Flow.CALL or branch.condition is not None:
        # where the code goes on behind the function, nothing is known
        after |= before.get(instruction.address + 4, EVERYTHING)
    if branch is not None:
        target = branch.target.value if isinstance(branch.target, Constant) else None
        if branch.flow is Flow.RETURN:
            after |= RESULT | CALLEE_SAVED
        elif branch.flow is Flow.CALL:
            # what is saved and restored is live only if it is so behind the call
            after |= frozenset(range(ARGUMENTS)) if target is None else reads(target) - CALLEE_SAVED - {LINK}
        elif target is None:
            # a jump through a register: to another function, or by a table
            after |= EVERYTHING
        else:
            after |= before[target] if target in before else reads(target)
    return frozenset((after - instruction.writes) | instruction.reads)
