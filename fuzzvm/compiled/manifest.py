"""What an image's folder says of itself: image.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzzvm.compiled.errors import ImageError
from fuzzvm.files.errors import FileError
from fuzzvm.files.reading import read_text
from fuzzvm.kbuild.arch import PAGE_SHIFTS

MAX_BYTES = 16 << 20
MANIFEST = "image.json"
IMAGE = "image.elf"
INDEX = "index"
FRAGMENT = "fragment.config"
"""What the kernel was configured by."""
FORMAT = 1
"""Counts up when what `fuzzvm image build` writes changes, so that an older folder is not misread."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image was made of.

    `digest` is the SHA-256 of what is loaded: sections at their addresses, and symbols; equal for equal code, wherever
    it was built. `key` is that of what went in, `sources` that of every source file that the compiler read. `features`
    are the features that alternatives were applied for. `kind` is tree, archive, objects or vmlinux, and `source` its
    path. `left_out` are objects that matter and that this kernel does not have. `patches` are names and SHA-256.
    """

    format: int
    digest: str
    key: str
    kernel: str
    arch: str
    page_size: str
    levels: int
    kind: str
    source: str
    sources: str
    patches: list[dict[str, str]]
    config: str
    cc: str
    compiler: str
    atomics: str
    features: list[str]
    objects: list[str]
    left_out: list[str]
    seconds: float

    @property
    def page_shift(self) -> int:
        """Return the shift of the size of a page."""
        return PAGE_SHIFTS[self.page_size]

    def to_data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def write(self, folder: Path) -> None:
        """Write it; the last file of a build."""
        half = folder / f"{MANIFEST}.half"
        half.write_text(json.dumps(self.to_data(), indent=2) + "\n", encoding="utf-8")
        half.replace(folder / MANIFEST)


def read(folder: Path) -> Manifest:
    """Return what a folder says of itself. Raises ImageError where no build has come to its end there."""
    try:
        data = json.loads(read_text(folder / MANIFEST, MAX_BYTES))
    except (FileError, ValueError) as error:
        raise ImageError(f"{folder} holds no image of `fuzzvm image build` ({error})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ImageError(f"{folder} holds an image of another version of fuzzvm: build it again")
    try:
        manifest = Manifest(**data)
    except TypeError as error:
        raise ImageError(f"{folder} holds no image of `fuzzvm image build` ({error})") from error
    if not (folder / IMAGE).is_file() or not (folder / INDEX).is_dir():
        raise ImageError(f"{folder} lacks {IMAGE} or {INDEX}: build it again")
    return manifest
