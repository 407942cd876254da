"""What is searched: programs, one for each CPU, a memory, and a property. Searches are given a Task and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self, TypeVar

from fuzzvm.machine.errors import OutdatedProgramError
from fuzzvm.machine.machine import Machine
from fuzzvm.machine.program import Program
from fuzzvm.machine.property import Property
from fuzzvm.machine.renaming import Renaming


class Task:
    """Programs, memory and property; hands out machines that stand at the first step of a run.

    `boot` is a machine that has booted and runs nothing: each run begins with a copy of it. `alike` are groups of CPUs
    whose programs differ in the CPU's number alone: CPUs of a group may swap their names.
    """

    def __init__(
        self,
        boot: Machine,
        programs: Sequence[Program],
        prop: Property | None = None,
        alike: Sequence[Sequence[int]] = (),
    ) -> None:
        self._boot = boot
        self._programs = tuple(programs)
        self.property = prop or Property()
        self.alike = tuple(map(tuple, alike))

    @property
    def memory(self) -> str:
        """The name of the memory model."""
        return self._boot.memory.name

    @property
    def cpus(self) -> int:
        """The number of CPUs."""
        return self._boot.memory.cpus

    def programs(self) -> list[Program]:
        """Return the program of each CPU, at its beginning."""
        return [program.fresh() for program in self._programs]

    def booted(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted and runs nothing yet, watched by an observer of the property."""
        machine = self._boot.copy(tracing=tracing)
        observer = self.property.observer(machine)
        observer.remembered = self.property.initial
        machine.observer = observer
        return machine

    def machine(self, *, tracing: bool = False) -> Machine:
        """Return a machine that has booted, with every CPU at its first operation."""
        machine = self.booted(tracing=tracing)
        machine.start(self.programs())
        return machine

    def renaming(self, names: Sequence[int]) -> Renaming:
        """Return what it is for CPU `i` to become CPU `names[i]`."""
        return Renaming(names)

    def again(self) -> Self:
        """Return the task to begin again with where one of its programs was outdated (`OutdatedProgramError`)."""
        return self

    def unchanged(self) -> AbstractContextManager[None]:
        """Return a context that raises UnkeyableError at its end if what all runs share has changed in it."""
        return nullcontext()


T = TypeVar("T", bound=Task)
R = TypeVar("R")


def settled(task: T, work: Callable[[T], R], again: Callable[[T], T] = lambda task: task.again()) -> tuple[T, R]:
    """Return what comes of some work with a task, and the task that it was done with.

    The work is done again from its beginning as often as one of the task's programs turns out to be outdated; `again`
    makes the task for that.
    """
    while True:
        try:
            return task, work(task)
        except OutdatedProgramError:
            task = again(task)
