"""Reads TOML that nobody vouches for: what comes of it is shallow, and costs no more than its length.

tomllib alone takes time that grows with the square of a dotted key, fails with a bare ValueError at an integer of
more than 4,300 digits, and hands out data that is nested as deeply as the text: printing such a value fails as well.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_bytes

MAX_BYTES = 1 << 20
MAX_DEPTH = 8
"""How deeply tables and lists may stand in each other; a test case needs four."""
MAX_KEY_PARTS = 8
MAX_INTEGER = 1 << 63
"""TOML promises integers of 64 bits and no more."""

# each alternative matches wherever it begins, so that one pass over the text finds all keys: a string that does not
# end takes the rest of its line
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\[^\n])*+"?|'[^'\n]*+'?)"""
_KEY = re.compile(rf"{_PART}(?P<more>(?:[ \t]*+\.[ \t]*+{_PART})*+)(?P<ends>[ \t]*+[=\]])?+")
_PARTS = re.compile(_PART)
_PLACE = re.compile(r"\(at line (\d+), column \d+\)")


class TomlTextError(Exception):
    """A text is no TOML, or none that is read here. `line` counts from 1, or is None where it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def read_text(path: Path) -> str:
    """Return the text of a file. Raises TomlTextError, also for a file that cannot be read."""
    try:
        return text_of(read_bytes(path, MAX_BYTES))
    except FileError as error:
        raise TomlTextError(error.why) from error


def text_of(raw: bytes) -> str:
    """Return the text that a file's bytes stand for. Raises TomlTextError."""
    if len(raw) > MAX_BYTES:
        raise TomlTextError(f"larger than {MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TomlTextError("not a text file in UTF-8", raw[: error.start].count(b"\n") + 1) from error


def loads(text: str) -> dict[str, Any]:
    """Return the data of a text. Raises TomlTextError, and nothing else."""
    for key in _KEY.finditer(text):
        if key["ends"] and len(_PARTS.findall(key["more"])) >= MAX_KEY_PARTS:
            line = text.count("\n", 0, key.start()) + 1
            raise TomlTextError(f"a key of more than {MAX_KEY_PARTS} parts", line)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _place(str(error), text)
        raise TomlTextError(f"not a whole TOML file: {message}", line) from error
    except RecursionError as error:
        raise TomlTextError("nested too deeply") from error
    except ValueError as error:
        # an integer of more digits than Python turns into a number
        raise TomlTextError(f"a value that cannot be read: {str(error).split(';')[0]}") from error
    _check(data)
    return data


def line_of(text: str, key: str | None) -> int | None:
    """Return the line that a key, a table or a call stands in first, or None."""
    if key is None:
        return None
    quoted = (f'"{key}"', f"'{key}'")
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*(\[{re.escape(key)}\]|{re.escape(key)}\s*=)", line) or any(one in line for one in quoted):
            return number
    return None


def _check(data: dict[str, Any]) -> None:
    """Raise TomlTextError where a value is nested too deeply, or an integer is longer than TOML's."""
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following += value.values()
            elif isinstance(value, list):
                following += value
            elif isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
                raise TomlTextError("an integer of more than 64 bits")
        level = following
    if level:
        raise TomlTextError("nested too deeply")


def _place(message: str, text: str) -> tuple[str, int]:
    match = _PLACE.search(message)
    if match:
        return message[: match.start()].strip().rstrip(":"), int(match[1])
    return message.split(" (at end")[0], text.count("\n") + 1
