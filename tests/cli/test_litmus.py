"""`fuzzvm litmus`: output, exit status, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fuzzvm.cli.commands.litmus import litmus

CORPUS = Path(__file__).parents[2] / "corpus" / "litmus"
PTDUMP = str(CORPUS / "ptdump" / "ptdump.litmus")
BAD = "AArch64 bad\n{ 0:X1=x; }\n P0 ;\n FOO W0,[X1] ;\nexists (0:X0=0)\n"


def invoke(*arguments: str) -> tuple[int, Result]:
    result = CliRunner().invoke(litmus, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    return result.return_value, result


def test_the_commit_test() -> None:
    status, result = invoke(PTDUMP)
    assert status == 0
    assert "Observation ptdump Never 0 5\n" in result.stdout
    assert result.stderr == ""


def test_what_is_refused_is_one_line_and_the_others_run(tmp_path: Path) -> None:
    bad = tmp_path / "bad.litmus"
    bad.write_text(BAD, encoding="utf-8")
    status, result = invoke(str(bad), str(tmp_path / "none.litmus"), PTDUMP)
    assert status == 2
    assert result.stderr == (
        f"{bad}:4: unsupported instruction FOO W0,[X1]\n{tmp_path / 'none.litmus'}: No such file or directory\n"
    )
    assert "bad" not in result.stdout
    assert "Observation ptdump Never 0 5\n" in result.stdout


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.litmus"
    bad.write_bytes(b"AArch64 \xff")
    status, result = invoke(str(bad))
    assert (status, result.stderr) == (2, f"{bad}: not UTF-8 text\n")


def test_json() -> None:
    status, result = invoke("--json", PTDUMP)
    assert status == 0
    (test,) = json.loads(result.stdout)["tests"]
    assert (test["test"], test["observation"], test["ok"], len(test["states"])) == ("ptdump", "Never", False, 5)


def test_speedcheck_settles_the_condition() -> None:
    status, result = invoke("--speedcheck", "fast", PTDUMP)
    assert status == 0 and "States 0\n" in result.stdout and "Observation ptdump Never 0 0\n" in result.stdout
    status, result = invoke("--json", "--speedcheck", "true", PTDUMP)
    (test,) = json.loads(result.stdout)["tests"]
    assert (test["observation"], test["ok"], test["states"], test["complete"]) == ("Never", False, [], False)


def test_loops_that_are_cut_are_said_so(tmp_path: Path) -> None:
    path = tmp_path / "loop.litmus"
    path.write_text("AArch64 loop\n{}\n P0 ;\n l: ADD W0,W0,#1 ;\n B l ;\nexists (0:X0=0)\n", encoding="utf-8")
    _, result = invoke(str(path))
    assert "loops were not followed to their end" in result.stderr


@pytest.mark.parametrize("name", ["lark", "click"])
def test_the_library_needs_no_command_line(name: str) -> None:
    """`fuzzvm.litmus` itself is cheap to import; the parser comes with the first test."""
    code = f"import fuzzvm.litmus, sys; sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
