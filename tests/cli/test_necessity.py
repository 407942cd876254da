"""`fuzzvm necessity`, and `--without` of `fuzz`, in a subprocess."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.cli.commands.necessity import _scenarios
from tests.cli.running import fuzzvm
from tests.clock import PATIENCE
from tests.support import heed_sigint
from tests.terminal import Terminal


@pytest.mark.slow
def test_json_and_saved_schedules(tmp_path: Path) -> None:
    points = ("-p", "free-lock", "-p", "patch-isb", "-s", "pmd-promotion", "--memory", "sc")
    done = fuzzvm("necessity", *points, "--runs", "3000", "--corpus", str(tmp_path), "--json", "-j", "1")
    assert (done.returncode, done.stderr) == (0, "")
    answers = json.loads(done.stdout)["points"]
    assert [(answer["point"], answer["ipi"], answer["needed"]) for answer in answers] == [
        (None, True, False),
        (None, False, False),
        ("free-lock", True, True),
        ("free-lock", False, True),
        ("patch-isb", True, False),
        ("patch-isb", False, False),
    ]
    assert answers[2]["bug"] == "use-after-free-read"
    assert answers[3]["without"] == ["free-lock", "patch-ipi"]
    saved = {answer["saved"] for answer in answers if answer["saved"]}
    assert len(saved) == 2
    again = fuzzvm("replay", *saved)
    assert again.returncode == 0, again.stdout
    assert "left out: free-lock, patch-ipi" in fuzzvm("explain", answers[3]["saved"]).stdout


def test_a_point_is_not_called_unused_where_there_was_no_time_to_use_it() -> None:
    arguments = ("-p", "patch-dc", "-s", "pmd-promotion", "--memory", "arm64", "--seconds", "0.01", "--json")
    done = fuzzvm("necessity", *arguments)
    assert [answer["used"] for answer in json.loads(done.stdout)["points"]] == [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "as_json"), [("1", True), ("2", False)])
def test_ctrl_c_keeps_the_answers_that_are_there(tmp_path: Path, jobs: str, as_json: bool) -> None:
    """Points that are needed are answered within some hundred runs; the other has thousands, and gets no answer."""
    points = ("-p", "free-lock", "-p", "walk-key", "-p", "patch-isb", "-s", "pmd-promotion", "--memory", "sc")
    command = [sys.executable, "-m", "fuzzvm", "necessity", *points, "--ipi", "--corpus", str(tmp_path), "-j", jobs]
    command += ["--runs", "8000", *(["--json"] if as_json else [])]
    with (
        Terminal() as terminal,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=terminal.stream, text=True, preexec_fn=heed_sigint
        ) as running,
    ):
        terminal.started()
        # the progress on stderr: all in place, and two of the points
        terminal.read_until("3/4")
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=PATIENCE)
        errors = terminal.read_all()
    assert running.returncode == 130, errors
    if as_json:
        data = json.loads(out)
        assert data["interrupted"]
        assert {"free-lock", "walk-key"} <= {answer["point"] for answer in data["points"]}
        assert "patch-isb" not in {answer["point"] for answer in data["points"]}
    else:
        assert "free-lock" in out
        assert "ended by Ctrl-C: 1 of 4 questions have no answer" in errors


def test_a_point_that_a_scheme_lacks() -> None:
    arguments = ("-m", "mmap-lock-always", "-s", "pmd-promotion", "--memory", "sc", "--runs", "30", "-j", "1")
    done = fuzzvm("necessity", *arguments, "--ipi", "-p", "patch-ic", "-p", "flush-isb", "--json")
    answers = {answer["point"]: answer for answer in json.loads(done.stdout)["points"]}
    assert not answers["patch-ic"]["used"]
    assert answers["flush-isb"]["used"]
    assert not answers["flush-isb"]["needed"]


def test_a_scheme_that_fails_as_it_is() -> None:
    done = fuzzvm("necessity", "-m", "none", "-s", "pmd-promotion", "--memory", "sc", "--runs", "300", "-j", "1")
    assert done.returncode == 1
    assert "none fails with all points in place" in done.stdout


def test_bad_input_is_one_line() -> None:
    for arguments in (
        ("necessity", "-p", "patch-me"),
        ("necessity", "-s", "x86-pmd-promotion"),
        ("necessity", "-m", "nothing"),
        ("fuzz", "--without", "patch-me"),
    ):
        done = fuzzvm(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1


def test_fuzz_without_a_point(tmp_path: Path) -> None:
    arguments = ("-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--runs", "3000")
    done = fuzzvm("fuzz", *arguments, "--without", "walk-key", "--corpus", str(tmp_path), "--json")
    assert done.returncode == 1
    (search,) = json.loads(done.stdout)["searches"]
    assert search["expected"] is None
    assert search["findings"][0]["bug"] == "use-after-free-read"
    assert fuzzvm("replay", str(tmp_path)).returncode == 0


def test_tlbs_are_asked_about_apart() -> None:
    assert not any(scenario.tlb for scenario in _scenarios((), tlb=False))
    assert all(scenario.tlb for scenario in _scenarios((), tlb=True))
    assert [scenario.tlb for scenario in _scenarios(("tlb-promotion", "pmd-promotion"), tlb=False)] == [True, False]
