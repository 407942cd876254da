"""What an instruction does, as data: assignments to slots, a branch, or a request to the memory system."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fuzzvm.compiled.isa.expressions import Expression
from fuzzvm.machine.ops import Order


class Kind(enum.Enum):
    """What an instruction asks of the memory system or of the system around the CPU."""

    __hash__ = object.__hash__

    LOAD = "load"
    STORE = "store"
    EXCLUSIVE_LOAD = "exclusive load"
    EXCLUSIVE_STORE = "exclusive store"
    CLEAR_EXCLUSIVE = "clrex"
    ATOMIC = "atomic"
    COMPARE_AND_SWAP = "compare and swap"
    BARRIER = "barrier"
    TLB_INVALIDATE = "tlbi"
    DATA_CACHE = "dc"
    INSTRUCTION_CACHE = "ic"
    ADDRESS_TRANSLATE = "at"
    SYSTEM_READ = "mrs"
    SYSTEM_WRITE = "msr"
    BREAK = "brk"


_READS = frozenset({Kind.LOAD, Kind.EXCLUSIVE_LOAD, Kind.ATOMIC, Kind.COMPARE_AND_SWAP})


class Flow(enum.Enum):
    """What a branch is to the call stack."""

    JUMP = "jump"
    CALL = "call"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Slot `target` gets `value`. All assignments of an instruction read the register file as it was before."""

    target: int
    value: Expression


@dataclass(frozen=True, slots=True)
class Branch:
    """The next instruction is at `target` if `condition` is not 0 (None: always)."""

    target: Expression
    condition: Expression | None = None
    flow: Flow = Flow.JUMP


@dataclass(frozen=True, slots=True)
class Request:
    """What an instruction asks of the memory system; `access.Access` is one request with its values.

    `size` is the size of one element in bytes, and `count` the number of elements, which lie side by side; the first
    is at `address`. `values` are what is stored, or the operands of an atomic or of `msr`; `expected` are what a
    compare and swap compares with. `operation` names the update of an atomic ("add", "swp"), the barrier
    ("dsb ishst"), what is invalidated ("vaae1is"), the system register, or is empty. `no_return` says that nothing of
    the old value is kept, so that the read is not one that DMB LD or an acquire orders (Arm ARM B2.3.7 and C6.2).
    `full_barrier` says that it orders all before it with all after it, whatever memory it accesses (Intel SDM vol. 3A
    8.2.2: locked instructions).
    """

    kind: Kind
    address: Expression | None = None
    size: int = 0
    count: int = 1
    values: tuple[Expression, ...] = ()
    expected: tuple[Expression, ...] = ()
    order: Order = Order.PLAIN
    operation: str = ""
    no_return: bool = False
    full_barrier: bool = False

    @property
    def answers(self) -> int:
        """How many elements the response has; 0 for a response of None."""
        if self.kind in (Kind.EXCLUSIVE_STORE, Kind.SYSTEM_READ):
            return 1
        return self.count if self.kind in _READS else 0

    @property
    def may_be_private(self) -> bool:
        """Whether this is a load or store that a CPU may do on its own memory without the memory system."""
        return self.kind in (Kind.LOAD, Kind.STORE) and self.order is Order.PLAIN


@dataclass(frozen=True, slots=True)
class Effect:
    """All that an instruction does.

    With a request, the assignments and the branch are done when it has been answered.
    """

    assignments: tuple[Assignment, ...] = ()
    branch: Branch | None = None
    request: Request | None = None


NOTHING = Effect()
