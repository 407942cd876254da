"""What is printed to a terminal and what to a pipe: colours, lines around tables, NO_COLOR."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
VERIFY = ("verify", "-m", "none", "-s", "pmd-promotion", "--memory", "sc")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3\d|4\d|9\d|38;[\d;]+)m")
BOXES = re.compile("[\u2500-\u257f]")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fuzzvm", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return kept | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | more


def on_a_terminal(*arguments: str, **more: str) -> str:
    """Return what a command prints to a terminal, stderr included."""
    with Terminal() as terminal:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.stream)
        with subprocess.Popen(command(*arguments), env=environment(**more), **streams):
            terminal.started()
            return terminal.read_all()


@pytest.mark.parametrize("arguments", [VERIFY, ("mitigations",), ("scenarios",)], ids=lambda arguments: arguments[0])
def test_a_pipe_gets_neither_lines_nor_escapes(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, check=False)
    assert ran.stdout and "\x1b" not in ran.stdout + ran.stderr and not BOXES.search(ran.stdout + ran.stderr)


def test_a_terminal_gets_a_table_with_a_line() -> None:
    assert BOXES.search(on_a_terminal(*VERIFY))


def test_no_color_is_respected(tmp_path: Path) -> None:
    """The bar of a search is coloured on a terminal, and is not where NO_COLOR is set."""
    fuzz = ("fuzz", "-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--seconds", "0.5")
    arguments = (*fuzz, "--corpus", str(tmp_path / "found"))
    assert COLOUR.search(on_a_terminal(*arguments))
    assert not COLOUR.search(on_a_terminal(*arguments, NO_COLOR="1"))
