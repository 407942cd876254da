"""A litmus test as data: initial state, code of each thread, final condition. What `parser` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fuzzvm.machine.memory.arm64.views import CacheType


class LitmusError(Exception):
    """A test that cannot be run: bad syntax, or an instruction or feature that is not modelled.

    `line` is the line of the file, from 1. The text names what is wrong, the instruction if it is one; characters that
    a terminal would obey are escaped in it.
    """

    def __init__(self, message: str, line: int) -> None:
        message = "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Name:
    """An operand or value that is a bare word: a register, a label, a condition, a location."""

    text: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """An operand that is a number, with or without `#`."""

    value: int


@dataclass(frozen=True, slots=True)
class Shift:
    """An extension or shift with its amount: `LSL #2`, `SXTW #0`."""

    kind: str
    amount: int


@dataclass(frozen=True, slots=True)
class Relative:
    """A branch target `.+n`, in bytes from the branch."""

    offset: int


@dataclass(frozen=True, slots=True)
class Memory:
    """An operand in brackets: base register, what follows it, and whether `!` follows the bracket."""

    base: str
    rest: tuple[Operand, ...]
    writeback: bool


Operand = Name | Immediate | Shift | Relative | Memory


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as written, mnemonic in upper case."""

    mnemonic: str
    operands: tuple[Operand, ...]
    line: int

    def __str__(self) -> str:
        return f"{self.mnemonic} {','.join(map(_text, self.operands))}".rstrip()


def _text(operand: Operand) -> str:
    if isinstance(operand, Name):
        return operand.text
    if isinstance(operand, Immediate):
        return f"#{operand.value}"
    if isinstance(operand, Shift):
        return f"{operand.kind} #{operand.amount}"
    if isinstance(operand, Relative):
        return f".{operand.offset:+d}"
    return f"[{','.join([operand.base, *map(_text, operand.rest)])}]{'!' if operand.writeback else ''}"


def show_instruction(instruction: Instruction) -> str:
    """Return an instruction as a value, as herd7 prints it."""
    return f'instr:"{instruction}"' if instruction.operands else instruction.mnemonic


@dataclass(frozen=True, slots=True)
class Label:
    """The address of a label of a thread: `P1:L0`."""

    thread: int
    name: str


@dataclass(frozen=True, slots=True)
class Code:
    """An instruction as a value: `instr:"NOP"`."""

    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Entry:
    """A page-table value: `(oa:PA(x), valid:0)`.

    `page` is the location that the output address is of, '' where none is given; `fields` are those given.
    """

    page: str
    fields: tuple[tuple[str, int], ...]
    line: int = field(compare=False, default=1)

    def __str__(self) -> str:
        fields = "".join(f", {name}:{value}" for name, value in self.fields)
        return f"(oa:PA({self.page}){fields})"


Constant = int | Name | Label | Code | Entry

_ENTRY_OF = "PTE("


def entry_name(name: str) -> str:
    """Return the name of the location that holds the page-table entry of a location."""
    return f"{_ENTRY_OF}{name})"


def page_name(name: str) -> str | None:
    """Return the location whose page-table entry a location holds, None if it holds none."""
    return name[len(_ENTRY_OF) : -1] if name.startswith(_ENTRY_OF) else None


@dataclass(frozen=True, slots=True)
class Place:
    """What a state shows: a register of a thread, or (`thread` None) a location of memory."""

    thread: int | None
    name: str

    def __str__(self) -> str:
        return f"[{self.name}]" if self.thread is None else f"{self.thread}:{self.name}"

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Sorts as herd7 prints: registers by thread and number, then locations by name, page-table entries last."""
        if self.thread is None:
            return (1, int(page_name(self.name) is not None), 0, self.name)
        digits = "".join(filter(str.isdigit, self.name))
        return (0, self.thread, int(digits or 0), self.name)


@dataclass(frozen=True, slots=True)
class FaultPlace:
    """What a state shows of faults: `Fault(P0:L0,x,MMU:Translation)`, 1 where one happened. '' stands for any."""

    thread: int
    label: str
    location: str
    kind: str

    def __str__(self) -> str:
        where = f"P{self.thread}:{self.label}" if self.label else f"P{self.thread}"
        return f"Fault({','.join(part for part in (where, self.location, self.kind) if part)})"

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Sorts behind registers and locations, as herd7 prints them."""
        return (2, self.thread, 0, str(self))


Shown = Place | FaultPlace
Valuation = dict[Shown, int]


@dataclass(frozen=True, slots=True)
class Condition:
    """A proposition over final states: its text as herd7 prints it, and its test, given a way to resolve constants.

    `equalities` are what it asks where it is a conjunction of such and nothing else, and None otherwise.
    """

    text: str
    places: tuple[Shown, ...]
    holds: Callable[[Valuation, Callable[[Place, Constant], int]], bool]
    equalities: tuple[tuple[Place, Constant], ...] | None = None


@dataclass(slots=True)
class Thread:
    """The code of one thread. `labels` maps to indices; a label at the end maps to `len(code)`."""

    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One line of the initial state. `kind` is the C type, '' if none is given."""

    place: Place
    kind: str
    pointer: bool
    value: Constant | None
    line: int


@dataclass(frozen=True, slots=True)
class Translation:
    """How the accesses of a test are translated: whether with FEAT_ETS2 or FEAT_ETS3, and who updates entries.

    `access` and `dirty` are the threads whose CPU sets the access flag, and marks entries dirty.
    """

    ets: int = 0
    access: frozenset[int] = frozenset()
    dirty: frozenset[int] = frozenset()


@dataclass(slots=True)
class Test:
    """A litmus test. `handlers` are the fault handlers (`P1.F`) by thread, `caches` what fetches need to be told.

    `translation` is None where no access of the test is translated by page tables.
    """

    name: str
    caches: CacheType
    declarations: list[Declaration]
    threads: list[Thread]
    handlers: dict[int, Thread]
    quantifier: str
    condition: Condition
    locations: tuple[Shown, ...]
    translation: Translation | None = None
