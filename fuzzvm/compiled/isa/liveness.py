"""Which registers a function may still read, by its code (live-variable analysis, Aho et al., "Compilers", 9.2.5).

A call reads the arguments that its callee has, all registers for arguments where that is not known, and keeps all
others: compilers may know which registers a callee leaves alone. A return reads the result and what a function must
restore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fuzzvm.compiled.isa.effects import Flow, Kind
from fuzzvm.compiled.isa.expressions import Constant
from fuzzvm.compiled.isa.instruction import Instruction
from fuzzvm.compiled.isa.slots import PC


@dataclass(frozen=True)
class Abi:
    """What functions do with the slots of the register file.

    `count` is the number of slots. `arguments` are passed in, the first in the first, and `variadic` are passed beside
    them to a function of any number of arguments; `results` are handed back. `callee_saved` are restored, and `link` is
    where a function returns to (none: the stack has it). `system` are slots that no function saves and restores.
    """

    count: int
    arguments: tuple[int, ...]
    results: frozenset[int]
    callee_saved: frozenset[int]
    system: frozenset[int]
    link: frozenset[int] = frozenset()
    variadic: frozenset[int] = frozenset()

    @property
    def everything(self) -> frozenset[int]:
        """Return all slots but the program counter."""
        return frozenset(range(self.count)) - {PC}

    def entry_reads(self, arguments: int | None = None) -> frozenset[int]:
        """Return what a function reads that has so many arguments; None where that is not known."""
        passed = self.arguments if arguments is None else self.arguments[:arguments]
        more = self.variadic if arguments is None else frozenset()
        return more.union(passed, self.callee_saved, self.link, self.system)


Reads = Callable[[int], frozenset[int]]
"""Returns the slots that code at an address outside of a function may read."""


def live_registers(
    abi: Abi, instructions: Mapping[int, Instruction], reads: Reads, jumps: Mapping[int, int]
) -> dict[int, tuple[int, ...]]:
    """Return the slots that are live before each instruction of one function, ascending.

    `jumps` are the sites of static keys, with where each leads to if it is a branch; otherwise it is a NOP.
    """
    before: dict[int, frozenset[int]] = dict.fromkeys(instructions, frozenset())
    predecessors: dict[int, list[int]] = {address: [] for address in instructions}
    for address, instruction in instructions.items():
        nexts = (instruction.following, jumps[address]) if address in jumps else _successors(instruction)
        for following in nexts:
            if following in predecessors:
                predecessors[following].append(address)
    todo = set(instructions)
    while todo:
        address = todo.pop()
        if address in jumps:
            both = instructions[address].following, jumps[address]
            live = frozenset().union(*(before.get(each, abi.everything) for each in both))
        else:
            live = _before(abi, instructions[address], before, reads)
        if live != before[address]:
            before[address] = live
            todo.update(predecessors[address])
    return {address: tuple(sorted(live | abi.system)) for address, live in before.items()}


def _successors(instruction: Instruction) -> list[int]:
    following = instruction.following
    branch = instruction.branch
    if branch is None or branch.flow is Flow.CALL:
        return [following]
    found = [branch.target.value] if isinstance(branch.target, Constant) else []
    return [*found, following] if branch.condition is not None else found


def _before(abi: Abi, instruction: Instruction, before: Mapping[int, frozenset[int]], reads: Reads) -> frozenset[int]:
    request, branch = instruction.request, instruction.branch
    if request is not None and request.kind is Kind.BREAK:
        return abi.everything
    after: frozenset[int] = frozenset()
    if branch is None or branch.flow is Flow.CALL or branch.condition is not None:
        # where the code goes on behind the function, nothing is known
        after |= before.get(instruction.following, abi.everything)
    if branch is not None:
        target = branch.target.value if isinstance(branch.target, Constant) else None
        if branch.flow is Flow.RETURN:
            after |= abi.results | abi.callee_saved
        elif branch.flow is Flow.CALL:
            # what is saved and restored is live only if it is so behind the call
            passed = abi.entry_reads() if target is None else reads(target)
            after |= passed - abi.callee_saved - abi.link
        elif target is None:
            # a jump through a register: to another function, or by a table
            after |= abi.everything
        else:
            after |= before[target] if target in before else reads(target)
    return frozenset((after - instruction.writes) | instruction.reads)
