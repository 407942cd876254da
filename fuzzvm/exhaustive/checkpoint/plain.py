"""Python values as JSON and back: what memory holds, what objects are called, what properties remember.

A file may come from anywhere, so nothing in it is executed, and it names no module that is imported: a class is one
that is loaded already and is plain data, an enum, a named tuple or a frozen dataclass, of fuzzvm or of the scheme that
is verified. That is also all that a search can tell apart (`automaton.keys`).
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any

from fuzzvm.exhaustive.checkpoint.errors import CheckpointError, DamagedError
from fuzzvm.machine.program import Printed

_OWN = "fuzzvm."


class Plain:
    """Writes and reads values. `modules` are those of the user's scheme, whose classes are taken as well."""

    def __init__(self, modules: Collection[str] = ()) -> None:
        self._modules = frozenset(modules)
        self._classes: dict[str, type] = {}
        """Classes by the names that a file has for them."""

    def data(self, value: Any) -> Any:
        """Return a value as JSON data. Raises CheckpointError for one that is not plain."""
        kind = type(value)
        if value is None or kind in (int, str, bool):
            return value
        if kind is tuple:
            return ["t", *map(self.data, value)]
        if kind is frozenset:
            return ["f", *map(self.data, value)]
        if kind is bytes:
            return ["b", value.hex()]
        if self._class(self._name(kind)) is not kind:
            raise CheckpointError(f"a checkpoint cannot hold a {kind.__qualname__} of {kind.__module__}")
        if isinstance(value, enum.Enum):
            return ["e", self._name(kind), value.name]
        if isinstance(value, tuple):
            return ["n", self._name(kind), *map(self.data, value)]
        names = [field.name for field in fields(value)]
        if not all(field.init for field in fields(value)) or len(getattr(value, "__dict__", names)) != len(names):
            raise CheckpointError(f"a checkpoint cannot hold a {kind.__qualname__} of {kind.__module__}")
        return ["d", self._name(kind), *[self.data(getattr(value, name)) for name in names]]

    def value(self, data: Any) -> Any:
        """Return what `data` was made of. Raises DamagedError."""
        if data is None or type(data) in (int, str, bool):
            return data
        if type(data) is not list or not data:
            raise DamagedError("a value is none")
        try:
            match data[0]:
                case "t":
                    return tuple(map(self.value, data[1:]))
                case "f":
                    return frozenset(map(self.value, data[1:]))
                case "b":
                    return bytes.fromhex(data[1])
                case "e":
                    return self._known(data[1], enum.Enum)[data[2]]  # type: ignore[index]
                case "n":
                    # what NamedTuple's own _make does, for subclasses of tuple that have none
                    made: Any = self._known(data[1], tuple)
                    found = tuple.__new__(made, map(self.value, data[2:]))
                    if len(found) != len(getattr(made, "_fields", found)):
                        raise DamagedError(f"a {made.__qualname__} has other fields")
                    return found
                case "d":
                    made = self._known(data[1], object)
                    names = [field.name for field in fields(made)]
                    return made(**dict(zip(names, map(self.value, data[2:]), strict=True)))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise DamagedError(f"a value is none: {error}") from error
        raise DamagedError("a value is none")

    def _known(self, name: object, base: type) -> type:
        found = self._class(name)
        if found is None or not issubclass(found, base):
            raise DamagedError("a value is of a class that no value is of")
        return found

    @staticmethod
    def _name(kind: type) -> str:
        return f"{kind.__module__}:{kind.__qualname__}"

    def _class(self, name: object) -> type | None:
        """Return the class of plain data that has a name; None where there is none."""
        if not isinstance(name, str):
            return None
        found: Any = self._classes.get(name)
        if found is None:
            module, _, qualified = name.partition(":")
            if module not in self._modules and not module.startswith(_OWN):
                return None
            found = sys.modules.get(module)
            for part in qualified.split("."):
                found = None if found is None else vars(found).get(part)
            if not isinstance(found, type) or self._name(found) != name or not _is_plain(found):
                return None
            self._classes[name] = found
        return found if isinstance(found, type) else None


def _is_plain(kind: Any) -> bool:
    """Return whether objects of a class are its fields and nothing else, and do not change."""
    if issubclass(kind, enum.Enum):
        return True
    if issubclass(kind, tuple):
        return hasattr(kind, "_fields") or issubclass(kind, Printed)
    return is_dataclass(kind) and bool(vars(kind)["__dataclass_params__"].frozen)
