"""`fuzzvm certify`: writes what `fuzzvm-check` accepts, and nothing where nothing is proven."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fuzzvm.certificate.program import run
from fuzzvm.cli.main import cli


def certify(*options: str) -> tuple[int, str]:
    """Return the exit status of the command, and what it prints."""
    done = CliRunner().invoke(cli, ["certify", *options], standalone_mode=False)
    assert done.exception is None or isinstance(done.exception, Exception)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value), done.output


@pytest.mark.always
def test_what_is_written_is_accepted(tmp_path: Path) -> None:
    out = tmp_path / "new" / "file"
    status, said = certify("-m", "config-off", "-s", "pmd-promotion", "--memory", "sc", "-o", str(out), "--json")
    data = json.loads(said)
    assert (status, data["verdict"], data["states"]) == (0, "safe", 156)
    assert data["bytes"] == out.stat().st_size
    assert run([str(out)]) == 0


def test_a_release_and_a_bug_have_theirs(tmp_path: Path) -> None:
    out = tmp_path / "file"
    status, said = certify("--release", "linux-6.12", "-s", "x86-pmd-promotion", "--memory", "sc", "-o", str(out))
    assert status == 0
    assert said.startswith("bug: ")
    assert run([str(out)]) == 0


def test_a_verdict_that_a_bound_has_cut_has_none(tmp_path: Path) -> None:
    out = tmp_path / "file"
    of_cell = ("-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "-o", str(out))
    status, said = certify(*of_cell, "--max-states", "10")
    assert status == 1
    assert "not written" in said
    assert "--max-states 10 reached" in said
    assert not out.exists()
