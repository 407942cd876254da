"""One CPU's code, as the machine and the searches see it: what it does next, and what its future depends on.

The generators of the kernel model are one kind of program (`fuzzvm.machine.generators`). Another kind needs nothing
but the methods of `Program`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

from fuzzvm.machine.errors import ProgramError
from fuzzvm.machine.ops import Annotation, Operation, Value

MAX_ANNOTATIONS = 10_000
"""That a program may yield without an operation between them."""
NO_OPERATION = f"{MAX_ANNOTATIONS} annotations, or operations that are left out, and none that is executed"


class Constant:
    """Base class of objects that do not change during a run. In a local state each of them is its own key."""

    __slots__ = ()


class Printed:
    """Base class of values that programs gather for the text they return, and for nothing else.

    No step, response or error of a program depends on such a value, so a search may leave it out of every key.
    """

    __slots__ = ()


class Place(NamedTuple):
    """Where in its source a program stands: the innermost function, its file, and the line."""

    function: str
    filename: str
    line: int


class Hook(NamedTuple):
    """Code of the user's that a program is in: what stands for its outermost call, the name of that, and the innermost
    place.
    """

    code: object
    name: str
    place: Place


class LocalState(NamedTuple):
    """What the future of a program depends on: programs with equal `key` have equal futures.

    `location` is the part of it that says where in its code the program stands; it is equal where `key` is.
    """

    location: Hashable
    key: Hashable


class Keys(Protocol):
    """Makes keys of the values that programs keep. Of one search: keys of two searches are not compared."""

    live_only: bool
    """Whether variables that are dead, as nothing reads them any more, are left out of a local state."""

    def of(self, value: Any) -> Hashable:
        """Return the key of a value. Raises UnkeyableValueError where it has none."""

    def part(self, location: Hashable, key: Hashable) -> int:
        """Return a number for a part of a local state: equal numbers, equal keys. Equal keys have one location."""

    def location(self, part: int) -> Hashable:
        """Return the location of the part that has this number."""


class Program(ABC):
    """One CPU's code at one point of a run: at its beginning, at an operation, or at its end.

    Errors that `send` raises: StopIteration at the end, ModelError where the code fails (a kernel's BUG), and whatever
    broken code raises.
    """

    __slots__ = ()

    @abstractmethod
    def fresh(self) -> Program:
        """Return the same program at its beginning."""

    @abstractmethod
    def send(self, response: Value, /) -> Operation | Annotation:
        """Take the response to the operation at which the program stands, None at the beginning; return the next one.

        After an annotation the response is None.
        """

    def copy(self) -> Program | None:
        """Return a program that stands at the same point and goes its own way; None where that cannot be."""
        return None

    @abstractmethod
    def stack(self) -> tuple[str, ...]:
        """Return the names of the functions that the program is in, innermost first."""

    def stack_of(self, error: Exception) -> tuple[str, ...]:
        """Return the names of the functions that it was in when `send` raised an error, innermost first."""
        return self.stack()

    @abstractmethod
    def site(self) -> tuple[Hashable, int]:
        """Return where the program stands: what stands for its innermost function, and the instruction in that."""

    @abstractmethod
    def place(self) -> Place:
        """Return where in its source the program stands, for messages."""

    def hook(self) -> Hook | None:
        """Return the code of the user's that the program is in, None where it is in none."""
        return None

    def variables(self) -> object:
        """Return what has to be the same twice where the program goes on for ever; None where that is not known."""
        return None

    @abstractmethod
    def local_state(self, keys: Keys) -> LocalState:
        """Return what the future depends on. Raises UnkeyableError where that cannot be said."""


def endless(program: Program, what: str) -> ProgramError:
    """Return what to raise where a program yields without end; it names the line that the user's code stands in."""
    hook = program.hook()
    place = program.place() if hook is None else hook.place
    name = place.function if hook is None else hook.name
    return ProgramError(f"{name} yields without end, or for too long: {what}", place.filename, place.line)
