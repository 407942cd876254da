"""What changes when CPUs that run the same code swap their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from fuzzvm.machine.ops import Address, Operation


class Renaming:
    """Gives CPUs new names: CPU `i` becomes CPU `names[i]`.

    Values that hold names of CPUs have a method `renamed(names)`, and so have the updates and conditions of operations
    that do. All others hold none.
    """

    def __init__(self, names: Sequence[int]) -> None:
        self.names = tuple(names)

    def value(self, address: Address, value: Any) -> Any:
        """Return what a location holds after the renaming."""
        return self._renamed(value)

    def maps(self, old: Operation, new: Operation) -> bool:
        """Return whether one operation is the other after the renaming."""
        return type(old) is type(new) and all(
            self._renamed(getattr(old, field.name)) == getattr(new, field.name) for field in fields(old)
        )

    def _renamed(self, value: Any) -> Any:
        renamed = getattr(value, "renamed", None)
        return value if renamed is None else renamed(self.names)
