"""The commands that go on with a test case, as reports suggest them."""

from __future__ import annotations

from pathlib import Path

from fuzzvm.files.shell import word
from fuzzvm.mitigations import registry


def command(verb: str, file: Path | str, mitigation: str, *, given: bool = False) -> str:
    """Return `fuzzvm VERB FILE`, with the option that lets a mitigation of the user's own run.

    `given` says that the mitigation is not the one that the file names, and so is named in any case.
    """
    own = f" --mitigation {word(mitigation)}" if given or registry.is_path(mitigation) else ""
    return f"fuzzvm {verb} {word(str(file))}{own}"


def image_command(verb: str, file: Path | str, folder: Path | str) -> str:
    """Return `fuzzvm VERB FILE --image DIR`, for a test case of a kernel image."""
    return f"fuzzvm {verb} {word(str(file))} --image {word(str(folder))}"
