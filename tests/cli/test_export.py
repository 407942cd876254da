"""`fuzzvm export`: what it writes where, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzzvm.litmus import run

ROOT = Path(__file__).resolve().parents[2]
REGRESSIONS = ROOT / "corpus" / "regressions"


def fuzzvm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fuzzvm", "export", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def race() -> Path:
    paths = sorted(REGRESSIONS.glob("none-use-after-free-read-*.toml"))
    return next(path for path in paths if 'arch = "arm64"' in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("form", "begins"), [("litmus", "AArch64 none-"), ("lkmm", "C none-"), ("promela", "/*\n")])
def test_writes_to_stdout_or_a_file(form: str, begins: str, tmp_path: Path) -> None:
    done = fuzzvm(str(race()), "--to", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(begins)
    out = tmp_path / "out"
    written = fuzzvm(str(race()), "--to", form, "-o", str(out))
    assert (written.returncode, written.stdout) == (0, f"written: {out}\n")
    assert out.read_text(encoding="utf-8") == done.stdout
    if form == "litmus":
        assert run(done.stdout, "out").observation == "Sometimes"


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("static-key-tlb-conflict", ("--to", "litmus"), "tlb-conflict is no question"),
        ("config-off", ("--to", "lkmm"), "no counterpart"),
        ("none-use-after-free-read", ("--to", "promela", "--max-states", "5"), "more than 5 states"),
    ],
)
def test_refuses_with_one_line(name: str, options: tuple[str, ...], why: str) -> None:
    done = fuzzvm(str(sorted(REGRESSIONS.glob(f"{name}*.toml"))[0]), *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and why in done.stderr


def test_a_mitigation_of_a_file_must_be_given(tmp_path: Path) -> None:
    scheme = tmp_path / "mine.py"
    scheme.write_text("from fuzzvm.mitigations.none import NoMitigation\n\n\nclass Mine(NoMitigation):\n    pass\n")
    case = tmp_path / "case.toml"
    case.write_text(race().read_text().replace('mitigation = "none"', f'mitigation = "{scheme}:Mine"'))
    refused = fuzzvm(str(case), "--to", "litmus")
    assert refused.returncode == 2 and "--mitigation" in refused.stderr
    assert fuzzvm(str(case), "--to", "litmus", "--mitigation", f"{scheme}:Mine").returncode == 0
