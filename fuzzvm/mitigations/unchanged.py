"""Finds out that a mitigation keeps something in itself that changes during a run."""

from __future__ import annotations

import copy
import dis
import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.errors import UnkeyableError


@contextmanager
def unchanged(mitigation: Mitigation) -> Iterator[None]:
    """Raise UnkeyableError if a mitigation changes itself meanwhile: what it keeps would be no part of any state."""
    held = vars(mitigation)
    before = {name: copy.copy(value) if isinstance(value, list | dict | set) else value for name, value in held.items()}
    yield
    for name, value in held.items():
        if name not in before or (before[name] is not value and before[name] != value):
            raise UnkeyableError(
                f"{type(mitigation).__qualname__}: attribute {name!r} changes during a run; "
                "one mitigation serves all CPUs and all runs, and a hook must not keep anything in it",
                *_keeper(type(mitigation), name),
            )


def _keeper(mitigation: type[Mitigation], attribute: str) -> tuple[str, int]:
    """Return file and line of the hook that sets an attribute, or else of one that uses it."""
    used = [
        (instruction.opname != "STORE_ATTR", function.__code__.co_filename, instruction.positions.lineno)
        for cls in mitigation.__mro__
        for name, function in vars(cls).items()
        if inspect.isfunction(function) and name not in ("__init__", "attach")
        for instruction in dis.get_instructions(function.__code__)
        if instruction.argval == attribute and instruction.positions is not None and instruction.positions.lineno
    ]
    if not used:
        return mitigation.__module__, 0
    _, filename, line = min(used)
    return filename, line or 0
