"""What goes wrong where mitigations are looked up, and how it is said."""

from __future__ import annotations

from pathlib import Path

MAX_SHOWN = 200
"""Characters of a name that a message repeats."""


class MitigationError(Exception):
    """There is no such mitigation, or its file cannot be used; the message says which and why, in one line."""


def exists(filename: str) -> bool:
    """Return whether there is a file of that name; a name that no file can have is of none."""
    try:
        return Path(filename).is_file()
    except (OSError, ValueError):
        return False


def short(text: str) -> str:
    """Return a text for a message of one line: the beginning of a long one, and nothing that a terminal obeys."""
    shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
    return shown if shown.isprintable() else repr(shown)
