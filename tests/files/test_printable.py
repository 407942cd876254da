"""Text of others: what a terminal obeys is shown, and a suggested command says what it does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzvm.files.printable import printable, printable_lines
from fuzzvm.files.shell import word


def test_what_a_terminal_obeys_is_escaped() -> None:
    assert printable("a\x1b[2J\r\u202eb\u200b\udcff\x9b") == "a\\x1b[2J\\r\\u202eb\\u200b\\udcff\\x9b"
    assert printable("plain text, ünïcödé, 漢字") == "plain text, ünïcödé, 漢字"
    assert printable("two\nlines") == "two\\nlines"
    assert printable_lines("two\n\tlines\x07\n") == "two\n\tlines\\x07\n"


@given(st.text())
@example("\u2028\U000e0001")
def test_nothing_is_left_of_it(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").replace("\t", "").isprintable()
    assert printable(printable(text)) == printable(text)
    assert word(text).isprintable()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "name",
    [b"a b", b"$(touch it-ran)", b"'", b"a\nb; touch it-ran", b"\x1b[2J'\\", "ä\u202e€\U0001f600".encode(), b"\xff\n"],
)
def test_a_word_of_a_shell_is_the_text_again(name: bytes, tmp_path: Path) -> None:
    quoted = word(os.fsdecode(name))
    ran = subprocess.run(
        ["bash", "-c", f"printf %s {quoted}"],
        cwd=tmp_path,
        env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    assert ran.stdout == name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["\n'; touch it-ran; '", "\n\\'; touch it-ran; \\'", "\n$(touch it-ran)"])
def test_a_shell_that_knows_no_escapes_takes_it_for_one_word(name: str, tmp_path: Path) -> None:
    """Such as dash, the `sh` of Debian."""
    ran = subprocess.run(["sh", "-c", f"printf '%s|' {word(name)}"], cwd=tmp_path, capture_output=True, check=True)
    assert ran.stdout.count(b"|") == 1
    assert list(tmp_path.iterdir()) == []
