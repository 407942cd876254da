"""What the CPUs of one task share, and what each begins with.

Boundary functions, which the model or the user states, are given a `Caller`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fuzzvm.compiled.run.executable import Executable
from fuzzvm.compiled.run.knowledge import Knowledge
from fuzzvm.compiled.run.memory_map import MemoryMap
from fuzzvm.compiled.run.own_memory import OwnMemory
from fuzzvm.compiled.run.tlb import Followed
from fuzzvm.compiled.run.translate import part
from fuzzvm.compiled.run.units import Unit
from fuzzvm.machine.ops import Annotation, Steps
from fuzzvm.machine.program import Constant


@dataclass(frozen=True, slots=True)
class Caller:
    """What a boundary function knows of its caller: the CPU, its arguments in registers, and its environment."""

    cpu: int
    arguments: tuple[int, ...]
    environment: Environment
    return_address: int

    def __getitem__(self, number: int) -> int:
        return self.arguments[number]


@dataclass(frozen=True, slots=True)
class OwnLoad(Annotation):
    """A boundary function reads memory that its CPU alone uses: no step, and no observer hears of it."""

    va: int
    size: int


@dataclass(frozen=True, slots=True)
class OwnStore(Annotation):
    """A boundary function writes memory that its CPU alone uses, as `OwnLoad`."""

    va: int
    size: int
    value: int


Boundary = Callable[[Caller], Steps[int | None]]
"""Does what a function of the kernel does, and returns its result, None where it has none."""
Probe = Callable[[Caller], Annotation | None]
"""Returns what observers are to hear when a function is about to be run."""


@dataclass(frozen=True, eq=False)
class Environment(Constant):
    """What all CPUs of a task share that does not change during a run; `memory` maps the image's addresses."""

    executable: Executable
    memory: MemoryMap
    knowledge: Knowledge | None
    boundary: dict[int, Boundary]
    own_memory: dict[int, OwnMemory]
    ignored: frozenset[int]
    """Functions that do nothing and return 0."""
    thunks: frozenset[int] = frozenset()
    """Functions that do nothing and change no register."""
    probes: dict[int, Probe] = field(default_factory=dict)
    constants: dict[tuple[int, int], int | None] = field(default_factory=dict)
    """What `constant` has found."""
    followed: Followed | None = None
    """The entries that hardware is followed at; None where what TLBs may hold is not."""

    def constant(self, va: int, size: int) -> int | None:
        """Return so many bytes at an address that nobody writes or frees, None where somebody does.

        Raises as `MemoryMap.location` does.
        """
        key = (va, size)
        try:
            return self.constants[key]
        except KeyError:
            pass
        unit = self.memory.location(va, size)
        found: int | None = None
        if unit is None:
            found = self.memory.constant(va, size)
        elif self.knowledge is not None and self.knowledge.is_constant(unit.address):
            found = self.content(va, unit, size)
        self.constants[key] = found
        return found

    def content(self, va: int, unit: Unit, size: int) -> int:
        """Return what stands in a location that nobody writes."""
        assert self.knowledge is not None
        return part(self.memory.initial(unit) ^ self.knowledge.content(unit.address), unit, va, size)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function of the image: its address, and its arguments, all of which are in registers."""

    function: int
    arguments: tuple[int, ...] = ()


class Setup(NamedTuple):
    """What a CPU begins with: its calls, the words of its own memory, (size, value) by address, and its slots."""

    cpu: int
    calls: tuple[Call, ...]
    cells: dict[int, tuple[int, int]]
    registers: dict[int, int]
