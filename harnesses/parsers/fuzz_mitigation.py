"""Fuzzes the names of mitigations: `NAME`, `FILE.py:CLASS`, and these with `+` between.

A text gives a mitigation or a MitigationError of one line. Files are looked for in a folder with two of them; one that
lies anywhere else is left alone, since to name a mitigation's file is to run it. How to run it: frame.py.
"""

import os
import tempfile
from pathlib import Path

from frame import fuzz, instrumented

with instrumented(__name__, "fuzzvm.mitigations"):
    from fuzzvm.kernel.hooks import Mitigation
    from fuzzvm.mitigations import registry

OWN = """
from fuzzvm.kernel.hooks import Mitigation


class Own(Mitigation):
    name = "own"


class Frees(Mitigation):
    name = "frees"

    def free_table(self, k, table, level):
        yield from ()


class Plain(Mitigation):
    name = "plain"

    def free_table(self, k, table, level):
        return None


number = 1
"""
FILES = ("own.py", "a+b.py")


def one_input(data: bytes) -> None:
    """Look a mitigation up; FILES lie in the current folder."""
    spec = data.decode("utf-8", errors="surrogateescape")
    if "/" in spec and ".py" in spec:
        return
    try:
        found = registry.get(spec)
    except registry.MitigationError as error:
        assert str(error).isprintable(), f"more than a line: {error!r}"
        return
    assert issubclass(found, Mitigation)
    found()


def write_files(folder: Path) -> None:
    """Write the files that a fuzzed name may mean."""
    for name in FILES:
        (folder / name).write_text(OWN, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as files:
        write_files(Path(files))
        os.chdir(files)
        fuzz("fuzz_mitigation", one_input)
