"""Names of mitigations that mean harm, and files that end the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzvm.mitigations import registry
from fuzzvm.mitigations.registry import MAX_STACKED, MitigationError
from tests.clock import no_hang

SIZE = 1 << 16

HOSTILE = {
    "a long stack": "none+" * (SIZE // 5) + "none",
    "plus signs": "+" * SIZE,
    "a name": "a" * SIZE,
    "a path": "a" * SIZE + ".py:X",
    "a stack of paths": "+".join(["a" * 4000 + ".py:X"] * MAX_STACKED),
    "a path that no file can have": "a\0.py:X",
    "a name that a terminal obeys": "\x1b[2J",
    "a path that a terminal obeys": "\x1b[2J.py:X",
    "half a character": "\udc80.py:X",
    "many ways to read it": "none+" * (MAX_STACKED - 1) + "nonesuch",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(name: str) -> None:
    with no_hang(), pytest.raises(MitigationError) as caught:
        registry.get(HOSTILE[name])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2000


def test_a_file_that_ends_the_program_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    """Exit status 0 would say that there is no bug."""
    file = tmp_path / "ends.py"
    file.write_text("raise SystemExit(0)\n")
    with pytest.raises(MitigationError, match="SystemExit"):
        registry.get(f"{file}:X")
