"""Which kernel functions the model stands for, and whether a source tree still has them as the model was written.

The table `modelled.toml` beside this file has, for each function, its file, where the model has it, and the digest of
its text in the trees that were read (comments and white space apart). `python -m fuzzvm.kbuild.modelled NAME TREE`
prints the table with the digests of one more tree.
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fuzzvm.files.reading import read_bytes
from fuzzvm.kbuild import source
from fuzzvm.kbuild.c_functions import definitions, digest
from fuzzvm.kbuild.errors import KbuildError

MAX_FILE_BYTES = 1 << 24


@dataclass(frozen=True)
class Modelled:
    """A kernel function that the model stands for.

    `model` is `module:function` of the model, `digests` the digest of the function's text by the name of a release.
    """

    name: str
    file: str
    model: str
    digests: dict[str, str]


@dataclass(frozen=True)
class Drift:
    """A modelled function that a tree has otherwise: `what` is 'differs', 'is gone', or 'its file is gone'."""

    function: Modelled
    what: str


def modelled() -> tuple[Modelled, ...]:
    """Return the functions that the model stands for, in the order of the table."""
    text = (resources.files("fuzzvm.kbuild") / "modelled.toml").read_text(encoding="utf-8")
    return tuple(Modelled(**entry) for entry in tomllib.loads(text)["function"])


def version(tree: Path) -> str:
    """Return the version of a kernel's source tree, as `7.3.4`. Raises KbuildError where it is none."""
    if not (tree / "Makefile").is_file():
        raise KbuildError(f"{tree} is no source tree of Linux: it has no Makefile")
    found = source.version(tree)
    if not found:
        raise KbuildError(f"{tree} is no source tree of Linux: its Makefile names no version")
    return found


def drift(tree: Path, release: str) -> tuple[Drift, ...]:
    """Return the modelled functions that a tree has otherwise than a release had them when the model was written.

    Functions of which the table knows nothing for that release are left out. Raises KbuildError as `version` does, and
    FileError for a file that cannot be read.
    """
    version(tree)
    found = []
    for function in modelled():
        known = function.digests.get(release)
        if known is None:
            continue
        texts = _definitions(tree, function)
        if texts is None:
            found.append(Drift(function, "its file is gone"))
        elif not texts:
            found.append(Drift(function, "is gone"))
        elif digest(texts) != known:
            found.append(Drift(function, "differs"))
    return tuple(found)


def _definitions(tree: Path, function: Modelled) -> list[str] | None:
    """Return the definitions of a function in a tree; None where it has not the file."""
    path = tree / function.file
    if not path.exists():
        return None
    # a name or a comment in another encoding is no reason to know nothing of the rest
    return definitions(read_bytes(path, MAX_FILE_BYTES).decode("utf-8", "replace"), function.name)


def recorded(tree: Path, release: str) -> str:
    """Return the table with the digests that a tree gives for a release. Raises KbuildError as `drift` does."""
    entries = []
    for function in modelled():
        texts = _definitions(tree, function)
        digests = dict(function.digests)
        digests.pop(release, None)
        if texts:
            digests[release] = digest(texts)
        lines = [f"{key} = {json.dumps(getattr(function, key))}" for key in ("name", "file", "model")]
        known = [f"{json.dumps(release)} = {json.dumps(text)}" for release, text in sorted(digests.items())]
        entries.append("\n".join(["[[function]]", *lines, "", "[function.digests]", *known]))
    return "\n\n".join(entries) + "\n"


if __name__ == "__main__":
    sys.stdout.write(recorded(Path(sys.argv[2]), sys.argv[1]))
