"""The stand-alone entry point of Atheris."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fuzzvm.corpus.format import read
from fuzzvm.corpus.replay import replay
from tests.clock import FOREVER

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "harnesses/fuzz_schedule.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_finds_the_race_and_keeps_it(tmp_path: Path) -> None:
    arguments = ("--mitigation", "none", "--scenario", "pmd-promotion", "--seconds", str(FOREVER), "--json")
    ran = fuzz(*arguments, "--corpus", str(tmp_path))
    assert ran.returncode == 1, ran.stderr
    (saved,) = json.loads(ran.stdout)["saved"]
    assert replay(read(Path(saved))).as_expected


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_bad_input_is_one_line() -> None:
    ran = fuzz("--mitigation", "nonesuch")
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1 and "nonesuch" in ran.stderr
