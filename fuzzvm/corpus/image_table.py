"""What a test case says of the kernel image that it is a run of: its table [image].

The digest says which image it is. All else is for people: what it was made of, and how to build it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

_DIGEST = re.compile("[0-9a-f]{64}")


class ImageTableError(Exception):
    """A table [image] that says something else; `key` is what is wrong in it."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True, slots=True)
class ImageTable:
    """The image of a test case. `patches` are names and SHA-256, and `build` is the command that builds it again."""

    digest: str
    kernel: str
    arch: str
    page_size: str
    levels: int
    atomics: str
    compiler: str
    patches: tuple[str, ...]
    build: str

    @property
    def label(self) -> str:
        """What names call it: the version of the kernel, and the beginning of the digest."""
        return f"linux-{self.kernel}-{self.digest[:8]}"

    def __str__(self) -> str:
        return f"image {self.digest[:12]} (Linux {self.kernel})"

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self) | {"patches": list(self.patches)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ImageTable:
        """Return what plain data says. Raises ImageTableError."""
        for key in data:
            if key not in _KINDS:
                raise ImageTableError(f"unknown key {key!r} in [image]", key)
        for key, what in _KINDS.items():
            value = data.get(key)
            values = value if what == _STRINGS and isinstance(value, list) else [value]
            if (isinstance(value, list) != (what == _STRINGS)) or any(
                type(one) is not (int if what == _NUMBER else str) for one in values
            ):
                raise ImageTableError(f"{key} of [image] must be {what}", key)
            if any(isinstance(one, str) and not one.isprintable() for one in values):
                raise ImageTableError(f"{key} of [image] has a character that cannot be printed", key)
        if not _DIGEST.fullmatch(data["digest"]):
            raise ImageTableError("digest of [image] must be 64 hexadecimal digits", "digest")
        return cls(**{**data, "patches": tuple(data["patches"])})


_STRING, _STRINGS, _NUMBER = "a string", "a list of strings", "a number"
_KINDS = {one.name: {"levels": _NUMBER, "patches": _STRINGS}.get(one.name, _STRING) for one in fields(ImageTable)}
"""What each key must be."""
