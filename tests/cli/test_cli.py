"""The command line in a subprocess: what scripts and people see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import fuzzvm
from tests.clock import FOREVER, PATIENCE, wait_until
from tests.support import heed_sigint, tells_that_it_runs

BUGGY = """
from fuzzvm.kernel.hooks import Mitigation
class Mine(Mitigation):
    name = "mine"
"""
HOOK = "    def before_free(self, k, level, token):\n"


def found(tmp_path: Path, *arguments: str) -> Path:
    """Return a saved test case of `none`."""
    done = fuzzvm("fuzz", "--mitigation", "none", "--runs", "5000", "--corpus", str(tmp_path), *arguments, "--json")
    assert done.returncode == 1, done.stderr
    (path,) = json.loads(done.stdout)["saved"]
    return Path(path)


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_fuzz_saves_what_replay_reproduces(tmp_path: Path) -> None:
    path = found(tmp_path)
    done = fuzzvm("replay", str(path))
    assert done.returncode == 0
    assert "use-after-free" in done.stdout
    assert fuzzvm("replay", str(tmp_path), "--json").returncode == 0


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    done = fuzzvm("fuzz", "-m", "none", "-m", "mmap-lock-always", "--runs", "600", "--corpus", str(tmp_path), "--json")
    data = json.loads(done.stdout)
    assert done.stderr == ""
    assert {"verdict", "bug", "runs", "steps", "seconds", "runs_to_first_bug", "saved"} <= set(data)
    assert data["verdict"] == "bug"
    assert [search["verdict"] for search in data["searches"]] == ["bug", "safe"]
    for command in (["mitigations"], ["scenarios"]):
        assert json.loads(fuzzvm(*command, "--json").stdout)


def test_safe_is_status_0_and_claims_can_be_what_counts(tmp_path: Path) -> None:
    corpus = ("--corpus", str(tmp_path))
    assert fuzzvm("fuzz", "-m", "mmap-lock-always", "--runs", "300", *corpus).returncode == 0
    assert fuzzvm("fuzz", "-m", "none", "--runs", "5000", "--expect-claims", *corpus).returncode == 0
    # 1 run cannot be enough to find the bug that is claimed
    assert fuzzvm("fuzz", "-m", "static-key-enable", "--runs", "1", "--expect-claims", *corpus).returncode == 1


def test_explain_and_minimize(tmp_path: Path) -> None:
    path = found(tmp_path)
    story = fuzzvm("explain", str(path))
    assert story.returncode == 0
    assert "BUG: use-after-free" in story.stdout
    assert story.stdout.rstrip().endswith(f"Replay: fuzzvm replay {path}")
    assert json.loads(fuzzvm("explain", str(path), "--json").stdout)["bug"].startswith("use-after-free")
    smaller = tmp_path / "out" / "smaller.toml"
    done = fuzzvm("minimize", str(path), "-o", str(smaller))
    assert done.returncode == 0, done.stderr
    assert fuzzvm("replay", str(smaller)).returncode == 0


def test_a_case_that_goes_otherwise_is_status_1(tmp_path: Path) -> None:
    path = found(tmp_path)
    path.write_text(path.read_text().replace('mitigation = "none"', 'mitigation = "config-off"'))
    done = fuzzvm("replay", str(tmp_path))
    assert done.returncode == 1
    assert "no longer replays" in done.stdout or "expected" in done.stdout


def test_own_mitigation(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BUGGY)
    done = fuzzvm("fuzz", "-m", "./mine.py:Mine", "--runs", "5000", "--corpus", "c", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (path,) = json.loads(done.stdout)["saved"]
    assert "--mitigation ./mine.py:Mine" in one_line_error(fuzzvm("replay", path, cwd=tmp_path))
    again = fuzzvm("replay", path, "--mitigation", "./mine.py:Mine", cwd=tmp_path)
    assert again.returncode == 0, again.stderr


@pytest.mark.product
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class Mine: pass", "not a subclass"),
        ("import nothing_like_this", "mine.py:1: ModuleNotFoundError"),
        ("x = (", "mine.py:1"),
        ("y = 1", "no class 'Mine'"),
        (BUGGY + "    def before_free(self, k, level, token):\n        yield 3\n", "mine.py:6: yielded 3"),
        (
            BUGGY + "    def before_free(self, k, level, token):\n        yield from ()\n        1 / 0\n",
            "mine.py:7: ZeroD",
        ),
    ],
)
def test_a_broken_mitigation_is_one_line_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    done = fuzzvm("fuzz", "-m", "mine.py:Mine", "--runs", "500", "--corpus", "c", cwd=tmp_path)
    assert message in one_line_error(done)


@pytest.mark.product
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fuzz", "-m", "nope"), "no mitigation 'nope'; there are config-off"),
        (("fuzz", "-s", "nope"), "no scenario 'nope'; there are 16k-promotion"),
        (("verify", "-s", "missing.toml"), "missing.toml: No such file or directory"),
        (("fuzz", "-e", "nope"), "'nope' is not one of"),
        (("fuzz", "-m", "missing.py:X"), "missing.py: no such file"),
        (("fuzz", "--seconds", "0"), "--seconds"),
        (("fuzz", "--frobnicate"), "--frobnicate"),
        (("frobnicate",), "frobnicate"),
        (("replay", "missing.toml"), "missing.toml: no such file or folder"),
        (("replay",), "PATH"),
        (("explain", "missing.toml"), "missing.toml"),
        (("minimize", "missing.toml"), "missing.toml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in one_line_error(fuzzvm(*arguments, cwd=tmp_path))


def test_a_corpus_that_cannot_be_written_is_said_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("a file")
    # the time of a command that searches first is up before it could say so
    one_line_error(fuzzvm("fuzz", "-m", "mmap-lock-always", "--seconds", "900", "--corpus", str(tmp_path / "corpus")))
    if os.geteuid() != 0:
        read_only = tmp_path / "read-only"
        read_only.mkdir(mode=0o500)
        assert "Permission denied" in one_line_error(fuzzvm("fuzz", "-m", "none", "--corpus", str(read_only)))


@pytest.mark.product
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("engine", ["pct", "hypothesis", "atheris"])
def test_ctrl_c_ends_cleanly(tmp_path: Path, engine: str, number: signal.Signals) -> None:
    if engine == "atheris":
        pytest.importorskip("atheris")
    scheme, has_begun = tells_that_it_runs(tmp_path)
    arguments = ("fuzz", "-m", scheme, "-e", engine, "--seconds", str(FOREVER), "--corpus", str(tmp_path / "corpus"))
    with subprocess.Popen(
        [sys.executable, "-m", "fuzzvm", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_sigint,
    ) as process:
        wait_until(lambda: has_begun() or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in err
    # the scheme runs before the search does, when it is loaded: until then there is nothing to show
    assert scheme in out or not out


ENDLESS = """
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Rmw
class Mine(Mitigation):
    name = "mine"
    def attach(self, boot):
        self.word = boot.word("word")
    def before_free(self, k, level, token):
        while True:
            yield Rmw(self.word, lambda old: old)
"""


@pytest.mark.slow
def test_a_scheme_that_never_ends_is_found_saved_and_replayed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(ENDLESS)
    own = ("--mitigation", "mine.py:Mine")
    arguments = ("-s", "pmd-promotion", "--memory", "sc", "--runs", "1", "--corpus", "c", "--json")
    done = fuzzvm("fuzz", *own, *arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert data["bug"] == "no-progress"
    again = fuzzvm("replay", data["saved"][0], *own, cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    # its lambda must not make the run look different in another process
    digests = {
        json.loads(fuzzvm("explain", data["saved"][0], *own, "--json", cwd=tmp_path).stdout)["digest"] for _ in "ab"
    }
    assert len(digests) == 1


def test_help_and_version() -> None:
    assert "Exit status" in fuzzvm("--help").stdout
    assert fuzzvm("--version").stdout.startswith("fuzzvm, version")
    for command in ("fuzz", "replay", "minimize", "explain", "mitigations", "scenarios"):
        done = fuzzvm(command, "--help")
        assert done.returncode == 0
        assert "Usage" in done.stdout
