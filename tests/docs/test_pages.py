"""What docs/ shows is what happens: files are written, commands are run, and their output is compared.

A block with a caption is a file (`(continued)` appends to it). In a `console` block each line that begins with `$` is
run, in a folder of the page's own, with the exit status of the comment `<!-- exit: N -->` before the block. What stands
below it must come out, with any number in the place of a number; `...` stands for lines that are not shown.
`<!-- files of: PAGE -->` takes the files of another page.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

_BLOCK = re.compile(
    r"(?:<!-- exit: (?P<exit>\d+) -->\n)?^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_CAPTION = re.compile(r":caption: (?P<file>\S+)(?P<more> \(continued\))?\n\n")
_FILES_OF = re.compile(r"<!-- files of: (\S+) -->")
_NUMBER = re.compile(r"[0-9a-f]{12}|\d[\d,]*(\.\d+)?")


class Command(NamedTuple):
    """A command of a page, what it must print, and its exit status."""

    line: str
    output: tuple[str, ...]
    status: int


class File(NamedTuple):
    """A file that a page tells its reader to write."""

    name: str
    text: str
    continues: bool


def steps(text: str) -> Iterator[Command | File]:
    """Yield what a page shows, in its order. Raises ValueError where a console block does not say how it ends."""
    for block in _BLOCK.finditer(text):
        if caption := _CAPTION.match(block["body"]):
            yield File(caption["file"], block["body"][caption.end() :], caption["more"] is not None)
        elif block["info"].strip() == "console":
            if block["exit"] is None:
                raise ValueError(f"no exit status before {block['body']!r}")
            yield from _commands(block["body"].splitlines(), int(block["exit"]))


def _commands(lines: list[str], status: int) -> Iterator[Command]:
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        shown = tuple(line for line in lines[start + 1 : end] if line.strip() not in ("", "..."))
        yield Command(lines[start][2:], shown, status)


def write(file: File, folder: Path) -> None:
    path = folder / file.name
    path.write_text((path.read_text() + "\n\n" if file.continues else "") + file.text)


def run(command: Command, folder: Path) -> tuple[int, str]:
    words = shlex.split(command.line)
    if words[0] == "fuzzvm-check":
        words[:1] = [sys.executable, "-c", "from fuzzvm.certificate.start import main; main()"]
    if words[0] in ("fuzzvm", "pytest"):
        words[:1] = [sys.executable, "-m", words[0]]
        words += ["-p", "fuzzvm.pytest_plugin"] if "pytest" in words else []
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    ran = subprocess.run(
        words,
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, (ran.stdout + ran.stderr).replace(f"{folder}/", "")


def shape(line: str) -> str:
    """Return a line with what may differ from run to run taken out."""
    return " ".join(_NUMBER.sub("N", line).replace("python -m fuzzvm", "fuzzvm").split())


@pytest.mark.product
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_page(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for other in _FILES_OF.findall(text):
        for step in steps((page.parent / other).read_text(encoding="utf-8")):
            if isinstance(step, File):
                write(step, tmp_path)
    for step in steps(text):
        if isinstance(step, File):
            write(step, tmp_path)
            continue
        status, output = run(step, tmp_path)
        assert status == step.status, f"{step.line}\n{output}"
        printed = [shape(line) for line in output.splitlines()]
        for line in step.output:
            assert any(shape(line) in there for there in printed), f"{step.line}\nhas no line {line!r}:\n{output}"


def test_own_mitigation_is_shown_in_a_short_schedule(tmp_path: Path) -> None:
    """The page promises a schedule with at most 3 context switches."""
    page = (DOCS / "own-mitigation.md").read_text(encoding="utf-8")
    for step in steps(page):
        if isinstance(step, File):
            write(step, tmp_path)
    command = Command("fuzzvm verify -m ./mine.py:SampleEarly -s pmd-promotion --memory sc", (), 1)
    _, output = run(command, tmp_path)
    found = re.search(r"(\d+) context switches", output)
    assert found is not None and int(found[1]) <= 3


def test_a_page_that_shows_what_does_not_happen_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- exit: 0 -->\n```console\n$ fuzzvm mitigations\nnonesuch\n```\n")
    with pytest.raises(AssertionError, match="has no line 'nonesuch'"):
        test_page(page, tmp_path)
    page.write_text("<!-- exit: 1 -->\n```console\n$ fuzzvm mitigations\n```\n")
    with pytest.raises(AssertionError):
        test_page(page, tmp_path)
    with pytest.raises(ValueError, match="no exit status"):
        list(steps("```console\n$ fuzzvm mitigations\n```\n"))
