"""Files of mitigations that lie on another machine: their text was sent, and stands for the file in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.abc import SourceLoader
from pathlib import Path

from fuzzvm.files.reading import read_bytes
from fuzzvm.mitigations.errors import exists

MAX_BYTES = 1 << 20
"""Of a file with a mitigation."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """`path` is where the file lies on the machine that it comes from: what errors and tracebacks call it."""

    path: str
    text: bytes


_sent: dict[str, SentFile] = {}
"""By what they were asked for by there."""
_alone = False


def provide(files: Mapping[str, SentFile]) -> None:
    """Let these stand for files from now on, by the names that they are asked for by."""
    _sent.update(files)


def to_data() -> dict[str, list[str]]:
    """Return what stands for files in this process as data for JSON; `provide_data` takes it in another."""
    # latin-1 takes every byte as it is, whatever the text is encoded in
    return {name: [file.path, file.text.decode("latin-1")] for name, file in _sent.items()}


def provide_data(data: Mapping[str, Sequence[str]]) -> None:
    """Let these stand for files from now on, as `provide`."""
    provide({name: SentFile(path, text.encode("latin-1")) for name, (path, text) in data.items()})


def get(filename: str) -> SentFile | None:
    """Return what was sent for a file of that name, None where nothing was."""
    return _sent.get(filename)


def read(filename: str) -> SentFile:
    """Return a file of this machine as if it had been sent. Raises FileError."""
    return SentFile(str(Path(filename).absolute()), read_bytes(filename, MAX_BYTES))


def stand_alone() -> None:
    """Let nothing be there from now on but what was sent: no file of this machine is run in this process."""
    global _alone
    _alone = True


def current(filename: str) -> SentFile:
    """Return what a name stands for in this process: what was sent, else the file. Raises FileError."""
    return _sent.get(filename) or read(filename)


def is_there(filename: str) -> bool:
    """Return whether there is a file of that name, or a text in its place."""
    return filename in _sent or (not _alone and exists(filename))


def text_of(path: str) -> bytes:
    """Return the text of a file, by where it lies on its own machine. Raises OSError."""
    texts = [file.text for file in _sent.values() if file.path == path]
    return texts[0] if texts else Path(path).read_bytes()


class SentLoader(SourceLoader):
    """Runs a text as the module that its file would be; writes nothing."""

    def __init__(self, file: SentFile) -> None:
        self.file = file

    def get_filename(self, fullname: str) -> str:
        return self.file.path

    def get_data(self, path: str | bytes) -> bytes:
        return self.file.text
