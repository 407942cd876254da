"""`fuzzvm verify --checkpoint` and `--resume`: processes that are killed, signals, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clock import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
RUN = ("verify", "-m", "static-key", "-s", "tlb-promotion", "--memory", "tso")

DIES = """
import os, signal, sys
from fuzzvm.exhaustive import limits, stages
from fuzzvm.exhaustive.checkpoint import keeper, store
limits.FIRST_LOOK = limits.CHECK_EVERY = 8
stages.SHALLOW = 50
keeper.SHARE = float("inf")
keeper.DiskKeeper.__init__.__kwdefaults__["seconds"] = 0.0
left, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))
do = store.Store._do

def and_die(self, statement, *values):
    global left
    do(self, statement, *values)
    left -= 1
    if not left:
        os.kill(os.getpid(), number)

store.Store._do = and_die
from fuzzvm.cli.main import main
main()
"""
"""A command that takes small steps, and sends itself a signal after so many statements that it has written with."""


def run(folder: Path, *arguments: str, left: int = 0, number: int = signal.SIGKILL) -> subprocess.CompletedProcess[str]:
    """Run a command that dies so; 0 for one that does not."""
    return subprocess.run(
        [sys.executable, "-P", "-c", DIES, str(left), str(int(number)), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def only(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one run that a command has printed."""
    (found,) = json.loads(done.stdout)["runs"]
    assert isinstance(found, dict)
    return found


@pytest.mark.always
def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_verdict(tmp_path: Path) -> None:
    whole = only(run(tmp_path, *RUN, "--json"))
    done = run(tmp_path, *RUN, "--checkpoint", "run", "--json", left=23)
    assert done.returncode == -signal.SIGKILL
    for left in (5, 38, 61):
        done = run(tmp_path, "verify", "--resume", "run", "--json", left=left)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = run(tmp_path, "verify", "--resume", "run", "--json")
    assert done.returncode == 0
    assert "static-key, tlb-promotion, tso: " in done.stderr
    found = only(done)
    for name in ("verdict", "states", "transitions", "complete", "schedule", "expected", "as_expected"):
        assert found[name] == whole[name], name


def test_signals_write_a_last_checkpoint(tmp_path: Path) -> None:
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)):
        name = f"run-{number}"
        done = run(tmp_path, *RUN, "--checkpoint", name, left=20, number=number)
        assert done.returncode == status, done.stderr
        assert f"fuzzvm verify --resume {name} goes on" in done.stderr
        assert " states, main search" in done.stderr
        assert run(tmp_path, "verify", "--resume", name).returncode == 0


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, *RUN, "--checkpoint", "run", left=20)
    there = (tmp_path / "run").read_bytes()
    for arguments, why in (
        ((*RUN, "--checkpoint", "run"), "run: there already: name a new file"),
        (("verify", "--resume", "run", "-m", "none"), "--resume and --mitigation exclude each other"),
        (("verify", "--resume", "run", "--checkpoint", "more"), "--resume and --checkpoint exclude each other"),
        ((*RUN[:-2], "--checkpoint", "more"), "--checkpoint keeps one run, and these options choose 3"),
        ((*RUN, "--all-errors", "--checkpoint", "more"), "--checkpoint and --all-errors exclude each other"),
        (("verify", "--image", ".", "--checkpoint", "more"), "--checkpoint and --image exclude each other"),
        (("verify", "--resume", "none"), "none: No such file or directory"),
        (("verify", "--resume", "text"), "text: damaged, or no checkpoint: file is not a database"),
    ):
        (tmp_path / "text").write_text("what somebody sent, " * 500)
        done = run(tmp_path, *arguments)
        assert done.returncode == 2, arguments
        assert why in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "run").read_bytes() == there
    assert not (tmp_path / "more").exists()


WAITS = """
from dataclasses import dataclass

import helper
from fuzzvm.kernel.hooks import Mitigation
from fuzzvm.machine.ops import Await, Store


@dataclass(frozen=True)
class Zero:
    cpu: int

    def __call__(self, value):
        return value == 0

    def blocked_by(self, value):
        return () if value == 0 else (self.cpu,)


class Waits(Mitigation):
    name = "waits"

    def attach(self, boot):
        self.busy = tuple(boot.word(f"busy{cpu}") for cpu in range(boot.nr_cpus))
        self.idle = tuple(boot.word(f"idle{cpu}") for cpu in range(boot.nr_cpus))

    def before_free(self, k, level, token):
        words = self.busy if helper.RIGHT else self.idle
        cpu = 0
        while cpu < len(words):
            yield Await(words[cpu], Zero(cpu))
            cpu += 1

    def before_walk(self, k, mm):
        yield Store(self.busy[k.cpu], 1)
        yield Store(self.idle[k.cpu], 0)

    def after_walk(self, k, mm, token):
        yield Store(self.busy[k.cpu], 0)
"""


@pytest.mark.always
def test_other_code_in_a_module_that_the_scheme_imports_is_refused(tmp_path: Path) -> None:
    """The numbers of states and responses are the same with both; what is waited for is not."""
    (tmp_path / "waits.py").write_text(WAITS)
    (tmp_path / "helper.py").write_text("RIGHT = True\n")
    cell = ("-m", "./waits.py:Waits", "-s", "pmd-promotion", "--memory", "sc", "--no-reduction")
    run(tmp_path, "verify", *cell, "--max-states", "244", "--checkpoint", "run")
    (tmp_path / "helper.py").write_text("RIGHT = False\n")
    done = run(tmp_path, "verify", "--resume", "run")
    assert done.returncode == 2
    assert "run: a program does something else now; begin the run again" in done.stderr
    (tmp_path / "helper.py").write_text("RIGHT = True\n")
    assert only(run(tmp_path, "verify", "--resume", "run", "--json"))["verdict"] == "safe"
