"""Keys of what programs keep and memory holds: equal keys, equal futures.

Python's own equality is too coarse: 1, True and an enumeration's 1 are equal, and so are a named tuple and a plain one.
So a key carries types. What may change during a run has no key.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, get_args

from fuzzvm.machine.errors import UnkeyableValueError
from fuzzvm.machine.ops import Operation
from fuzzvm.machine.program import Constant, Printed

_OPERATIONS = frozenset(get_args(Operation))
_MOST_RECENT = 100_000


class Keys:
    """Numbers values and parts of states by their keys; see `fuzzvm.machine.program.Keys`."""

    live_only = True

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._values: dict[Hashable, tuple[str, int]] = {}
        self._recent: dict[int, tuple[object, tuple[str, int]]] = {}
        """Values whose keys were asked for lately, by identity, kept alive so that no other object gets that."""
        self._locations: dict[int, Hashable] = {}
        self._objects: dict[int, object] = {}
        """What is known by its identity, kept alive so that no other object gets it."""

    def number(self, key: Hashable) -> int:
        """Return a number for a key: equal numbers, equal keys."""
        return self._numbers.setdefault(key, len(self._numbers))

    def of_value(self, value: Any) -> Hashable:
        """Return the key of what memory holds, or of what an operation returns. Raises UnkeyableValueError."""
        if type(value) is int:
            return value
        recent = self._recent.get(id(value))
        if recent is None:
            if len(self._recent) > _MOST_RECENT:
                self._recent.clear()
            key = self._values.setdefault(self.of(value), ("value", len(self._values)))
            recent = self._recent[id(value)] = (value, key)
        return recent[1]

    def part(self, location: Hashable, key: Hashable) -> int:
        """Return a number for a part of a local state: equal numbers, equal keys."""
        number = self.number(("part", key))
        self._locations.setdefault(number, location)
        return number

    def location(self, part: int) -> Hashable:
        """Return the location of the part that has this number."""
        return self._locations[part]

    def of(self, value: Any) -> Hashable:
        """Return the key of a value. Raises UnkeyableValueError."""
        kind = type(value)
        if value is None or kind in (int, str):
            return value  # type: ignore[no-any-return]
        if kind in (bool, bytes):
            return kind, value
        if issubclass(kind, Printed):
            # no step, response or error depends on it
            return self._same(kind)
        if isinstance(value, enum.Enum | Constant | type | ModuleType | BuiltinFunctionType):
            return self._same(value)
        if isinstance(value, FunctionType) and value.__closure__ is None:
            return self._same(value)
        if kind is tuple or (isinstance(value, tuple) and hasattr(kind, "_fields")):
            return (kind, *map(self.of, value))
        if kind is frozenset:
            return kind, frozenset(map(self.of, value))
        if is_dataclass(value) and (kind in _OPERATIONS or kind.__dataclass_params__.frozen):
            names = [one.name for one in fields(value) if one.compare or kind not in _OPERATIONS]
            if len(getattr(value, "__dict__", ())) <= len(names):
                return (kind, *[self.of(getattr(value, name)) for name in names])
        raise UnkeyableValueError(f"a {kind.__name__} may change during a run")

    def _same(self, value: object) -> Hashable:
        self._objects[id(value)] = value
        return "same", id(value)
