"""One instruction of the code: what it does, and what that reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from fuzzvm.compiled.isa.effects import Branch, Effect, Request
from fuzzvm.compiled.isa.expressions import Expression, Reads, reads
from fuzzvm.compiled.isa.slots import MASK64


class UnsupportedInstructionError(Exception):
    """An instruction whose effect is not known.

    `text` is its assembly text, or the word in hexadecimal if it is none. `function` is where it stands, if that is
    known.
    """

    def __init__(self, address: int, text: str, function: str | None = None) -> None:
        place = f"{address:#x}" if function is None else f"{address:#x} in {function}"
        super().__init__(f"unsupported instruction {text!r} at {place}")
        self.address = address
        self.text = text
        self.function = function


@dataclass(frozen=True, slots=True)
class Dependency:
    """What one slot depends on after an instruction has written it."""

    target: int
    reads: Reads


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of the code, and what it does; `size` bytes after it the next one begins.

    An instruction that accesses memory twice is two, of which the second begins at the second byte of the first. Sets
    hold slots of the register file (see `registers`). `reads` and `writes` are all that it reads or writes, the
    program counter left out. `address_reads`, `value_reads` (for each element) and `expected_reads` are what the
    address, the stored values and the compared values of its access depend on, `control_reads` what decides where the
    code goes on, `dependencies` what each written slot depends on. Instructions are equal where address, word
    and size are.
    """

    address: int
    word: int
    size: int
    text: str = field(compare=False)
    effect: Effect = field(compare=False)
    reads: frozenset[int] = field(compare=False)
    writes: frozenset[int] = field(compare=False)
    address_reads: frozenset[int] = field(compare=False)
    value_reads: tuple[frozenset[int], ...] = field(compare=False)
    expected_reads: tuple[frozenset[int], ...] = field(compare=False)
    control_reads: frozenset[int] = field(compare=False)
    dependencies: tuple[Dependency, ...] = field(compare=False)

    @property
    def following(self) -> int:
        """The address of the next instruction in memory."""
        return self.address + self.size & MASK64

    @property
    def branch(self) -> Branch | None:
        """The branch that this instruction is, or None."""
        return self.effect.branch

    @property
    def request(self) -> Request | None:
        """What this instruction asks of the memory system, or None for a local instruction."""
        return self.effect.request

    @property
    def is_branch(self) -> bool:
        """Whether this instruction may continue elsewhere than behind itself."""
        return self.effect.branch is not None

    @property
    def data_reads(self) -> frozenset[int]:
        """What the stored and compared values of its access depend on."""
        return frozenset().union(*self.value_reads, *self.expected_reads)

    def __str__(self) -> str:
        return f"{self.address:#x}: {self.text}"


def instruction(address: int, word: int, size: int, text: str, effect: Effect) -> Instruction:
    """Return the instruction that an effect makes."""
    request, branch = effect.request, effect.branch
    dependencies = tuple(Dependency(each.target, reads(each.value)) for each in effect.assignments)
    address_reads = _reads(request.address) if request else _NOTHING
    value_reads = tuple(map(_reads, request.values)) if request else ()
    expected_reads = tuple(map(_reads, request.expected)) if request else ()
    control_reads = _reads(branch.target) | _reads(branch.condition) if branch else _NOTHING
    return Instruction(
        address,
        word,
        size,
        text,
        effect,
        address_reads.union(control_reads, *value_reads, *expected_reads, *(each.reads.picks for each in dependencies)),
        frozenset([each.target for each in dependencies]),
        address_reads,
        value_reads,
        expected_reads,
        control_reads,
        dependencies,
    )


def _reads(expression: Expression | None) -> frozenset[int]:
    return _NOTHING if expression is None else reads(expression).picks


_NOTHING: frozenset[int] = frozenset()
