"""The images that a user names by their folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fuzzvm.compiled.errors import ImageError

if TYPE_CHECKING:
    from fuzzvm.images.code import ImageCode


def image_code(folder: Path) -> ImageCode:
    """Return the code of the image in a folder. Raises ImageError."""
    # imported here: ELF, DWARF and disassembly are needed for nothing else, and may not be installed
    try:
        from fuzzvm.compiled.image import load
        from fuzzvm.images.code import ImageCode
    except ImportError as error:
        raise ImageError("images need pyelftools and capstone: pip install 'fuzzvm[compiled]'") from error
    return ImageCode(load(folder))


def by_digest(folders: Iterable[Path]) -> dict[str, ImageCode]:
    """Return the code of images by their digests. Raises ImageError."""
    return {code.digest: code for code in map(image_code, folders)}
