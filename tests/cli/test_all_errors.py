"""`fuzzvm verify --all-errors`, in a subprocess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.running import fuzzvm

SYSTEM = ("-m", "none", "-s", "pud-promotion", "--memory", "sc")
ERRORS = [("use-after-free-read", "ptdump_pte_entry", 17), ("use-after-free-read", "walk_pmd_range", 30)]
READ_LOCK = """\
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock

class WalksWithAReadLock(Mitigation):
    name = "walks-with-a-read-lock"

    def walk_locked(self, k, mm, token):
        yield from mmap_write_unlock(k, mm)
        yield from mmap_read_lock(k, mm)

    def walk_unlocking(self, k, mm, token):
        yield from mmap_read_unlock(k, mm)
        yield from mmap_write_lock(k, mm)

class SaysSo(WalksWithAReadLock):
    walk_assertion = "read"
"""


def test_each_error_has_its_own_schedule_and_is_saved(tmp_path: Path) -> None:
    done = fuzzvm("verify", *SYSTEM, "--all-errors", "--json", "--save", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert [(one["bug"], one["function"], one["steps"]) for one in run["errors"]] == ERRORS
    assert all(one["proven_minimal"] and one["context_switches"] == 2 and one["message"] for one in run["errors"])
    assert run["errors_bound"] is None
    assert run["schedule"] == run["errors"][0]["schedule"] and run["saved"] == run["errors"][0]["saved"]
    assert len({one["saved"] for one in run["errors"]}) == len(list(tmp_path.glob("*.toml"))) == 2
    replayed = fuzzvm("replay", str(tmp_path))
    assert replayed.returncode == 0, replayed.stdout


def test_as_text() -> None:
    done = fuzzvm("verify", *SYSTEM, "--all-errors")
    where = "none, pud-promotion, sc"
    assert [line for line in done.stdout.splitlines() if line.startswith(where)] == [
        f"{where}: {error} in {function}, 2 context switches, {steps} steps, proven minimal"
        for error, function, steps in ERRORS
    ]
    one = fuzzvm("verify", *SYSTEM)
    assert sum(line.startswith(where) for line in one.stdout.splitlines()) == 1
    assert json.loads(fuzzvm("verify", *SYSTEM, "--json").stdout)["runs"][0]["errors"] == []


def test_a_bound_is_said() -> None:
    done = fuzzvm("verify", *SYSTEM, "--all-errors", "--max-states", "400")
    assert "there may be other errors: --max-states 400 reached" in done.stdout


@pytest.mark.parametrize("scheme", ["WalksWithAReadLock", "SaysSo"])
def test_an_assertion_that_a_patch_changes(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "mine.py").write_text(READ_LOCK)
    mine = f"{tmp_path}/mine.py:{scheme}"
    done = fuzzvm("verify", "-m", mine, "-s", "pmd-promotion", "--memory", "sc", "--all-errors", "--json")
    found = [error["bug"] for error in json.loads(done.stdout)["runs"][0]["errors"]]
    assert found == (["use-after-free-read"] if scheme == "SaysSo" else ["walk-without-lock"])


def test_what_it_cannot_be_combined_with() -> None:
    done = fuzzvm("verify", *SYSTEM, "--all-errors", "--preemptions", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and "--preemptions" in done.stderr
