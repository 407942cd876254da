"""The page on architecture names the functions that a command enters, in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_pages import DOCS, ROOT

PAGE = DOCS / "architecture.md"
_ROW = re.compile(r"^\| (\d+) \| `(fuzzvm/[\w/]+\.py):([\w.]+)` \|", re.MULTILINE)

TRACER = """
import os, sys
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
root = sys.argv.pop(1) + "/"
seen = set()

def entered(frame, event, arg):
    code = frame.f_code
    if event == "call" and code not in seen and code.co_filename.startswith(root):
        seen.add(code)
        os.write(log, f"{code.co_filename[len(root):]}:{code.co_qualname}\\n".encode())

sys.argv[0] = "fuzzvm"
from fuzzvm.cli.start import main
sys.setprofile(entered)
main()
"""
"""Writes each function of fuzzvm that a command enters, when it is first entered, in whichever of its processes."""


def traced(command: str, folder: Path) -> list[str]:
    """Run a command; return the functions of fuzzvm in the order in which they were first entered."""
    log = folder / "entered"
    words = [sys.executable, "-c", TRACER, str(log), str(ROOT), *command.split()[1:]]
    subprocess.run(words, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    return list(dict.fromkeys(log.read_text(encoding="utf-8").splitlines()))


def hops() -> list[str]:
    """Return the functions of the numbered rows, in their order."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    return [f"{path}:{name}" for _, path, name in rows]


def test_the_command_enters_what_the_page_numbers_in_that_order(tmp_path: Path) -> None:
    command = re.search(r"^    (fuzzvm verify .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert command
    expected = hops()
    wanted = set(expected)
    assert [name for name in traced(command[1], tmp_path) if name in wanted] == expected


@pytest.mark.parametrize("memory", ["tso", "arm64"])
def test_where_memory_is_weak_the_page_says_what_differs(tmp_path: Path, memory: str) -> None:
    entered = set(traced(f"fuzzvm verify -m none -s pmd-promotion --memory {memory}", tmp_path))
    weak = re.findall(r"`(fuzzvm/[\w/]+\.py:_?[a-z]\w+)`", PAGE.read_text().partition("\n## The other rows\n")[2])
    assert len(weak) == 3
    same = [name for number, name in enumerate(hops(), 1) if number <= 15 or number >= 22]
    assert [name for name in (*weak, *same) if name not in entered] == []
    assert "fuzzvm/exhaustive/stages.py:_main_search" not in entered


def test_the_picture_has_every_number() -> None:
    picture = PAGE.read_text(encoding="utf-8").partition("```text\n")[2].partition("```")[0]
    assert sorted(map(int, re.findall(r"\b\d+\b", picture))) == list(range(1, len(hops()) + 1))
