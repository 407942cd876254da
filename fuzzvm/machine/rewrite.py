"""Operations and annotations in the place of those that a generator yields: for experiments with missing orderings.

The kernel's functions stay as they are. A rewrite sees each operation and annotation before anybody else does, and
returns what happens instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fuzzvm.machine.ops import Annotation, Operation, Value


@dataclass(slots=True)
class Skipped:
    """In the place of an operation or annotation: it does not happen, and the generator goes on with this response."""

    response: Value = None


class Rewrite(Protocol):
    """A pure function of an operation or annotation, most often of its `point`."""

    def __call__(self, op: Yielded, /) -> Yielded | Skipped:
        """Return what is to happen instead, or `op` itself."""


Yielded: TypeAlias = Operation | Annotation
