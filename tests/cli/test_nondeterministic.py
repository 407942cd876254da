"""On schemes that do not do the same in another process, `verify`, `fuzz` and the pytest plugin have no verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clock import PATIENCE
from tests.pytest_plugin.project import pytest_in

SCHEMES = """\
import os
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.kernel.mmap_lock import mmap_read_lock, mmap_read_unlock

# second processes have a hash seed of their own
FIRST = "PYTHONHASHSEED" not in os.environ

class Locked(Mitigation):
    name = "locked"
    def before_clear(self, k, level):
        yield from mmap_read_lock(k, k.init_mm)
    def after_free(self, k, level, token):
        yield from mmap_read_unlock(k, k.init_mm)

class SafeAtFirst(Locked):
    def before_clear(self, k, level):
        if FIRST:
            yield from mmap_read_lock(k, k.init_mm)
    def after_free(self, k, level, token):
        if FIRST:
            yield from mmap_read_unlock(k, k.init_mm)

class FailsAtFirst(Locked):
    def before_clear(self, k, level):
        if not FIRST:
            yield from mmap_read_lock(k, k.init_mm)
    def after_free(self, k, level, token):
        if not FIRST:
            yield from mmap_read_unlock(k, k.init_mm)
"""


@pytest.fixture
def schemes(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(SCHEMES)
    return str(path)


def fuzzvm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", *arguments],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"},
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.always
@pytest.mark.parametrize("scheme", ["SafeAtFirst", "FailsAtFirst"])
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_verify_names_hook_file_and_line(schemes: str, scheme: str, more: tuple[str, ...]) -> None:
    done = fuzzvm("verify", "-m", f"{schemes}:{scheme}", "-s", "pmd-promotion", "--memory", "sc", *more)
    assert (done.returncode, done.stdout) == (2, "")
    # where the second process does nothing, the line is that of the hook
    line = 16 if scheme == "SafeAtFirst" else 26
    assert done.stderr.startswith(f"fuzzvm: {schemes}:{line}: before_clear does not do the same every time: ")
    assert done.stderr.count("\n") == 1


def test_verify_says_that_it_has_looked(schemes: str) -> None:
    arguments = ("-m", f"{schemes}:Locked", "-m", "static-key", "-s", "pmd-promotion", "--memory", "sc", "--json")
    done = fuzzvm("verify", *arguments)
    assert done.returncode == 0, done.stderr
    assert [(run["verdict"], run["deterministic"]) for run in json.loads(done.stdout)["runs"]] == [
        ("safe", True),
        ("safe", None),
    ]


def test_a_finding_that_does_not_replay_in_another_process_is_said_to_be_that(schemes: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    mine = f"{schemes}:FailsAtFirst"
    done = fuzzvm("fuzz", "-m", mine, "-s", "pmd-promotion", "--runs", "2000", "--corpus", str(corpus))
    assert (done.returncode, done.stdout) == (2, "")
    assert "a replay in a second process gave no failure, and not use-after-free-read" in done.stderr or (
        "a replay in a second process gave step" in done.stderr
    )
    assert done.stderr.endswith(f"{mine} depends on more than the schedule\n") and done.stderr.count("\n") == 1
    assert not list(corpus.glob("*.toml"))


def test_the_pytest_plugin_fails_a_test_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the first process is known by that
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    mark = '@pytest.mark.fuzzvm(mitigation={}, scenarios=["pmd-promotion"], memories=["sc"])\n'
    tests = "".join(
        f"\n{mark.format(scheme)}def test_{scheme.lower()}(fuzzvm_run):\n    fuzzvm_run.{method}()\n"
        for scheme, method in (
            ("Locked", "must_be_proven_safe"),
            ("SafeAtFirst", "must_be_proven_safe"),
            ("FailsAtFirst", "must_survive"),
        )
    )
    (tmp_path / "test_schemes.py").write_text(f"import pytest\n{SCHEMES}{tests}")
    status, output = pytest_in(tmp_path, "--fuzzvm-seconds", "30")
    assert status == 1 and "2 failed, 1 passed" in output, output
    assert "before_clear does not do the same every time" in output
    assert "depends on more than the schedule" in output
    assert "Traceback" not in output


def test_a_hook_that_does_not_end_in_another_process_is_named(tmp_path: Path) -> None:
    loops = "        while not FIRST:\n            pass\n        yield from ()\n"
    path = tmp_path / "mine.py"
    path.write_text(f"{SCHEMES}\nclass EndsAtFirst(Locked):\n    def before_free(self, k, level, token):\n{loops}")
    scheme = ("-m", f"{path}:EndsAtFirst", "-s", "pmd-promotion", "--memory", "sc")
    done = fuzzvm("verify", *scheme, "--hook-seconds", "0.5")
    assert (done.returncode, done.stdout) == (2, "")
    how = "before_free has neither yielded nor returned for 0.5 seconds, in a second process"
    assert done.stderr in [f"fuzzvm: {path}:{line}: {how}\n" for line in (33, 34)]
