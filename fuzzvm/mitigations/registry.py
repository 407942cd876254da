"""Finds mitigations: those that ship, of the entry-point group `fuzzvm.mitigations`, of a file, and stacks of them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Collection
from types import ModuleType
from typing import TypeVar

import fuzzvm.mitigations
import fuzzvm.mitigations.history
import fuzzvm.mitigations.releases
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.mitigations.errors import MitigationError, short
from fuzzvm.mitigations.releases.release import Release
from fuzzvm.mitigations.sent_files import is_there
from fuzzvm.mitigations.stacked import StackingError, stack
from fuzzvm.mitigations.user_files import checked, load
from fuzzvm.supervision import inside, user_code

__all__ = [
    "ENTRY_POINT_GROUP",
    "MitigationError",
    "available",
    "files_of",
    "get",
    "is_path",
    "releases",
    "shipped",
    "split",
]

M = TypeVar("M", bound=Mitigation)

ENTRY_POINT_GROUP = "fuzzvm.mitigations"
MAX_STACKED = 16
"""Schemes that can be stacked, and more plus signs than that no path has."""


def shipped() -> dict[str, type[Mitigation]]:
    """Return the mitigations of this package by name, in alphabetical order."""
    return dict(_shipped())


@functools.cache
def _shipped() -> dict[str, type[Mitigation]]:
    return _named_in(fuzzvm.mitigations, Mitigation)


@functools.cache
def _releases() -> dict[str, type[Release]]:
    return _named_in(fuzzvm.mitigations.releases, Release)


@functools.cache
def _history() -> dict[str, type[Mitigation]]:
    return _named_in(fuzzvm.mitigations.history, Mitigation)


def _named_in(package: ModuleType, kind: type[M]) -> dict[str, type[M]]:
    found: dict[str, type[M]] = {}
    for module in pkgutil.iter_modules(package.__path__):
        namespace = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
        for value in namespace.values():
            if isinstance(value, type) and issubclass(value, kind) and "name" in vars(value):
                found[value.name] = value
    return dict(sorted(found.items()))


def releases() -> dict[str, type[Release]]:
    """Return the releases of Linux that are modelled, by name, the oldest first."""
    return dict(sorted(_releases().items(), key=lambda item: _version(item[0])))


def _version(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.rpartition("-")[2].split(".")))


def available() -> dict[str, type[Mitigation]]:
    """Return the mitigations that have a name: those that ship, then those of installed packages.

    Raises MitigationError where an installed package offers one that cannot be loaded.
    """
    # imported here: it brings in the parser of e-mail, and what ships has its name without it
    from importlib.metadata import entry_points

    found = shipped()
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            loaded = entry_point.load()
        except BaseException as error:
            if user_code.is_interrupt(error):
                raise
            raise MitigationError(
                f"mitigation {entry_point.name!r} of entry point {entry_point.value}: {user_code.said_by(error)}"
            ) from error
        # it is installed as a library is, and is the user's all the same
        with contextlib.suppress(TypeError):
            inside.watch(inspect.getfile(loaded))
        found.setdefault(entry_point.name, checked(loaded, entry_point.value))
    return found


def get(spec: str) -> type[Mitigation]:
    """Return the scheme of that name, of `path/to/file.py:Class`, or of several of these stacked with `+` between.

    A name is that of a mitigation, of a release, or of a scheme of `fuzzvm.mitigations.history`.

    A name or a file that has a plus sign in it is taken whole where it exists. Raises MitigationError.
    """
    parts = split(spec)
    if len(parts) == 1:
        return load(spec) if is_path(spec) else _named(spec)
    try:
        return stack([get(part) for part in parts], spec)
    except StackingError as error:
        raise MitigationError(f"{spec}: {error}") from error


def files_of(spec: str) -> frozenset[str]:
    """Return the files in which the code of a mitigation lies, as its frames name them. Raises MitigationError."""
    classes = [base for part in split(spec) for base in get(part).__mro__]
    return frozenset(
        inspect.getfile(base) for base in classes if issubclass(base, Mitigation) and base is not Mitigation
    )


def split(spec: str) -> list[str]:
    """Return the mitigations that are stacked in what `get` takes; the longest first part that there is goes first.

    Raises MitigationError as `available` does.
    """
    if "+" not in spec:
        return [spec]
    pieces = spec.split("+")
    if len(pieces) > MAX_STACKED:
        raise MitigationError(f"{short(spec)}: more than {MAX_STACKED} schemes with + between")
    known = available() | releases() | _history()

    # remembered: where a last part does not exist, the ways to read the first ones are many
    @functools.cache
    def parse(first: int) -> list[str] | None:
        if first == len(pieces):
            return []
        for end in range(len(pieces), first, -1):
            part = "+".join(pieces[first:end])
            if part in known or _is_file(part):
                rest = parse(end)
                if rest is not None:
                    return [part, *rest]
        return None

    return parse(0) or _unknown(spec, pieces, known)


def _unknown(spec: str, pieces: list[str], known: Collection[str]) -> list[str]:
    """Return how to read a stack of which a part does not exist: so that the error is about that part."""
    if pieces[0] not in known and spec.count(".py:") == 1 and spec.rpartition(":")[2].isidentifier():
        return [spec]
    return pieces


def is_path(spec: str) -> bool:
    """Return whether a mitigation, or one of a stack, is named by its file."""
    return ".py:" in spec


def _is_file(part: str) -> bool:
    filename, _, class_name = part.rpartition(":")
    return is_path(part) and class_name.isidentifier() and is_there(filename)


def _named(name: str) -> type[Mitigation]:
    # to ask what is installed takes ten times as long, and what ships has its name in any case
    known = shipped() | releases()
    if name not in known:
        known = _history() if name in _history() else available() | releases()
    if name not in known and name.endswith(".py"):
        raise MitigationError(f"{short(name)}: which class of it? {short(name)}:Class")
    if name not in known:
        raise MitigationError(f"no mitigation {short(name)!r}; there are {', '.join(known)}, and path/to/file.py:Class")
    return known[name]
