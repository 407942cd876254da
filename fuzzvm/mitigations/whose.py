"""Whose code a mitigation is: fuzzvm's own, or the user's."""

from __future__ import annotations

import sys

from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.supervision.user_code import is_own


def parts_of(mitigation: type[Mitigation]) -> tuple[type[Mitigation], ...]:
    """Return the schemes that a mitigation is stacked of, itself where it is not stacked."""
    parts: tuple[type[Mitigation], ...] = getattr(mitigation, "parts", (mitigation,))
    return parts


def users_modules(part: type[Mitigation]) -> list[str]:
    """Return the names of the modules of a scheme's classes that do not ship with fuzzvm."""
    names = dict.fromkeys(cls.__module__ for cls in part.__mro__ if issubclass(cls, Mitigation))
    return [name for name in names if not is_own(str(getattr(sys.modules.get(name), "__file__", name)))]


def is_users(mitigation: type[Mitigation]) -> bool:
    """Return whether a mitigation has code that does not ship with fuzzvm."""
    return any(users_modules(part) for part in parts_of(mitigation))
