"""What a machine may put in the place of what its programs yield: for experiments with code that lacks an ordering.

The programs stay as they are. A rewrite sees each thing that a program yields, before the machine does, and answers
what the machine is to see; it depends on nothing but that and where the program stands, so that searches which keep
programs and memory apart may apply it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from fuzzvm.machine.ops import Annotation, Operation, Steps, Value


@dataclass(slots=True)
class Skipped:
    """In the place of an operation or annotation: it does not happen, and the program goes on with this response."""

    response: Value = None


class Rewrite(Protocol):
    """A pure function of what a program has yielded and where it stands."""

    def __call__(self, op: Yielded, program: Steps[Any], /) -> Yielded | Skipped:
        """Return what is to happen instead, or `op` itself."""


Yielded: TypeAlias = Operation | Annotation


def innermost(program: Steps[Any]) -> Any:
    """Return the generator that a suspended program stands in."""
    frame: Any = program
    while hasattr(inner := frame.gi_yieldfrom, "gi_code"):
        frame = inner
    return frame


def functions(program: Steps[Any]) -> tuple[str, ...]:
    """Return the names of the functions that a suspended program is in, innermost first."""
    names = []
    frame: Any = program
    # a hook may `yield from` a plain iterator, which is no frame
    while hasattr(frame, "gi_code"):
        names.append(frame.gi_code.co_name)
        frame = frame.gi_yieldfrom
    return tuple(reversed(names))
