"""Exact keys of values: two values have the same key only if no program could tell them apart.

Python's own equality is too coarse (1 == True == Level(1), a NamedTuple equals a plain tuple), so a key carries types.
Values of which that cannot be said, everything mutable above all, have no key.
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
"""Values, though their classes are not frozen."""


class _Same:
    """Stands for an object by identity, and keeps it alive so that its place is not given to another."""

    __slots__ = ("_object",)

    def __init__(self, value: object) -> None:
        self._object = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._object is other._object

    def __hash__(self) -> int:
        return id(self._object)


class Keys:
    """Makes keys of values, and numbers the parts of local states; see `fuzzvm.machine.program.Keys`.

    Remembers the keys of frozen objects, which are many and long-lived, by identity. With `without_text`, `Printed`
    values are no part of any key.
    """

    def __init__(self, *, live_only: bool = True, without_text: bool = False) -> None:
        self.live_only = live_only
        self._without_text = without_text
        self._parts: dict[Hashable, int] = {}
        self._locations: list[Hashable] = []
        self._known: dict[int, tuple[object, Hashable]] = {}
        self._fields: dict[type, tuple[str, ...]] = {}

    def of(self, value: Any) -> Hashable:
        """Return the key of a value. Raises UnkeyableValueError."""
        kind = type(value)
        if kind is int or kind is str or value is None:
            return value  # type: ignore[no-any-return]
        if kind is tuple:
            return (tuple, *[v if type(v) is int else self.of(v) for v in value])
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if issubclass(kind, Printed):
            # many are made, and few of them live long
            return _Same(kind) if self._without_text else self._make(value, kind)
        key = self._make(value, kind)
        self._known[id(value)] = (value, key)
        return key

    def part(self, location: Hashable, key: Hashable) -> int:
        """Return a number for a part of a local state: equal numbers, equal keys. Equal keys have one location."""
        number = self._parts.setdefault(key, len(self._parts))
        if number == len(self._locations):
            self._locations.append(location)
        return number

    def location(self, part: int) -> Hashable:
        """Return the location of the part that has this number."""
        return self._locations[part]

    def of_temporary(self, value: Any) -> Hashable:
        """Return the key of a value that will not be asked for again, and is not kept alive. Raises as `of` does."""
        return self._make(value, type(value))

    def _make(self, value: Any, kind: type) -> Hashable:
        if kind in (bool, bytes):
            return (kind, value)
        if isinstance(value, enum.Enum):
            return _Same(value)
        if isinstance(value, tuple) and (hasattr(kind, "_fields") or issubclass(kind, Printed)):
            return (kind, *[v if type(v) is int else self.of(v) for v in value])
        if kind is frozenset:
            return (kind, frozenset(map(self.of, value)))
        if isinstance(value, Constant):
            return _Same(value)
        if is_dataclass(value) and not isinstance(value, type):
            return self._of_dataclass(value, kind)
        if isinstance(value, FunctionType) and value.__closure__ is None:
            return _Same(value)
        if isinstance(value, type | ModuleType | BuiltinFunctionType):
            return _Same(value)
        raise UnkeyableValueError(
            f"a {kind.__name__} may change during a run; use numbers, strings, tuples, frozen dataclasses"
        )

    def _of_dataclass(self, value: Any, kind: type) -> Hashable:
        if kind not in _OPERATIONS and not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise UnkeyableValueError(f"a {kind.__name__} is a dataclass that is not frozen, so it may change")
        names = self._fields.get(kind)
        if names is None:
            # the point of an operation changes nothing that it does
            operation = kind in _OPERATIONS
            names = self._fields[kind] = tuple(f.name for f in fields(value) if f.compare or not operation)
        if len(getattr(value, "__dict__", ())) > len(names):
            raise UnkeyableValueError(f"a {kind.__name__} has attributes besides its fields")
        values = [getattr(value, name) for name in names]
        return (kind, *[v if type(v) is int else self.of(v) for v in values])


class Values:
    """Numbers the values that memory and responses hold, exactly: equal numbers, equal keys. 0 is the integer 0."""

    def __init__(self, *, live_only: bool = True, without_text: bool = False) -> None:
        self.keys = Keys(live_only=live_only, without_text=without_text)
        self._numbers: dict[Hashable, int] = {0: 0}
        self._values: list[Any] = [0]

    def number(self, value: Any) -> int:
        """Return the number of a value. Raises UnkeyableValueError."""
        key = value if type(value) is int else self.keys.of(value)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._values)
            self._values.append(value)
        return number

    def __getitem__(self, number: int) -> Any:
        return self._values[number]

    @property
    def all(self) -> list[Any]:
        """All values, by number."""
        return self._values
