"""Files of mitigations that lie on another machine: their text was sent, and stands for the file in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.abc import SourceLoader
from pathlib import Path

from fuzzvm.mitigations.errors import exists


@dataclass(frozen=True, slots=True)
class SentFile:
    """`path` is where the file lies on the machine that it comes from: what errors and tracebacks call it."""

    path: str
    text: bytes


_sent: dict[str, SentFile] = {}
"""By what they were asked for by there."""


def provide(files: Mapping[str, SentFile]) -> None:
    """Let these stand for files from now on, by the names that they are asked for by."""
    _sent.update(files)


def provided() -> dict[str, SentFile]:
    """Return what stands for files in this process."""
    return dict(_sent)


def get(filename: str) -> SentFile | None:
    """Return what was sent for a file of that name, None where nothing was."""
    return _sent.get(filename)


def is_there(filename: str) -> bool:
    """Return whether there is a file of that name, or a text in its place."""
    return filename in _sent or exists(filename)


def text_of(path: str) -> bytes:
    """Return the text of a file, by where it lies on its own machine. Raises OSError."""
    texts = [file.text for file in _sent.values() if file.path == path]
    return texts[0] if texts else Path(path).read_bytes()


class SentLoader(SourceLoader):
    """Runs a text as the module that its file would be; writes nothing."""

    def __init__(self, file: SentFile) -> None:
        self._file = file

    def get_filename(self, fullname: str) -> str:
        return self._file.path

    def get_data(self, path: str | bytes) -> bytes:
        return self._file.text
