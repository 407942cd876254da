"""Values as text: equal texts, equal values, in every process and under every hash seed."""

from __future__ import annotations

import enum
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from fuzzvm.kernel.arch import Architecture
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.kernel import Kernel
from fuzzvm.scenario.calls import Output

_BY_REPR = frozenset({int, str, bool, bytes, float, type(None)})
_FIELDS: dict[type, tuple[str, ...]] = {}
_NO_FIELDS = ("",)


def text_of(value: Any) -> str:
    """Return a value as text. An object of a class that is none of those that programs may keep goes by its class."""
    kind = type(value)
    if kind in _BY_REPR:
        return repr(value)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = _fields_of(value)
    if names is not _NO_FIELDS:
        inner = [f"{name}={text_of(getattr(value, name))}" for name in names]
        return f"{kind.__qualname__}({', '.join(inner)})"
    if isinstance(value, enum.Enum):
        return f"{kind.__qualname__}.{value.name}"
    if isinstance(value, frozenset | set):
        return f"{kind.__qualname__}({', '.join(sorted(map(text_of, value)))})"
    if isinstance(value, tuple):
        return f"{kind.__qualname__}({', '.join(map(text_of, value))})"
    if isinstance(value, Kernel):
        return f"Kernel(cpu={value.cpu})"
    if isinstance(value, FunctionType):
        return f"{value.__qualname__} of line {value.__code__.co_firstlineno}"
    if isinstance(value, type | ModuleType | BuiltinFunctionType):
        return value.__name__
    return f"a {kind.__qualname__}"


def _fields_of(value: Any) -> tuple[str, ...]:
    """Return the names of the fields that the text of a dataclass has; `_NO_FIELDS` for anything else."""
    if isinstance(value, Output):
        # the text that a walk prints is no part of a local state: states that differ in it alone are one
        return ("file",)
    if not is_dataclass(value) or isinstance(value, type | Kernel | Mitigation | Architecture):
        return _NO_FIELDS
    return tuple(field.name for field in fields(value))
